"""Every way to misuse the command: one line that names the thing and what is allowed, and nothing written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from runs_for_tests import User, contents
from secateur_cli.stages import identity, latency, preparation
from started_for_tests import Started

MODULE = """
import sys, threading
import torch
from torch import nn
from secateur_user_data import batches, load
from secateur_user_networks import Flat, Small

def changed(**splits):
    return load() | splits

class Broken:
    def __init__(self, whole):
        self.whole = whole

    def __iter__(self):
        yield from batches(32, 0)[: self.whole]
        raise IndexError("row 7 is broken")

def raises(): raise RuntimeError("the server is down")
def exits(): sys.exit(3)
def gone(): raise FileNotFoundError(2, "No such file or directory", "/data/images.npy")
def empty(): return changed(test=[])
def one_class(): return changed(train=[(x, y * 0) for x, y in batches(32, 0)])
def nan(): return changed(train=[(x * float("nan"), y) for x, y in batches(32, 0)])
def late_nan(): return changed(train=batches(32, 0) + [(x * float("nan"), y) for x, y in batches(16, 0)])
def labels(): return changed(test=[(x, y + 7) for x, y in batches(32, 0)])
def flat(): return changed(train=[(x.flatten(2), y) for x, y in batches(32, 0)])
def every(change): return {k: [(change(x), y) for x, y in batches(32, 0)] for k in ("train", "validation", "test")}
def colour(): return every(lambda x: x.repeat(1, 3, 1, 1))
def narrow(): return every(lambda x: x[..., :1])
def unlabelled(): return changed(train=[x for x, _ in batches(32, 0)])
def once(): return changed(train=iter(batches(32, 0)))
def breaks(): return changed(train=Broken(0))
def breaks_later(): return changed(train=Broken(2))
def number(): return 3

class Named(Small):
    def forward(self, x): return {"logits": super().forward(x)}

class Pair(Small):
    def forward(self, x): return super().forward(x), x

class Raises(Small):
    def forward(self, x): raise KeyError("no such layer")

class Auxiliary(Small):
    def forward(self, x): return (super().forward(x),) * 2 if self.training else super().forward(x)

class RaisesInTraining(Small):
    def forward(self, x): return 1 / 0 if self.training else super().forward(x)

class LeavesInTraining(Small):
    def forward(self, x): return sys.exit(0) if self.training else super().forward(x)

class NotANumber(Small):
    def forward(self, x): return super().forward(x) * float("nan")

class Locked(Small):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

class Talkative(Small):
    def get_extra_state(self): return {"a": 1}
    def set_extra_state(self, state): pass

class Normed(Small):
    def __init__(self):
        super().__init__()
        self.second = nn.utils.parametrizations.weight_norm(self.second)

class Frozen(Small):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)

class Counted(Small):
    def forward(self, x): return super().forward(x.view(len(x), 1, 8, 8))

class Half(Small):
    def __init__(self):
        super().__init__()
        self.half()
"""


@pytest.fixture(scope="session")
def hostile(user: User) -> User:
    """The user's folder with all that can be wrong in it."""
    (user.folder / "secateur_user_wrong.py").write_text(MODULE)
    (user.folder / "secateur_user_syntax.py").write_text("def build(:\n")
    (user.folder / "text.safetensors").write_text("no weights at all")
    weights = torch.nn.Conv2d(1, 4, 3).state_dict()
    save_file(weights, user.folder / "foreign.safetensors")
    whole = (user.folder / "foreign.safetensors").read_bytes()
    (user.folder / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    return user


def network(name: str) -> str:
    return f"network.build=secateur_user_wrong:{name}"


def data(name: str) -> str:
    return f"data.source=secateur_user_wrong:{name}"


def weights(name: str) -> tuple[str, str]:
    return "train=null", f"network.weights={name}"


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("network.build=nowhere_at_all:build",), "no module 'nowhere_at_all'"),
    (("network.build=secateur_user_networks:Smal",), "has no 'Smal'; did you mean 'Small'?"),
    (("network.build=secateur_user_networks",), "it must read 'package.module:callable'"),
    (("network.build=secateur_user_syntax:build",), "importing 'secateur_user_syntax' failed: SyntaxError"),
    ((network("number"),), "returned something of type int; it must be a torch.nn.Module"),
    ((network("exits"),), "failed with no arguments: SystemExit: 3 (secateur_user_wrong.py, line"),
    (("network.arguments={clases: 3}",), "unexpected keyword argument 'clases'; its arguments are (classes=3)"),
    (("network.arguments={classes: 2}",), "the data has 3 classes but the network only 2 outputs"),
    ((network("Named"),), "must return logits (N, classes) for a batch of the data; it returned dict"),
    ((network("Pair"),), "must return logits (N, classes) for a batch of the data; it returned tuple"),
    ((network("Raises"),), "does not run on the data, a batch of shape (2, 1, 8, 8): KeyError: 'no such layer'"),
    ((network("NotANumber"),), "the network returns NaN or infinite values"),
    ((network("Locked"),), "cannot be copied"),
    ((network("Talkative"),), "only tensors can be saved and loaded; the network also has the state _extra_state"),
    ((network("Normed"),), "layer 'second' are computed by a parametrization"),
    ((network("Frozen"),), "cannot be trained; set train: null and fine_tune: null"),
    ((network("Auxiliary"),), "in training mode the network must give one tensor of logits; it gives tuple"),
    ((network("Auxiliary"), "train=null"), "as those with auxiliary classifiers do"),
    ((network("Counted"),), "turns the batch size into a Python number, as len(x) "),
    ((network("Half"),), "does not run on the data"),
    (("network.build=secateur_user_networks:Flat",), "nothing in this network can be pruned"),
    (weights("foreign.safetensors"), "do not fit the network: "),
    (weights("text.safetensors"), "text.safetensors is not a safetensors file"),
    (weights("half.safetensors"), "half.safetensors is not a safetensors file, or it is truncated"),
    (weights("none.safetensors"), "none.safetensors: No such file"),
    (weights("secateur_user_data.py"), "secateur_user_data.py holds no weights that can be read"),
    ((data("raises"),), "failed with no arguments: RuntimeError: the server is down (secateur_user_wrong.py, line"),
    ((data("gone"),), "No such file or directory: '/data/images.npy'"),
    ((data("empty"),), "data split 'test' is empty"),
    ((data("one_class"),), "data split 'train' has images of one class only, 0"),
    ((data("nan"),), "data split 'train': a batch of inputs holds NaN"),
    ((data("late_nan"),), "data split 'calibration': a batch of inputs holds NaN"),
    ((data("labels"),), "data split 'test': labels must be 0..2; found 9"),
    ((data("flat"),), "inputs must be floating (N, C, H, W); found float32 (16, 1, 64)"),
    ((data("colour"),), "does not run on the data, a batch of shape (2, 3, 8, 8)"),
    ((data("narrow"),), "no layer can be scored by 'hrank'"),
    ((data("unlabelled"),), "data split 'train': it has no labels"),
    ((data("once"),), "data split 'train' can be read only once"),
    ((data("breaks"),), "data split 'train': reading it failed: IndexError: row 7 is broken (secateur_user_wrong.py"),
    (("plan.budget.macs=50",), "the budget 50 is ambiguous"),
    (("plan.budget.macs=150%",), "the budget '150%' is out of range"),
    (("plan.budget.flops=50%",), "plan.budget.flops: unknown key; did you mean 'flops2'?"),
    (("plan.budget.macs=flops",), "the budget 'flops' is malformed"),
    (
        ("plan.budget.macs=100G",),
        "every budget is already met by the dense network ('100G' for macs, dense 78.38K MACs)",
    ),
    (("plan.budget.macs=1%",), "but the lowest cost that can be reached is"),
    (("plan.budget.macs=1%", "plan.search=greedy"), "but the lowest cost that can be reached is"),
    (("plan.min_keep=100",), "but the lowest cost that can be reached is"),
    (("plan.bugdet.macs=50%",), "plan.bugdet: unknown key; did you mean 'budget'?"),
    (("plan.ignore=[frist]",), "the network has no layer 'frist'; did you mean first?"),
    (("onnx.provider=tensorrt",), "the provider 'tensorrt' is not part of the installed onnxruntime"),
    (("onnx.batch_sizes=[1,100000000]",), "onnx.batch_sizes: a batch of 100,000,000 images takes at least"),
    (("plan.budget={latency: 50%, batch: 100000000}",), "plan.budget.batch: a batch of 100,000,000 images takes at"),
    (("recover.samples=5000000",), "recover.samples: 5,000,000 images of (1, 8, 8) do not fit into the 1,024 MiB that"),
    (("seed",), "--set 'seed': must be a key and a value"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_bad_input_is_refused_before_anything_is_written(
    hostile: User, tmp_path: Path, settings: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "check_export", latency.check_export)
    code, _, complained = hostile.command(tmp_path / "below" / "run", *settings)
    assert complained.startswith("error: ")
    assert message in complained
    assert complained.count("\n") == 1
    assert code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no configuration file"),
        ("network: {build: 'a:b'\ndata: 3", "line 2, column 1: not YAML"),
        ("", "must be a mapping with the keys network, data, train"),
        ("just text", "must be a mapping with the keys network, data, train"),
        ("network: {build: 'a:b'}", "data: missing; it must be given"),
    ],
)
def test_configurations_that_are_none(user: User, tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    code, _, complained = user.command(tmp_path / "run", config=path)
    assert code == 2
    assert complained.startswith("error: ")
    assert message in complained
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("package", ["onnxruntime", "onnx", "onnxscript"])
def test_a_missing_package_is_told_before_any_work(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    code, said, complained = user.command(tmp_path / "run")
    assert (code, said) == (2, "")
    assert f"the package '{package}' cannot be imported" in complained
    assert 'pip install "secateur[onnx]"' in complained
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("wrong", "message"), [("late_nan", "holds NaN"), ("breaks_later", "row 7")])
def test_bad_data_that_shows_late_leaves_a_folder_that_another_run_may_take(
    hostile: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, message: str
) -> None:
    monkeypatch.setattr(identity, "DIGESTED", 16)
    code, _, complained = hostile.command(tmp_path / "run", data(wrong))
    assert code == 2
    assert complained.startswith("error: data split 'train': ")
    assert message in complained
    assert set(contents(tmp_path / "run")) == {"run.json"}
    assert hostile.command(tmp_path / "run", "train={epochs: 1}")[0] == 0


def test_errors_of_a_user_s_network_come_in_a_line_and_at_length_if_asked_for(hostile: User, tmp_path: Path) -> None:
    code, _, complained = hostile.command(tmp_path / "run", network("RaisesInTraining"))
    assert code == 1
    assert complained.startswith("error: ZeroDivisionError: division by zero (secateur_user_wrong.py, line ")
    assert complained.endswith("in forward; --traceback shows the way there)\n")
    code, _, complained = hostile.command(tmp_path / "run", network("RaisesInTraining"), flags=("--traceback",))
    assert code == 1
    assert "Traceback" in complained
    assert complained.splitlines()[-1].startswith("error: ZeroDivisionError: division by zero")


def test_a_network_that_ends_the_process_is_told(hostile: User, tmp_path: Path) -> None:
    code, _, complained = hostile.command(tmp_path / "run", network("LeavesInTraining"))
    assert code == 1
    assert complained.startswith("error: SystemExit: 0 (secateur_user_wrong.py, line ")


@pytest.mark.parametrize("name", ["run", "search"])
def test_of_several_searches_each_is_rehearsed_before_any_work(user: User, tmp_path: Path, name: str) -> None:
    rates = ("plan.search=[uniform, rates]", "plan.rates='[0.5]+[0.5]*7'")
    code, said, complained = user.command(tmp_path / "out", *rates, name=name)
    assert (code, said) == (2, "")
    assert complained.startswith("error: plan.rates: ")
    assert list(tmp_path.iterdir()) == []


def test_a_command_in_a_process_of_its_own_fails_without_a_traceback(user: User, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    words = ("-m", "secateur_cli", "run", user.config, "--output", "run", "--set", "sed=1")
    code, printed, complained = Started(*words, folder=folder, output=tmp_path / "printed").wait()
    assert (code, printed) == (2, "")
    assert complained == f"error: {user.config}: sed: unknown key; did you mean 'seed'?\n"
    assert list(folder.iterdir()) == []


def test_the_record_of_a_run_is_plain_json(finished: tuple[Path, dict[str, Any]]) -> None:
    record = json.loads((finished[0] / "run.json").read_text())
    assert set(record) == {"format", "settings", "images", "network", "seconds", "stages", "files"}
