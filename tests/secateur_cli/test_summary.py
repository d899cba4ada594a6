"""The table that ends a run: within 80 columns nothing in it is cut short, whatever was measured."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from reports_for_tests import full_report
from secateur_cli.summary import summary


@pytest.mark.parametrize(
    ("ratio", "lower", "upper", "said"),
    [
        (1.0007, 0.99873, 1.00231, "1.00x, not faster"),
        (0.9951, 0.99213, 0.99874, "0.9951x, slower"),
        (2.161, 2.15, 2.18, "2.16x, faster"),
        (1.0043, 1.0021, 1.0067, "1.0043x, faster"),
    ],
)
@pytest.mark.parametrize("milliseconds", [0.0712, 712.3, 1234.5])
def test_no_label_and_no_number_is_cut_short(
    ratio: float, lower: float, upper: float, said: str, milliseconds: float
) -> None:
    report = full_report()
    report["accuracy"][1]["stage"] = "batch norm recalibrated"
    for row in report["onnx"]["benchmark"]["comparisons"]:
        row |= {"ratio": ratio, "lower": lower, "upper": upper, "faster": lower > 1, "slower": upper < 1}
        for side in ("dense", "pruned"):
            row[side] |= {"median_ms": milliseconds}
    printed = io.StringIO()
    Console(file=printed, width=80).print(summary("curves", report))
    text = printed.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert max(map(len, text.splitlines())) <= 80
    for whole in (
        "  batch norm recalibrated ",
        said,
        *(f"{end:.4f}" for end in (lower, upper) if ratio < 2),
    ):
        assert whole in text
