"""The benchmark of the tap runs and prints its table; the bound holds on a quiet machine and is not tested here."""

from __future__ import annotations

import re
from pathlib import Path

from started_for_tests import Started

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "tap_overhead.py"


def test_the_benchmark_prints_a_ratio_for_each_network(tmp_path: Path) -> None:
    code, printed, complained = Started(SCRIPT, "--smoke", "--threads", "1", folder=tmp_path, output=tmp_path).wait()
    assert code == 0, complained
    assert re.findall(r"^(\w+) .* \d+\.\d{3} +\d+\.\d{3} to \d+\.\d{3}$", printed, re.M) == [
        "resnet56",
        "resnet50",
    ]
