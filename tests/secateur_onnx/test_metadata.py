"""What a file says of itself: put in, read back, and refused where there is no file to ask."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import secateur
from secateur.errors import CheckpointError, ConfigError
from secateur.records import PruningPlan, ScoreTable
from secateur.records.plan import Spent
from secateur_onnx import benchmark, create_session, export, plan_metadata, read_metadata
from secateur_onnx.metadata import stored_bytes

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def plan_of(network: nn.Module, *, curves: bool) -> PruningPlan:
    groups = secateur.channel_groups(network, IMAGES)
    scores: ScoreTable = secateur.collect_scores(network, [IMAGES], "hrank")
    cost = secateur.MacsCost(network, IMAGES, groups)
    if not curves:
        return secateur.uniform_plan(groups, scores, cost, "60%", round_to=1)
    errors = secateur.reconstruction_scores(network, groups, [IMAGES], order=scores)
    return secateur.curve_plan(groups, errors, cost, "60%", round_to=1)


@pytest.mark.filterwarnings("ignore::secateur.errors.SecateurWarning")  # four images are few
@pytest.mark.parametrize(("curves", "search"), [(False, "uniform"), (True, "curves")])
def test_a_file_tells_the_plan_it_comes_from(tmp_path: Path, network: nn.Sequential, curves: bool, search: str) -> None:
    """With error curves too it is the criterion that ordered the channels which is named."""
    plan = plan_of(network, curves=curves)
    path = export(secateur.apply_plan(network, plan), IMAGES, tmp_path / "m.onnx", metadata=plan_metadata(plan)).path
    about = read_metadata(path)
    assert set(about) == {"plan", "criterion", "search", "budget", "versions"}
    assert (about["plan"], about["criterion"], about["search"]) == (plan.fingerprint, "hrank", search)
    assert about["budget"] == {
        "macs": {"before": plan.cost_before, "after": plan.cost_after, "budget": plan.budget},
    }
    assert torch.__version__.startswith(about["versions"]["torch"])
    assert create_session(path).get_modelmeta().custom_metadata_map["plan"] == plan.fingerprint


def test_several_budgets_and_a_torch_pruning_importance(network: nn.Sequential) -> None:
    plan = secateur.prune(network, IMAGES, secateur.WeightImportance("l1")).plan
    about = plan_metadata(plan)
    assert about["criterion"] == "WeightImportance"
    assert about["budget"] == {"parameters": {"before": plan.cost_before, "after": plan.cost_after}}, "none was given"
    two = PruningPlan((), {}, "macs", 8.0, 4.0, 4.0, further={"bytes": Spent(6.0, 2.0, 3.0)})
    assert plan_metadata(two) == {
        "plan": two.fingerprint,
        "budget": {
            "macs": {"before": 8.0, "after": 4.0, "budget": 4.0},
            "bytes": {"before": 6.0, "after": 2.0, "budget": 3.0},
        },
    }


@pytest.mark.parametrize(
    ("variant", "criterion", "said"), [("low", "di", None), ("edge", "di", "edge"), ("random", None, "random")]
)
def test_an_ablation_is_told(variant: str, criterion: str | None, said: str | None) -> None:
    settings = {"search": "uniform", "variant": variant, "scores": {"criterion": "di"}}
    about = plan_metadata(PruningPlan((), {}, "macs", 8.0, 4.0, 4.0, settings=settings))
    assert (about.get("criterion"), about.get("variant")) == (criterion, said)


def test_files_that_say_nothing(tmp_path: Path, dense_file: Path) -> None:
    truncated, foreign, empty = tmp_path / "truncated.onnx", tmp_path / "foreign.onnx", tmp_path / "empty.onnx"
    truncated.write_bytes(dense_file.read_bytes()[:700])
    foreign.write_bytes(b"this is a letter, not a network")
    empty.write_bytes(b"")
    for path in (truncated, foreign, empty, tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(CheckpointError, match=path.name):
            read_metadata(path)


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"plan": {"weights": torch.ones(1)}}, "not JSON serializable"),
        ({"plan": [{1}]}, "not JSON serializable"),
        ({"worth": [float("nan")]}, "not JSON compliant"),
        ({"note": "half of a pair: \ud83d"}, "surrogates not allowed"),
        (["plan"], "sequence"),
    ],
)
def test_what_is_no_plain_data_is_refused_before_any_work(tmp_path: Path, about: Any, reason: str) -> None:
    network = nn.Linear(3, 2)
    network.register_forward_pre_hook(lambda *_: pytest.fail("it was run"))
    with pytest.raises(ConfigError, match=f"must be plain data: .*{reason}"):
        export(network, torch.zeros(1, 3), tmp_path / "linear.onnx", metadata=about)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("note", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000])
def test_brackets_without_end_stay_the_text_they_are(tmp_path: Path, note: str) -> None:
    path = export(nn.Linear(3, 2), torch.zeros(1, 3), tmp_path / "linear.onnx", metadata={"note": note}).path
    assert read_metadata(path)["note"] == note
    timed = benchmark(path, path, batch_sizes=(1,), rounds=6, seconds=0.01, memory=False)
    assert timed.dense.metadata["note"] == note


def test_text_that_is_none_is_named(tmp_path: Path) -> None:
    path = export(nn.Linear(3, 2), torch.zeros(1, 3), tmp_path / "linear.onnx", metadata={"note": "abcd"}).path
    path.write_bytes(path.read_bytes().replace(b"abcd", b"ab\xff\xfe"))
    with pytest.raises(
        CheckpointError, match=r"linear\.onnx is (damaged: what it says of itself is no text|truncated)"
    ):
        read_metadata(path)


def test_a_file_may_have_any_name(tmp_path: Path, dense_file: Path) -> None:
    """onnx reads JSON or text where a name says so; here a file is what is in it."""
    for name in ("model.json", "model.pbtxt"):
        size = shutil.copy(dense_file, tmp_path / name).stat().st_size
        assert stored_bytes(tmp_path / name) == size
        assert "versions" in read_metadata(tmp_path / name)


def test_a_file_in_the_own_format_of_onnxruntime_is_named(tmp_path: Path, dense_file: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "dense.ort")
    onnxruntime.InferenceSession(str(dense_file), options, providers=["CPUExecutionProvider"])
    with pytest.raises(CheckpointError, match=r"dense\.ort is (truncated or no ONNX file|no ONNX file)"):
        benchmark(tmp_path / "dense.ort", dense_file)


def test_weights_in_a_file_beside_it_count(tmp_path: Path, dense_file: Path) -> None:
    model = onnx.load(str(dense_file))
    beside: dict[str, Any] = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 1000}
    onnx.save_model(model, str(tmp_path / "two.onnx"), **beside)
    sizes = [(tmp_path / name).stat().st_size for name in ("two.onnx", "weights.bin")]
    assert stored_bytes(tmp_path / "two.onnx") == sum(sizes) > sizes[0] + 1000
    timed = benchmark(tmp_path / "two.onnx", dense_file, batch_sizes=(1,), rounds=6, seconds=0.01, memory=False)
    assert (timed.dense.file_bytes, timed.pruned.file_bytes) == (sum(sizes), dense_file.stat().st_size)
