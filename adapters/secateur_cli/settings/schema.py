"""What a run can be told: every key of the configuration file, its default and what it means.

The models refuse unknown keys and are immutable. Paths are kept as they are written; they count from the folder of the
configuration file, except `output`, which counts from the working directory. `secateur_cli.settings.config` reads the
file and turns what is refused into errors in the words of its author.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from secateur.criteria import known_criterion
from secateur_cli.settings.plan_schema import PlanConfig, Search
from secateur_cli.settings.quantize_schema import QuantizeConfig
from secateur_cli.settings.training_schema import FineTuneConfig, TrainConfig
from secateur_cli.settings.values import Count, Method, Number, Section, Seed, Threads, as_tuple, with_home
from secateur_cli.workspace import LEARNT

__all__ = [
    "DataConfig",
    "FineTuneConfig",
    "NetworkConfig",
    "OnnxConfig",
    "PlanConfig",
    "QuantizeConfig",
    "RecoverConfig",
    "RunConfig",
    "ScoreConfig",
    "Search",
    "TrainConfig",
]

SMOKE_IMAGES = 64
SMOKE_SEARCH_IMAGES = 16  # a greedy search reads them hundreds of times

SOURCE_KEYS = {
    "digits": {"mean", "std", "batch_size", "augment"},
    "cifar10": {"root", "mean", "std", "batch_size", "augment"},
    "cifar100": {"root", "mean", "std", "batch_size", "augment"},
    "image-folder": {"train", "test", "image_size", "mean", "std", "batch_size", "augment"},
    "import path": {"arguments", "batch_size"},
}


def _as_method(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, list)):
        allowed = ", ".join(get_args(Method))
        raise ValueError(f"{value!r}: must be {allowed}, or a mapping with the keys method, samples")
    return {"method": value} if isinstance(value, str) else value


class NetworkConfig(Section):
    """Which network is pruned."""

    build: str = Field(description="import path of what builds the network, `package.module:callable`")
    arguments: dict[str, Any] = Field(default={}, description="keyword arguments of that callable")
    weights: Path | None = Field(
        default=None,
        description="trained weights: safetensors, or a state dict saved by torch; null keeps the builder's",
    )


class DataConfig(Section):
    """Which images it is trained, scored and judged on."""

    source: str = Field(
        description="digits, cifar10, cifar100, image-folder, or an import path `package.module:callable`"
    )
    train: Path | None = Field(
        default=None, description="image-folder: the training images, a folder or archive with one folder a class"
    )
    test: Path | None = Field(default=None, description="image-folder: the held-out images, laid out alike")
    root: Path | None = Field(
        default=None, description="cifar10, cifar100: the folder torchvision downloaded them into"
    )
    arguments: dict[str, Any] = Field(default={}, description="import path: keyword arguments of the callable")
    image_size: Count = Field(
        default=224, description="image-folder: side in pixels; images of that size are not resized"
    )
    mean: tuple[Number, ...] | None = Field(
        default=None, description="subtracted from each channel after scaling to [0, 1]; null: ImageNet's (digits: 0)"
    )
    std: tuple[Annotated[Number, Field(gt=0)], ...] | None = Field(
        default=None, description="each channel is divided by it; null: ImageNet's (digits: 1)"
    )
    batch_size: Count = Field(default=128, description="images in a batch")
    validation_share: Annotated[Number, Field(gt=0, lt=1)] = Field(
        default=0.1, description="share of the training images set aside to judge candidates, never trained on"
    )
    augment: bool = Field(default=True, description="whether training images are cropped and flipped at random")
    limit: Count | None = Field(
        default=None,
        description="at most so many images of each split, the classes in their proportions, or the first of a split "
        "of your own; null: all",
    )

    @model_validator(mode="after")
    def _keys_fit_source(self) -> Self:
        kind = "import path" if ":" in self.source else self.source
        if kind not in SOURCE_KEYS:
            allowed = ", ".join(k for k in SOURCE_KEYS if k != "import path")
            raise ValueError(
                f"source {self.source!r} is unknown; allowed: {allowed}, or an import path 'module:callable'"
            )
        foreign = sorted(set().union(*SOURCE_KEYS.values()) - SOURCE_KEYS[kind])
        foreign = [key for key in foreign if getattr(self, key) != type(self).model_fields[key].default]
        if foreign:
            takes = ", ".join(sorted(SOURCE_KEYS[kind]))
            raise ValueError(f"{', '.join(foreign)}: not a key of source {self.source!r}, which takes {takes}")
        needed = {"image-folder": ("train", "test"), "cifar10": ("root",), "cifar100": ("root",)}.get(kind, ())
        missing = [key for key in needed if getattr(self, key) is None]
        if missing:
            raise ValueError(f"source {self.source!r} needs the key {' and '.join(missing)}")
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std must be given together, with one number per channel each")
        return self


class ScoreConfig(Section):
    """What a channel is worth."""

    criterion: str = Field(default="hrank", description="a name in secateur.criteria, such as hrank, di, l1 or taylor")
    tap: Literal["act", "bn", "conv"] = Field(
        default="act", description="the feature map that is read: after the activation, the batch norm, the convolution"
    )
    samples: Count | None = Field(
        default=None, description="training images to read; null: as many as the criterion asks"
    )
    options: dict[str, Any] = Field(default={}, description="keyword arguments of the criterion")

    @model_validator(mode="after")
    def _criterion_exists(self) -> Self:
        try:
            known_criterion(self.criterion, **self.options)
        except TypeError as error:
            raise ValueError(f"options do not fit the criterion {self.criterion!r}: {error}") from error
        return self

    def options_of(self, seed: int) -> dict[str, Any]:
        """Return the options under the seed of a run, by which scores at random are drawn unless they have their own.

        Example:
            >>> ScoreConfig(criterion="random").options_of(3), ScoreConfig(criterion="l1").options_of(3)
            ({'seed': 3}, {})
        """
        return {"seed": seed, **self.options} if self.criterion == "random" else dict(self.options)


class RecoverConfig(Section):
    """How accuracy comes back without labels and without training."""

    method: Method = Field(
        default="compensate",
        description="compensate: weights behind removed channels solved for anew, so that each layer comes closest to "
        "what it gave in the dense network; recalibrate: batch norm measured afresh; sketch: FilterSketch's weights, "
        "made of those of all channels, to be trained; none: nothing",
    )
    samples: Annotated[int, Field(strict=True, ge=2)] | None = Field(
        default=None,
        description="training images to read; null: 1,000 to compensate, or as many as fit into memory; 2,000 to "
        "recalibrate",
    )


class OnnxConfig(Section):
    """Where the exported network is timed."""

    provider: Literal["cpu", "cuda", "tensorrt"] = Field(
        default="cpu", description="execution provider of ONNX Runtime"
    )
    batch_sizes: Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=(1, 8, 32), description="batch sizes that are timed, as far as half of the memory holds them"
    )
    threads: Threads | None = Field(default=None, description="threads of ONNX Runtime; null: as many as torch uses")
    seconds: Annotated[Number, Field(gt=0)] = Field(default=5.0, description="seconds of timing for each batch size")
    int8: bool = Field(
        default=False,
        description="whether to write the pruned network in 8-bit integers as well (static, for the CPU), and time it",
    )


class RunConfig(Section):
    """One run from a trained network to a smaller ONNX file."""

    network: NetworkConfig = Field(description="which network is pruned")
    data: DataConfig = Field(description="which images it is trained, scored and judged on")
    train: TrainConfig | None = Field(
        default=None, description="how to train it first; only for a network without weights"
    )
    score: ScoreConfig = Field(default=ScoreConfig(), description="what a channel is worth")
    plan: PlanConfig = Field(description="how many channels each layer keeps")
    recover: Annotated[RecoverConfig, BeforeValidator(_as_method)] = Field(
        default=RecoverConfig(),
        description="accuracy back before any training: none, recalibrate, compensate or sketch, or a mapping {method: "
        "compensate, samples: 500}",
    )
    fine_tune: FineTuneConfig | None = Field(
        default=FineTuneConfig(), description="accuracy back by training; null: not at all"
    )
    quantize: QuantizeConfig | None = Field(
        default=None, description="fewer bits for the filters that matter less, after fine-tuning; null: not at all"
    )
    onnx: OnnxConfig = Field(default=OnnxConfig(), description="where the exported network is timed")
    output: Annotated[Path, AfterValidator(with_home)] = Field(
        default=Path("runs/run"), description="folder of the results; default: runs/ and the file's name"
    )
    seed: Seed = Field(default=0, description="seed of everything random")
    threads: Threads | None = Field(default=None, description="threads of torch; null: its own choice")
    device: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description="where torch trains, scores, recovers and judges; counting, cutting and exporting stay on the cpu, "
        "and onnx.provider says where the files are timed",
    )

    @model_validator(mode="after")
    def _trained_once(self) -> Self:
        if self.train is not None and self.network.weights is not None:
            raise ValueError("train: the network has weights already (network.weights); remove one of the two")
        return self

    @model_validator(mode="after")
    def _sketched_once(self) -> Self:
        if self.recover.method == "sketch" and self.fine_tune is not None and self.fine_tune.layer_by_layer:
            raise ValueError("fine_tune.layer_by_layer: trains the network before the cut, and recover: sketch cuts it")
        return self

    @model_validator(mode="after")
    def _frozen_by_scores(self) -> Self:
        if self.fine_tune is None or not self.fine_tune.freeze:
            return self
        if self.recover.method == "sketch":
            raise ValueError("fine_tune.freeze: goes by the scores of filters, and recover: sketch makes other filters")
        for search in self.plan.search:
            if search in LEARNT:
                raise ValueError(
                    f"fine_tune.freeze: goes by the scores of filters, which search: {search} has trained since"
                )
        return self

    def smoke(self) -> RunConfig:
        """Return a copy of this run that takes seconds: few images, one epoch, the first search, short timing.

        It walks through every step and proves nothing about accuracy or speed.
        """
        data, plan, onnx = self.data, self.plan, self.onnx
        few = min(SMOKE_IMAGES, data.limit or SMOKE_IMAGES)
        short = {"epochs": 1, "warmup_epochs": 0.0}
        samples, images = (section.samples and min(section.samples, few) for section in (self.score, self.recover))
        return self.model_copy(
            update={
                "data": data.model_copy(update={"limit": few, "batch_size": min(data.batch_size, 32)}),
                "train": self.train and self.train.model_copy(update=short),
                "score": self.score.model_copy(update={"samples": samples}),
                "plan": plan.smoke(SMOKE_SEARCH_IMAGES),
                "recover": self.recover.model_copy(update={"samples": images}),
                "fine_tune": self.fine_tune and self.fine_tune.model_copy(update=short),
                "quantize": self.quantize and self.quantize.smoke(few),
                "onnx": onnx.model_copy(
                    update={"batch_sizes": onnx.batch_sizes[:1], "seconds": min(onnx.seconds, 0.2)}
                ),
            }
        )

    def canonical(self) -> dict[str, Any]:
        """Return what decides the result as plain data, every default written out: all keys but `output`."""
        return self.model_dump(mode="json", exclude={"output"})

    def given(self) -> dict[str, Any]:
        """Return what is not left at its default, as plain data."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def deciding(self) -> dict[str, Any]:
        """Return what decides a result that is kept beside its seed, its network and its images: no paths, no threads.

        Network and images are told apart by their values, not by where they lie. Keys at their defaults are left out,
        so that what was kept can be gone on with when a later version has more of them.
        """
        said = self.given()
        for section, keys in {"network": ("weights",), "data": ("train", "test", "root")}.items():
            for key in keys:
                said[section].pop(key, None)
        return {key: value for key, value in said.items() if key not in ("output", "threads", "seed")}
