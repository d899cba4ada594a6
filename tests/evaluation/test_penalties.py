"""What an image costs where outputs are infinite."""

from __future__ import annotations

from math import inf, log, nan

import pytest
import torch

from secateur.evaluation.penalties import penalties, wanted_outputs


@pytest.mark.parametrize(
    ("dense", "outputs", "expected"),
    [
        ([0.0, -inf], [0.0, 0.0], log(2)),  # a class that the dense network rules out
        ([0.0, -inf], [0.0, -inf], 0.0),
        ([0.0, -800.0], [0.0, -inf], 0.0),
        ([0.0, 0.0], [0.0, -inf], inf),
        ([0.0, 0.0], [inf, inf], nan),  # overflown
        ([0.0, 0.0], [inf, 0.0], nan),
        ([inf, 0.0], [0.0, 0.0], nan),
    ],
)
def test_infinite_outputs_are_faithful_only_where_the_dense_ones_are(
    dense: list[float], outputs: list[float], expected: float
) -> None:
    wanted = wanted_outputs("fidelity", torch.tensor([dense]), None)
    found = penalties("fidelity", torch.tensor([outputs]), wanted).values
    assert found.tolist() == pytest.approx([expected], nan_ok=True)
