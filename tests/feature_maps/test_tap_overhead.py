"""The benchmark of the tap runs and prints its table; the bound holds on a quiet machine and is not tested here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "tap_overhead.py"


@pytest.mark.slow
def test_the_benchmark_prints_a_ratio_for_each_network() -> None:
    command = [sys.executable, str(SCRIPT), "--smoke", "--threads", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert result.returncode == 0, result.stderr
    assert re.findall(r"^(\w+) .* \d+\.\d{3} +\d+\.\d{3} to \d+\.\d{3}$", result.stdout, re.M) == [
        "resnet56",
        "resnet50",
    ]
