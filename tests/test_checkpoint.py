"""Saved networks come back the same, in a fresh process too, and files that do not fit are refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur import checkpoint
from secateur.checkpoint import load_plan, load_pruned, load_weights, save_pruned
from secateur.errors import CheckpointError
from secateur.networks import digits_resnet
from secateur.records import ChannelGroup, Member, PruningPlan

INPUTS = torch.linspace(0, 1, 2 * 64).reshape(2, 1, 8, 8)


class Mixed(nn.Module):
    """A lone parameter, a buffer outside the state dict, a layer norm, and a group convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.mean = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 3)
        self.register_buffer("gain", torch.tensor(0.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.depthwise(self.conv(x))).relu() * self.scale * self.gain
        logits: Tensor = self.linear(self.mean(x.mean((2, 3))))
        return logits


def plan(kept: tuple[int, ...] = (0, 2)) -> PruningPlan:
    member = Member("conv", "producer", ((0,), (1,), (2,)))
    group = ChannelGroup("conv", 3, (member,))
    return PruningPlan((group,), {"conv": kept}, "macs", 9.0, 6.0, 6.0, settings={"criterion": "hrank"})


def prune(model: nn.Module) -> nn.Module:
    """Cut a third of everything, and make weights and statistics that no factory gives."""
    importance = tp.importance.MagnitudeImportance()
    ignored = [m for m in model.modules() if isinstance(m, nn.Linear)]
    tp.pruner.BasePruner(model, INPUTS, importance, pruning_ratio=0.34, ignored_layers=ignored).step()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_pruned(prune(digits_resnet()), digits_resnet(), plan(), tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / "plan.json").read_text())
    change(record)
    (folder / "plan.json").write_text(json.dumps(record))


@pytest.mark.filterwarnings("ignore:Unwrapped parameters")
@pytest.mark.parametrize("build", [digits_resnet, Mixed])
def test_a_pruned_network_comes_back_bit_for_bit(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    dense, pruned = build(), prune(build())
    assert pruned.conv1.out_channels == 31 if build is digits_resnet else pruned.depthwise.groups < 8
    save_pruned(pruned, dense, plan(), tmp_path)
    again = load_pruned(build, tmp_path)
    assert torch.equal(again(INPUTS), pruned(INPUTS))
    assert not again.training
    assert str(again) == str(pruned)  # every module says the same about its own sizes
    assert all(torch.equal(value, pruned.state_dict()[name]) for name, value in again.state_dict().items())
    again.train()(INPUTS).sum().backward()  # and it can be trained on
    assert load_plan(tmp_path) == plan()


def test_a_fresh_process_needs_only_the_factory(tmp_path: Path) -> None:
    pruned = prune(digits_resnet())
    save_pruned(pruned, digits_resnet(), plan(), tmp_path)
    torch.save(INPUTS, tmp_path / "inputs.pt")
    code = (
        "import sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from secateur.checkpoint import load_pruned\n"
        "from secateur.networks import digits_resnet\n"
        "model = load_pruned(digits_resnet, sys.argv[1])\n"
        "torch.save(model(torch.load(sys.argv[1] + '/inputs.pt')).detach(), sys.argv[1] + '/outputs.pt')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)
    assert torch.equal(torch.load(tmp_path / "outputs.pt"), pruned(INPUTS).detach())


def test_half_precision_and_frozen_parameters_survive(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).requires_grad_(False)

    save_pruned(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2)).half(), build(), plan(), tmp_path)
    again = load_pruned(build, tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float16}
    assert not any(p.requires_grad for p in again.parameters())


@pytest.mark.filterwarnings("ignore:.*which is a no-op")  # torch's meta device holds no numbers
def test_the_network_lies_where_the_factory_builds_it(saved: Path) -> None:
    again = load_pruned(lambda: digits_resnet().to("meta"), saved)
    assert all(tensor.is_meta for tensor in again.state_dict().values())


def test_tied_parameters_stay_tied(tmp_path: Path) -> None:
    def tied(width: int) -> nn.Module:
        net = nn.Sequential(nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False))
        net[1].weight = net[0].weight
        return net

    pruned = tied(3)
    save_pruned(pruned, tied(5), plan(), tmp_path)
    again = load_pruned(lambda: tied(5), tmp_path)
    assert again[0].weight is again[1].weight
    pruned[1].weight = nn.Parameter(torch.ones(3, 3))  # no longer tied: both values must come back
    save_pruned(pruned, tied(5), plan(), tmp_path)
    again = load_pruned(lambda: tied(5), tmp_path)
    assert torch.equal(again(torch.eye(3)), pruned(torch.eye(3)))


def test_an_interrupted_save_leaves_the_old_one(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def interrupted(*args: object, **kwargs: object) -> None:
        save_file(*args, **kwargs)  # the bytes are there, the end is not
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_pruned(prune(digits_resnet()), digits_resnet(), plan((0,)), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_files_of_two_runs_are_refused(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    save_pruned(prune(digits_resnet()), digits_resnet(), plan((0,)), other)
    (saved / "plan.json").write_bytes((other / "plan.json").read_bytes())
    with pytest.raises(CheckpointError, match="different runs"):
        load_pruned(digits_resnet, saved)


def test_networks_that_differ_in_more_than_size_and_plans_of_no_numbers_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"only one has bias"):
        save_pruned(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), plan(), tmp_path)
    with pytest.raises(CheckpointError, match=r"no module '0' of type ReLU"):
        save_pruned(nn.Sequential(nn.Tanh()), nn.Sequential(nn.ReLU()), plan(), tmp_path)
    odd = replace(plan(), settings={"rate": float("nan")})
    with pytest.raises(CheckpointError, match="plain finite data"):
        save_pruned(digits_resnet(), digits_resnet(), odd, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["plan.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\x80\x04nothing", b"half"])
def test_missing_truncated_and_foreign_files_are_refused(saved: Path, name: str, content: bytes | None) -> None:
    path = saved / name
    data = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(data[: len(data) // 2] if content == b"half" else content)
    with pytest.raises(CheckpointError, match=name):
        load_pruned(digits_resnet, saved)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_pruned(digits_resnet, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(format=2), "format 1"),
        (lambda r: r.pop("structure"), "structure"),
        (lambda r: r.update(shapes=[]), "shapes"),
        (lambda r: r["shapes"].update({"conv1.weight": 3}), "shapes"),
        (lambda r: r["structure"].update({"conv1": 3}), "table of numbers"),
        (lambda r: r["plan"].pop("kept"), "kept"),
        (lambda r: r["structure"].update({"nosuch": {"width": 3}}), "nosuch"),
        (lambda r: r["structure"]["conv1"].update({"forward": 3}), "forward"),
        (lambda r: r["structure"]["conv1"].update({"__class__": 3}), "__class__"),
        (lambda r: r["structure"]["conv1"].update({"training": 1}), "training"),
        (lambda r: r["structure"]["conv1"].update({"bias": 1}), "bias"),
        (lambda r: r["structure"]["conv1"].update({"out_channels": True}), "out_channels"),
        (lambda r: r["structure"]["conv1"].update({"out_channels": "31"}), "out_channels"),
        (lambda r: r["structure"]["conv1"].update({"stride": [1, 1, 1]}), "stride"),
    ],
)
def test_a_plan_that_was_tampered_with_is_refused(
    saved: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit(saved, change)
    with pytest.raises(CheckpointError, match=words):
        load_pruned(digits_resnet, saved)


def test_tensors_that_do_not_fit_are_named(saved: Path) -> None:
    path = saved / "model.safetensors"
    tensors = load_file(path)
    tensors["extra"] = torch.zeros(1)
    tensors["conv1.weight"] = torch.zeros(48, 1, 3, 3)
    tensors["bn1.weight"] = torch.zeros(31, dtype=torch.int64)
    del tensors["linear.bias"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        load_pruned(digits_resnet, saved)
    for words in (
        "1 missing (linear.bias)",
        "1 unexpected (extra)",
        "conv1.weight is (48, 1, 3, 3), not (31, 1, 3, 3)",
    ):
        assert words in str(caught.value)
    assert "bn1.weight is torch.int64" in str(caught.value)


def test_another_factory_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="do not fit the network"):
        load_pruned(lambda: digits_resnet(num_classes=7), saved)


@pytest.mark.parametrize(
    "wrap", [dict, lambda s: {"state_dict": s}, lambda s: {"module." + k: v for k, v in s.items()}]
)
@pytest.mark.parametrize("legacy", [False, True])
def test_weights_are_read_from_torch_state_dicts(tmp_path: Path, wrap: Any, legacy: bool) -> None:
    source, target = digits_resnet(), digits_resnet()
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    load_weights(target, tmp_path / "w.pth")
    assert torch.equal(source.eval()(INPUTS), target.eval()(INPUTS))


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_weights_are_read_from_safetensors_without_counters(tmp_path: Path, name: str) -> None:
    source, target = digits_resnet(), digits_resnet()
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / name)
    load_weights(target, tmp_path / name)
    assert torch.equal(source.eval()(INPUTS), target.eval()(INPUTS))


def test_weights_that_do_not_fit_leave_the_network_alone(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    save_file(
        {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(3), "2.bias": torch.ones(2)}, tmp_path / "w.safetensors"
    )
    with pytest.raises(CheckpointError) as caught:
        load_weights(net, tmp_path / "w.safetensors")
    for words in ("2 missing (1.bias, 1.weight)", "1 unexpected (2.bias)", "0.bias is (3,), not (2,)", "w.safetensors"):
        assert words in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_weights_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    net, path = nn.Linear(1, 1), tmp_path / "w.pth"
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        load_weights(net, path)
    with pytest.raises(CheckpointError, match="cannot read"):
        load_weights(net, tmp_path)
    torch.save(net, path)  # a whole module: loading it would run code
    with pytest.raises(CheckpointError, match=r"w\.pth.*\(Weights only load failed\).*weights_only=True"):
        load_weights(net, path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match="no state dict"):
        load_weights(net, path)
    torch.save({"weight": 3}, path)
    with pytest.raises(CheckpointError, match="no state dict"):
        load_weights(net, path)
    for content in (b"", b"not weights at all", b"PK\x03\x04 nor a zip"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"holds no weights that can be read \(\w.*\); allowed: safetensors"):
            load_weights(net, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "a zip without weights")
    with pytest.raises(CheckpointError, match="allowed: safetensors"):
        load_weights(net, path)
    (tmp_path / "w.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_weights(net, tmp_path / "w.safetensors")
