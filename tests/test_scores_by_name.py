"""Any criterion by its name, through one function."""

from __future__ import annotations

import pytest
import torch

from networks_for_tests import Residual
from secateur import channel_groups, collect_scores, gradient_scores, reconstruction_scores, weight_scores
from secateur.criteria import CRITERIA, GRADIENT_CRITERIA, GROUP_CRITERIA, WEIGHT_CRITERIA
from secateur.errors import ConfigError, DataError
from secateur.scoring import scores_by_name

BATCHES = [(torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4)]


@pytest.mark.parametrize("name", [*CRITERIA, *WEIGHT_CRITERIA, *GRADIENT_CRITERIA, *GROUP_CRITERIA])
@pytest.mark.filterwarnings("ignore::secateur.errors.SecateurWarning")
def test_it_is_the_function_for_what_the_criterion_reads(name: str) -> None:
    net = Residual().eval()
    groups = channel_groups(net, BATCHES[0][0])
    if name in CRITERIA:
        expected = collect_scores(net, BATCHES, name, tap="bn", samples=8)
    elif name in WEIGHT_CRITERIA:
        expected = weight_scores(net, name, example_inputs=BATCHES[0][0])
    elif name in GRADIENT_CRITERIA:
        expected = gradient_scores(net, BATCHES, name, samples=8)
    else:
        expected = reconstruction_scores(net, groups, BATCHES, samples=8)
    found = scores_by_name(net, BATCHES, name, tap="bn", samples=8, groups=groups)
    assert dict(found.settings) == dict(expected.settings)
    assert all(torch.equal(found[layer], expected[layer]) for layer in expected)
    assert list(found) == list(expected)


def test_options_reach_the_criterion() -> None:
    assert scores_by_name(Residual(), BATCHES, "random", options={"seed": 7}).settings["options"] == {"seed": 7}
    net, own = Residual(), {"labels": 0.5, "rows": 500, "samples": 12}
    found = scores_by_name(net, BATCHES, "reconstruction", options=own, groups=channel_groups(net, BATCHES[0][0]))
    assert found.settings["options"] == {"ridge": 1e-2, "memory": 2**31, "relative": True, **own}
    assert found.settings["samples"] == 12


def test_bad_names_and_data_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown criterion 'fpmg'; did you mean 'fpgm'\?"):
        scores_by_name(Residual(), BATCHES, "fpmg")
    with pytest.raises(ConfigError, match="option of the criterion 'l1'"):
        scores_by_name(Residual(), BATCHES, "l1", options={"rho": 1})
    with pytest.raises(ConfigError, match="'reconstruction' scores groups of channels: give groups="):
        scores_by_name(Residual(), BATCHES, "reconstruction")
    with pytest.raises(DataError, match="batches are empty"):
        scores_by_name(Residual(), [], "l1")
