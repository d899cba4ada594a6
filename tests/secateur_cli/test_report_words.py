"""What the report says of speeds, agreement, shares and amounts."""

from __future__ import annotations

import pytest

from references import wilson_bounds
from reports_for_tests import full_report
from secateur_cli.report.verdict import agreement, verdict
from secateur_cli.wording import amount, speed, spread, wilson_interval


@pytest.mark.parametrize(
    ("lower", "upper", "said"),
    [
        (1.2, 1.4, ("1.30 times as fast", "95% interval 1.20 to 1.40")),
        (1.001, 1.4, ("1.3000 times as fast", "95% interval 1.0010 to 1.4000")),
        (1.0, 1.4, ("not faster", "1.3000 times the speed, 95% interval 1.0000 to 1.4000")),
        (0.7, 0.9, ("slower", "1.30 times the speed, 95% interval 0.70 to 0.90")),
        (0.7, None, ("\N{EN DASH}", "\N{EN DASH}")),
    ],
)
def test_faster_only_where_the_interval_excludes_one(lower: float, upper: float, said: tuple[str, str]) -> None:
    comparison = {"ratio": 1.3, "lower": lower, "upper": upper, "confidence": 0.95}
    assert (speed(comparison), spread(comparison)) == said


def test_failed_parity_is_said_first_hand() -> None:
    parity = full_report()["onnx"]["parity"] | {"passed": False, "max_relative": 0.02, "top1_agreement": 0.75}
    assert agreement(parity) == (
        "The ONNX file does not compute what torch computes: the largest difference is 0.02 of the largest output, "
        "0.0001 is allowed; top-1 agrees on 300 of 400 images."
    )


def test_dense_network_alone_is_not_called_pruned() -> None:
    stages = full_report()["accuracy"][:1]
    assert verdict({"accuracy": stages}) == ["The network (dense) reaches 98.5% top-1 on 400 held-out images."]


@pytest.mark.parametrize("trials", [1, 7, 400])
def test_wilson_interval_is_its_twin(trials: int) -> None:
    for right in range(trials + 1):
        low, high = wilson_interval(right / trials, trials)
        expected = wilson_bounds(right / trials, trials)
        assert low == pytest.approx(expected[0], abs=1e-9)
        assert high == pytest.approx(expected[1], abs=1e-9)
        assert low <= right / trials <= high


def test_amounts_keep_three_digits() -> None:
    given = (0, 7, 999, 1000, 5_930_000, 999_499, 999_500, 4.09e9, 2.5)
    assert [amount(v) for v in given] == [
        "0", "7", "999", "1.00 k", "5.93 M", "999 k", "1.00 M", "4.09 G", "2.50",
    ]  # fmt: skip
