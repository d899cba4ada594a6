"""Any criterion by its name, through one function."""

from __future__ import annotations

import pytest
import torch

from networks_for_tests import Residual
from secateur import collect_scores, gradient_scores, weight_scores
from secateur.criteria import CRITERIA, GRADIENT_CRITERIA, WEIGHT_CRITERIA
from secateur.errors import ConfigError, DataError
from secateur.scoring import scores_by_name

BATCHES = [(torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4)]


@pytest.mark.parametrize("name", [*CRITERIA, *WEIGHT_CRITERIA, *GRADIENT_CRITERIA])
def test_it_is_the_function_for_what_the_criterion_reads(name: str) -> None:
    net = Residual().eval()
    if name in CRITERIA:
        expected = collect_scores(net, BATCHES, name, tap="bn", samples=8)
    elif name in WEIGHT_CRITERIA:
        expected = weight_scores(net, name, example_inputs=BATCHES[0][0])
    else:
        expected = gradient_scores(net, BATCHES, name, samples=8)
    found = scores_by_name(net, BATCHES, name, tap="bn", samples=8)
    assert dict(found.settings) == dict(expected.settings)
    assert all(torch.equal(found[layer], expected[layer]) for layer in expected)
    assert list(found) == list(expected)


def test_options_reach_the_criterion() -> None:
    assert scores_by_name(Residual(), BATCHES, "random", options={"seed": 7}).settings["options"] == {"seed": 7}


def test_bad_names_and_data_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown criterion 'fpmg'; did you mean 'fpgm'\?"):
        scores_by_name(Residual(), BATCHES, "fpmg")
    with pytest.raises(ConfigError, match="option of the criterion 'l1'"):
        scores_by_name(Residual(), BATCHES, "l1", options={"rho": 1})
    with pytest.raises(DataError, match="batches are empty"):
        scores_by_name(Residual(), [], "l1")
