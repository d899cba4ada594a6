"""The configurations with the papers' schedules: what they say, that nothing stands in their way, and that they run."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from images_for_tests import folder_of_images
from secateur.errors import ConfigError
from secateur.training.schedules import AUTOPRUNER, HRANK_PLUS, HRANK_PLUS_IMAGENET
from secateur_cli.progress import Progress
from secateur_cli.settings.config import load_config
from secateur_cli.settings.schema import RunConfig
from secateur_cli.stages.pipeline import run_job
from secateur_cli.stages.preparation import prepare

REPRODUCE = Path(__file__).resolve().parents[1] / "examples" / "reproduce"
CONFIGS = sorted(REPRODUCE.glob("*.yaml"))
SHALLOW = "imagenet_resnet18_di"  # whose plan imagenet_resnet50_di_sd reads
ON_DEMAND = {
    "cifar10_vgg16_clr_rnf",  # millions of weights, ranked again and again
    "cifar10_googlenet_clr_rnf",
    "cifar100_resnet110_di",  # but for its classes that of CIFAR-10
    "imagenet_resnet50_di",  # as that of ResNet-18, and larger
    "imagenet_resnet50_hrank",
    "imagenet_resnet50_autopruner",  # as that of MobileNetV2, and larger
    "imagenet_vgg16_autopruner",
    "cifar10_googlenet_hrank",  # as that of VGG-16, and larger
    "cifar10_resnet110_hrank",  # as those of ResNet-56, and deeper
    "cifar10_resnet110_clr_rnf",
    "cifar10_resnet110_di",
    "imagenet_resnet50_di_sd",  # reads the plan of another run
}
BUDGETS = {
    "cifar10_resnet56_hrank": {"hrank": "62.72M"},
    "cifar10_resnet110_hrank": {"hrank": "156.90M"},
    "cifar10_vgg16_hrank": {"hrank": "117M"},  # 116.63 M, not the printed 108.61 M
    "cifar10_densenet40_hrank": {"hrank": "181.1M"},  # 167.41 M where the transitions lose inputs
    "cifar10_googlenet_hrank": {"hrank": "690M"},
    "cifar10_resnet56_clr_rnf": {"thop": "55.26M"},
    "cifar10_resnet110_clr_rnf": {"thop": "86.80M"},
    "cifar10_vgg16_clr_rnf": {"thop": "81.31M"},
    "cifar10_googlenet_clr_rnf": {"thop": "491.54M"},
    "cifar10_resnet56_di": {"macs": "49.7M"},
    "cifar10_resnet110_di": {"macs": "100M"},
    "cifar100_resnet56_di": {"macs": "49.7M"},
    "cifar100_resnet110_di": {"macs": "101M"},
    "imagenet_resnet18_di": {"macs": "1.04G"},
    "imagenet_resnet50_di": {"macs": "1.80G"},
    "imagenet_resnet50_di_sd": {"macs": "2.31G"},
    "imagenet_resnet50_hrank": {"hrank": "1550M"},
    "imagenet_mobilenetv2_autopruner": {"macs": "207.93M"},
    "imagenet_resnet50_autopruner": {"macs": "2.00G"},
    "imagenet_vgg16_autopruner": {"macs": "4.085G"},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The overrides of `data` without its size: a few images of two classes."""
    folder = tmp_path_factory.mktemp("images")
    train = folder_of_images(folder / "train", each=24, seed=0)
    return f"source: image-folder, train: {train}, test: {folder_of_images(folder / 'test', each=4, seed=1)}"


def config_of(path: Path, images: str, *more: str) -> RunConfig:
    """Return a smoke run of a configuration on these images and on the CPU, with weights that mean nothing."""
    on_imagenet = path.stem.startswith("imagenet")
    size = "image_size: 224, limit: 8" if on_imagenet else "image_size: 32"
    changes = ["device=cpu", f"data={{{images}, {size}}}", *more]
    if on_imagenet:
        changes.append("network.arguments.weights=null")
    return load_config(path, overrides=changes).smoke()


def arguments(config: RunConfig, output: Path) -> dict[str, Any]:
    progress = Progress(Console(file=io.StringIO()))
    return {"search": config.plan.search[0], "folder": REPRODUCE, "output": output, "progress": progress}


def test_each_has_the_budget_of_its_published_row() -> None:
    assert {path.stem: load_config(path).plan.budget.given for path in CONFIGS} == BUDGETS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_says_how_it_is_run_and_what_was_published(path: Path) -> None:
    head = path.read_text(encoding="utf-8").partition("\nnetwork:")[0]
    assert f"#   secateur run examples/reproduce/{path.name}\n" in head
    assert re.search(r"^# Published \(dense -> pruned\): top-1 \d\d\.\d+ -> \d\d\.\d+%", head, re.MULTILINE)
    assert "# Data: " in head
    assert re.search(r"\bWeights: ", head)
    assert all(line.startswith("#") for line in head.splitlines())
    config = load_config(path)
    assert config.device == "cuda"
    assert (config.train is None) == path.stem.startswith("imagenet")


def test_schedules_are_the_published_ones() -> None:
    for path in CONFIGS:
        config = load_config(path)
        assert config.fine_tune is not None
        found, teacher = config.fine_tune.recipe(seed=0), {"distillation": 0.0}
        assert config.fine_tune.restart_batch_norm == path.stem.endswith(("_hrank", "_clr_rnf"))
        if path.stem == "imagenet_resnet50_hrank":
            assert found == HRANK_PLUS_IMAGENET.revised(teacher)
            assert config.data.batch_size == 64
        elif path.stem.endswith("_hrank"):
            assert found == HRANK_PLUS.revised(teacher)
            assert config.data.batch_size == 256
        elif path.stem.endswith("_clr_rnf"):
            assert found == HRANK_PLUS.revised(teacher | {"weight_decay": 5e-3})
            assert config.data.batch_size == 256
        elif path.stem == "imagenet_mobilenetv2_autopruner":
            cosine = {
                "epochs": 150,
                "learning_rate": 0.01,
                "weight_decay": 4e-5,
                "schedule": "cosine",
                "milestones": (),
            }
            assert found == AUTOPRUNER.revised(teacher | cosine)
            assert config.data.batch_size == 256
        elif path.stem.endswith("_autopruner"):
            assert found == AUTOPRUNER.revised(teacher)
            assert config.data.batch_size == 256


RATES = {
    "cifar10_resnet56_hrank": "resnet56",
    "cifar10_resnet110_hrank": "resnet110",
    "cifar10_vgg16_hrank": "vgg16_bn",
    "cifar10_densenet40_hrank": "densenet40",
    "cifar10_googlenet_hrank": "googlenet-wide",
    "imagenet_resnet50_hrank": "resnet50",
}
EXPONENTS = {
    "cifar10_resnet56_clr_rnf": (10, "block"),
    "cifar10_resnet110_clr_rnf": (5, "block"),
    "cifar10_vgg16_clr_rnf": (0.5, "layers"),
    "cifar10_googlenet_clr_rnf": (0, "layers"),
}
SEARCHES = {"imagenet_resnet50_di": "uniform", "imagenet_resnet50_di_sd": "distilled"}
"""Of DI; the others search greedily."""
GATES = {
    "imagenet_mobilenetv2_autopruner": ("mobilenet_v2", "all", ()),
    "imagenet_resnet50_autopruner": ("resnet50", "stage", ("layer4.2.conv1", "layer4.2.conv2")),
    "imagenet_vgg16_autopruner": (
        "vgg16",
        "layer",
        ("features.24", "features.26", "features.28", "classifier.0", "classifier.3"),
    ),
}


def test_channels_and_widths_are_chosen_by_the_method_of_the_row() -> None:
    for path in CONFIGS:
        config = load_config(path)
        plan, chosen = config.plan, (config.score.criterion, *config.plan.search)
        if path.stem in RATES:
            assert (chosen, plan.rates) == (("hrank", "rates"), RATES[path.stem])
        elif path.stem in EXPONENTS:
            assert (chosen, (plan.exponent, plan.unit_cost)) == (("rnf", "cross_layer"), EXPONENTS[path.stem])
        elif path.stem in GATES:
            gates = plan.autopruner
            assert gates is not None
            assert plan.search == ("autopruner",)
            assert (gates.preset, gates.granularity, tuple(plan.ignore)) == GATES[path.stem]
        else:
            assert chosen == ("di", SEARCHES.get(path.stem, "greedy"))
            if plan.search == ("greedy",):
                assert (plan.delta, plan.worth.images, plan.rescore) == (0.005, 5000, None)
        assert config.score.options == {}
        assert config.recover.method == "none"


def test_dense_networks_are_trained_on_the_images_of_the_row() -> None:
    for path in CONFIGS:
        config, images = load_config(path), path.stem.partition("_")[0]
        if images == "imagenet":
            assert (config.data.source, config.data.image_size, config.train) == ("image-folder", 224, None)
            assert config.network.arguments == {"weights": "IMAGENET1K_V1"}
            continue
        assert config.data.source == images
        assert config.network.arguments == ({"num_classes": 100} if images == "cifar100" else {})
        assert (config.data.mean, config.data.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
        assert config.data.validation_share == (0.1 if path.stem.endswith("_di") else 0.02)
        assert config.train is not None
        recipe = config.train.recipe(seed=0)
        assert (recipe.epochs, recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (200, 0.1, 0.9, 5e-4)


def test_the_schedules_of_di_are_those_that_their_files_tell() -> None:
    """The paper's own stand in a supplement that could not be had."""
    for path in CONFIGS:
        if "_di" not in path.stem:
            continue
        config = load_config(path)
        assert config.fine_tune is not None
        recipe = config.fine_tune.recipe(seed=0)
        found = (config.data.batch_size, recipe.epochs, recipe.learning_rate, recipe.momentum, recipe.weight_decay)
        if path.stem.startswith("cifar"):
            assert found == (128, 200, 0.05, 0.9, 5e-4)
        else:
            assert found == (256, 120, 0.0256, 0.875, 3.05e-5)
            assert (recipe.warmup_epochs, recipe.label_smoothing, recipe.mixup) == (5, 0.1, 0.2)


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem not in ON_DEMAND], ids=lambda path: path.stem)
def test_nothing_stands_in_the_way(path: Path, images: str, tmp_path: Path) -> None:
    """The network is built and traced, scored and planned to the budget, all as before a run, on two images."""
    config = config_of(path, images)
    job = prepare(config, **arguments(config, tmp_path / "run"), smoke=True, files={}, begun=0.0)
    job.workspace.close()
    (cost,) = job.costs
    (allowed,) = config.plan.budget.given.values()
    assert cost({}) > float(str(allowed)[:-1]) * {"M": 1e6, "G": 1e9}[str(allowed)[-1]]
    assert sum(group.width for group in job.groups.values()) > 500


def test_a_gpu_that_is_not_there_is_missed_at_once(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    config = load_config(CONFIGS[0])
    with pytest.raises(ConfigError, match="device: cuda"):
        prepare(config, **arguments(config, tmp_path / "run"), smoke=False, files={}, begun=0.0)


@pytest.mark.thorough
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_few_images_go_all_the_way(path: Path, images: str, tmp_path: Path) -> None:
    more = []
    if path.stem == "imagenet_resnet50_di_sd":
        shallow = config_of(REPRODUCE / f"{SHALLOW}.yaml", images, "plan.search=uniform")
        run_job(shallow, **arguments(shallow, tmp_path / "shallow"), smoke=True)
        more.append(f"plan.shallow.plan={tmp_path / 'shallow'}")
    config = config_of(path, images, *more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = run_job(config, **arguments(config, tmp_path / "run"), smoke=True)
    assert [fact["stage"] for fact in report["accuracy"]] == ["dense", "channels removed", "fine-tuned"]
    assert report["onnx"]["parity"]["passed"]
    assert report["cost"]["macs"]["after"] < report["cost"]["macs"]["before"]
