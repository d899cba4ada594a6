"""The two sections of the configuration that train: the dense network, and the pruned one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from secateur.precision import Precision
from secateur.training.recipe import Optimizer, Recipe, Schedule
from secateur.training.schedules import AUTOPRUNER, CLR_RNF, FILTER_SKETCH, HRANK, HRANK_PLUS, HRANK_PLUS_IMAGENET
from secateur_cli.settings.values import Count, Number, Section

Share = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
BelowOne = Annotated[Number, Field(ge=0, lt=1)]


class TrainConfig(Section):
    """How a network without weights is trained: SGD with Nesterov's momentum, unless the keys say otherwise."""

    epochs: Count = Field(default=20, description="passes over the training images")
    learning_rate: Positive = Field(default=0.1, description="the largest step, at the start")
    momentum: BelowOne = Field(default=0.9, description="momentum of SGD; the first of AdamW's decay rates")
    weight_decay: NotNegative = Field(default=5e-4, description="weight decay")
    label_smoothing: BelowOne = Field(default=0.0, description="share of the target that is spread over all classes")
    warmup_epochs: NotNegative = Field(
        default=0.0, description="epochs over which the learning rate rises before its schedule begins"
    )
    clip_norm: Positive | None = Field(
        default=None, description="largest norm of the gradient of all parameters; null: not clipped"
    )
    precision: Precision = Field(
        default="float32",
        description="float32, or half the bits in convolutions: bfloat16, or float16 with a scaled loss",
    )
    optimizer: Optimizer = Field(default="sgd", description="sgd or adamw")
    nesterov: bool = Field(default=True, description="whether the momentum of SGD is Nesterov's")
    schedule: Schedule = Field(default="cosine", description="how the learning rate falls: cosine, or in steps")
    milestones: tuple[Positive, ...] = Field(
        default=(), description="schedule steps: the epochs after which the learning rate is multiplied by gamma"
    )
    gamma: Annotated[Number, Field(gt=0, le=1)] = Field(default=0.1, description="see milestones")
    decay_all: bool = Field(default=True, description="whether weight decay also takes biases and norms")
    mixup: NotNegative = Field(
        default=0.0, description="alpha of the Beta distribution by which two images are mixed; 0: none are"
    )
    average: BelowOne = Field(
        default=0.0, description="decay of a moving average of the weights, which is then kept; 0: none"
    )

    @model_validator(mode="after")
    def _is_a_recipe(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs: {self.warmup_epochs:g}: must be at most the epochs, {self.epochs}")
        self.recipe(seed=0)
        return self

    def recipe(self, *, seed: int) -> Recipe:
        """Return the numbers of the training."""
        return Recipe(**self.model_dump(exclude={"freeze", "like", "layer_by_layer", "restart_batch_norm"}), seed=seed)


Published = Literal["hrank", "hrank_plus", "hrank_plus_imagenet", "clr_rnf", "filter_sketch", "autopruner"]
PUBLISHED: dict[str, tuple[Recipe, dict[str, bool]]] = {
    "hrank": (HRANK, {"layer_by_layer": True}),
    "hrank_plus": (HRANK_PLUS, {"restart_batch_norm": True}),
    "hrank_plus_imagenet": (HRANK_PLUS_IMAGENET, {"restart_batch_norm": True}),
    "clr_rnf": (CLR_RNF, {"restart_batch_norm": True}),
    "filter_sketch": (FILTER_SKETCH, {}),  # whose sketch begins batch norm anew
    "autopruner": (AUTOPRUNER, {}),
}
"""Name of a published training -> its numbers, and how it is done."""
OURS = ("distillation", "temperature", "feature_weight")  # which nobody published


class FineTuneConfig(TrainConfig):
    """How the pruned network is trained on."""

    like: Published | None = Field(
        default=None,
        description="numbers of a published training, for keys that are not given: hrank (layer by layer, 30 epochs "
        "each), hrank_plus and clr_rnf (150 epochs, batch norm from its beginning), hrank_plus_imagenet (90), "
        "filter_sketch (150), autopruner (30, after its gates)",
    )
    layer_by_layer: bool = Field(
        default=False,
        description="from the dense network on, mask the channels of one group after the other and train after each, "
        "`epochs` each time; nothing is recovered before",
    )
    restart_batch_norm: bool = Field(default=False, description="give every batch norm its initial state first")
    epochs: Count = Field(default=1, description="passes over the training images")
    learning_rate: Positive = Field(default=0.01, description="the largest step, at the start")
    distillation: Share = Field(
        default=0.0, description="share of the loss that the dense network's logits give; 0: the labels alone"
    )
    temperature: Positive = Field(default=4.0, description="of the logits, in that share")
    feature_weight: NotNegative = Field(
        default=0.0,
        description="weight of the distance from the dense network's feature maps at the ends of residual blocks",
    )
    freeze: Share = Field(
        default=0.0,
        description="share of each layer's filters, those of the highest scores, that stay as they are",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, given: Any) -> Any:
        name = given.get("like") if isinstance(given, dict) else None
        if not isinstance(name, str) or name not in PUBLISHED:
            return given
        recipe, manner = PUBLISHED[name]
        numbers = {key: value for key, value in asdict(recipe).items() if key in cls.model_fields and key not in OURS}
        return {**numbers, **manner, **given}

    @model_validator(mode="after")
    def _layers_are_whole(self) -> Self:
        for key in ("freeze", "restart_batch_norm") if self.layer_by_layer else ():
            if getattr(self, key):
                raise ValueError(f"{key}: not in a training layer by layer, which goes on from the dense network")
        return self

    @property
    def has_teacher(self) -> bool:
        """Whether the dense network teaches."""
        return self.distillation > 0 or self.feature_weight > 0
