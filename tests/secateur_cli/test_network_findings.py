"""What the doctor finds in a network, its data and its settings, each tried as a run would, and nothing written."""

from __future__ import annotations

import io
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from networks_for_tests import ChannelShuffle, Residual
from runs_for_tests import User, contents, examine, give
from secateur.channel_graph import channel_groups
from secateur.errors import ScoreError
from secateur.findings import worst
from secateur.records import ScoreTable
from secateur_cli.doctor.examination import Examination
from secateur_cli.doctor.network_findings import left_out
from secateur_cli.progress import Progress
from secateur_cli.stages import preparation

MODULE = """
import time
import torch
from torch import nn
from secateur_user_networks import Small
from secateur_user_data import batches

class Ungraded(Small):
    def forward(self, x):
        if torch.is_grad_enabled():
            raise RuntimeError("only for inference")
        return super().forward(x)

class Endless(Small):
    def forward(self, x):
        while torch.is_grad_enabled():
            time.sleep(0.01)
        return super().forward(x)

class Counted(Small):
    def forward(self, x):
        return super().forward(x.view(len(x), 1, 8, 8))

class Raises(Small):
    def forward(self, x): raise KeyError("no such layer")

def down():
    print("asking the server")
    raise RuntimeError("the server is down")

class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.LazyConv2d(8, 3), nn.LazyLinear(3)

    def forward(self, x):
        return self.head(torch.relu(self.stem(x)).flatten(1))

def narrow(): return {k: [(x[..., :1], y) for x, y in batches(32, 0)] for k in ("train", "validation", "test")}
"""


@pytest.fixture(scope="session")
def sick(user: User) -> User:
    (user.folder / "secateur_user_sick.py").write_text(MODULE)
    return user


def test_a_sound_network_passes_every_step_and_nothing_is_written(sick: User) -> None:
    before = {name for name in contents(sick.folder) if "__pycache__" not in name}
    found = examine(sick)
    assert {finding.severity for finding in found.values()} == {"fine"}
    assert list(found) == [
        "network", "weights", "data", "forward", "Torch-Pruning", "left out", "criterion", "plan", "export",
        "file on cpu",
    ]  # fmt: skip
    assert found["data"].what == "secateur_user_data:load: images of shape (1, 8, 8), 3 classes"
    assert found["Torch-Pruning"].what == "traces it: 2 groups can be pruned, 24 channels in all"
    assert found["left out"].what == "head: its channels are the network's outputs"
    assert found["criterion"].what == "hrank scores 2 layers"
    assert {name for name in contents(sick.folder) if "__pycache__" not in name} == before


@pytest.mark.usefixtures("quick")
def test_a_network_that_cannot_be_traced_is_told_and_the_rest_tried(sick: User) -> None:
    found = examine(sick, "network.build=secateur_user_sick:Ungraded")
    assert found["Torch-Pruning"].severity == "error"
    assert "only for inference" in found["Torch-Pruning"].what
    assert "groups of channels" in found["Torch-Pruning"].why
    assert found["Torch-Pruning"].mend == (
        f"secateur doctor {sick.config} --set network.build=secateur_user_sick:Ungraded --traceback",
    )
    assert "plan" not in found
    assert "export" in found


def test_a_network_for_one_batch_size_alone_comes_with_the_cure(sick: User) -> None:
    found = examine(sick, "network.build=secateur_user_sick:Counted")
    assert [name for name, finding in found.items() if finding.severity == "error"] == ["export"]
    assert "turns the batch size into a Python number, as len(x) " in found["export"].what
    assert found["export"].what.endswith("write x.flatten(1), or x.shape[0] as it is")
    assert found["export"].why == "a run ends here"
    assert found["export"].mend == ()


@pytest.mark.usefixtures("quick")
def test_a_network_that_has_its_sizes_from_its_input(sick: User) -> None:
    found = examine(sick, "network.build=secateur_user_sick:Lazy")
    assert {finding.severity for finding in found.values()} == {"fine"}
    assert found["network"].what == "secateur_user_sick:Lazy: it has its parameters once it has run"


@pytest.mark.usefixtures("quick")
def test_tracing_without_end_ends(sick: User) -> None:
    begun = time.monotonic()
    found = examine(sick, "network.build=secateur_user_sick:Endless", seconds=0.2)
    assert time.monotonic() - begun < 30
    assert found["Torch-Pruning"].severity == "error"
    assert "does not come to an end with this network: no end after 0.2 seconds" in found["Torch-Pruning"].what


@pytest.mark.usefixtures("quick")
def test_a_network_of_which_nothing_can_be_pruned(sick: User) -> None:
    finding = examine(sick, "network.build=secateur_user_networks:Flat")["Torch-Pruning"]
    assert (finding.severity, finding.mend) == ("error", ())
    assert "nothing in this network can be pruned (1: its channels are the network's outputs)" in finding.what


@pytest.mark.usefixtures("quick")
def test_a_criterion_that_cannot_score_comes_with_one_that_can(sick: User) -> None:
    found = examine(sick, "data.source=secateur_user_sick:narrow")
    finding = found["criterion"]
    assert finding.severity == "error"
    assert "no layer can be scored by 'hrank'" in finding.what
    (command,) = finding.mend
    words = shlex.split(command)
    assert words[:3] == ["secateur", "run", str(sick.config)]
    settings = words[4::2]
    assert "score.criterion=l1" in settings
    assert examine(sick, *settings)["criterion"].what == "l1 scores 3 layers"


def test_what_a_network_prints_stays_out_of_what_is_printed_for_programs(
    sick: User, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Examination(sick.config, Progress(Console(file=io.StringIO())))
    job.attempt("criterion", lambda: print("tried"))
    job.note("criterion", "fails", "error", "a run ends here")
    job.remedy([("plan.round_to=1",)], lambda _: print("mended"))
    assert "plan.round_to=1" in job.findings[-1].mend[0]
    assert capsys.readouterr() == ("", "tried\nmended\n")


@pytest.mark.usefixtures("quick")
def test_batches_that_no_memory_holds_are_told(sick: User) -> None:
    found = examine(sick, "onnx.batch_sizes=[1,100000000]")
    assert found["batch sizes"].severity == "error"
    assert "onnx.batch_sizes: a batch of 100,000,000 images takes at least" in found["batch sizes"].what
    assert found["plan"].severity == "fine"


@pytest.mark.usefixtures("quick")
def test_data_that_is_not_there_does_not_hide_the_network(sick: User) -> None:
    folder = ("data.source=image-folder", "data.train=gone/train", "data.test=gone/test", "data.image_size=32")
    colour = "network.build=secateur.networks:resnet20"
    found = examine(sick, *folder, colour)
    assert found["data"].severity == "error"
    assert found["data"].mend[0].endswith("--set data.train=/path/to/train/images --set data.test=/path/to/test/images")
    assert "random numbers of shape (2, 3, 32, 32)" in found["example"].what
    assert found["Torch-Pruning"].severity == "fine"


@pytest.mark.usefixtures("quick")
def test_a_data_set_that_torchvision_fetches(sick: User) -> None:
    found = examine(sick, "data.source=cifar100", "data.root=gone")
    assert found["data"].mend == (
        f"python -c \"import torchvision; torchvision.datasets.CIFAR100('{sick.folder / 'gone'}', download=True)\"",
    )
    assert found["forward"].severity == "error"  # the network reads one colour


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("settings", "check", "message"),
    [
        (("device=cuda",), "device", "device: cuda: torch finds no CUDA device here"),
        (("onnx.provider=tensorrt",), "onnx.provider", "the provider 'tensorrt' is not part of the installed onnxrunt"),
        (("plan.budget={latency: 60%, provider: cuda}",), "plan.budget.latency", "the provider 'cuda' is not part of"),
    ],
)
def test_what_a_run_refuses_at_once(
    sick: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], check: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    found = examine(sick, *settings)
    assert [name for name, finding in found.items() if finding.severity == "error"] == [check]
    assert message in found[check].what
    code, _, complained = sick.command(tmp_path / "run", *settings)
    assert code == 2
    assert message in complained


@pytest.mark.usefixtures("quick")
def test_the_scores_for_fewer_bits_are_tried(sick: User, monkeypatch: pytest.MonkeyPatch) -> None:
    score = preparation.scores_by_name

    def refusing(model: nn.Module, batches: object, criterion: str, **more: Any) -> ScoreTable:
        if criterion == "di":
            raise ScoreError("no layer can be scored by 'di'")
        return score(model, batches, criterion, **more)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(preparation, "scores_by_name", refusing)
    found = examine(sick, "quantize={shares: [0.5, 0.5]}")
    assert [name for name, finding in found.items() if finding.severity == "error"] == ["quantize"]
    assert found["quantize"].what == "no layer can be scored by 'di'"


def test_data_of_unknown_shape_ends_the_examination(sick: User, capsys: pytest.CaptureFixture[str]) -> None:
    found = examine(sick, "data.source=secateur_user_sick:down")
    assert list(found) == ["network", "weights", "data"]
    assert "the server is down" in found["data"].what
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "asking the server\n")  # what a user's code prints is no part of the data


@pytest.mark.parametrize("name", ["Raises", "NoSuch"])
def test_networks_that_do_not_run(sick: User, name: str) -> None:
    found = examine(sick, f"network.build=secateur_user_sick:{name}")
    assert worst(found.values()) == "error"
    assert list(found.values())[-1].check == ("forward" if name == "Raises" else "data")
    assert "Torch-Pruning" not in found


@pytest.mark.usefixtures("quick")
def test_weights_that_are_not_there_do_not_hide_the_network(sick: User) -> None:
    found = examine(sick, "train=null", "network.weights=gone.safetensors")
    assert found["weights"].severity == "error"
    assert found["weights"].mend[0].endswith("--set train=null --set network.weights=/path/to/weights.safetensors")
    assert found["plan"].severity == "fine"


def test_reasons_to_leave_groups_out_are_told_once_each(sick: User) -> None:
    example = torch.rand(2, 3, 8, 8)
    shuffled = dict(channel_groups(ChannelShuffle().eval(), example).skipped)
    streams = dict(channel_groups(Residual().eval(), example, residual="skip").skipped)
    found = {finding.what: finding.severity for finding in left_out({**shuffled, **streams})}
    assert found == {
        "moved: removing its channels is not the same as masking them": "warning",
        "head: its channels are the network's outputs": "fine",
        "stem: a residual stream": "fine",
    }
    many = {f"layer{number}": "asked to be left as it is" for number in range(15)}
    (finding,) = left_out(many)
    assert finding.what.startswith("layer0, layer1, ")
    assert finding.what.endswith(", layer11 and 3 more: asked to be left as it is")


def test_the_command_on_a_configuration_that_is_none(tmp_path: Path) -> None:
    code, said, complained = give("doctor", str(tmp_path / "none.yaml"), "--json")
    assert (code, said) == (2, "")
    assert complained == f"error: no configuration file {tmp_path / 'none.yaml'}\n"
