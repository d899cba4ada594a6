"""Student's t, against what was printed and against the integral of its density."""

from __future__ import annotations

import math

import pytest

from secateur.quantiles import t_quantile

PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 29: 2.045, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize(("freedom", "quantile"), PRINTED.items())
def test_the_printed_table(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_the_density_integrates_to_the_confidence(freedom: int, confidence: float) -> None:
    end, steps = t_quantile(freedom, confidence), 20_000
    scale = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    middles = ((step + 0.5) * end / steps for step in range(steps))
    inside = 2 * sum(scale * (1 + t * t / freedom) ** (-(freedom + 1) / 2) for t in middles) * end / steps
    assert inside == pytest.approx(confidence, abs=1e-5)
