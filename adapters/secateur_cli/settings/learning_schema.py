"""The parts of the section `plan` that train: how a search learns, along with the network, which channels go."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from secateur.gates import PRESETS, GateRecipe
from secateur.precision import Precision
from secateur_cli.settings.training_schema import BelowOne, NotNegative, Positive, TrainConfig
from secateur_cli.settings.values import Count, Number, Section


def _pull(value: Any) -> Any:
    """Refuse true and 0, which would be read as the number 1 and as false."""
    if value is True or (value == 0 and value is not False):
        raise ValueError(f"{value!r}: must be a number greater than 0, or false for a lambda that stays as it is")
    return value


class AutoPrunerConfig(Section):
    """How gates are trained together with the network; null stands for the preset's number, or ours without one."""

    preset: Literal["vgg16", "resnet50", "mobilenet_v2"] | None = Field(
        default=None, description="the authors' numbers for one of their networks; null: ours, for short trainings"
    )
    granularity: Literal["all", "stage", "layer"] = Field(
        default="all",
        description="whose gates learn together, `epochs` for each: all; those of a stage, the groups whose maps have "
        "one size; layer: one group after the other",
    )
    epochs: Count | None = Field(default=None, description="passes over the training images, of each stage")
    learning_rate: Positive | None = Field(
        default=None, description="of network and gates; a tenth of it in the last third, or where the preset's drops"
    )
    momentum: BelowOne | None = Field(default=None, description="momentum of SGD")
    weight_decay: NotNegative | None = Field(default=None, description="weight decay of network and gates")
    alpha: tuple[Positive, Positive] | None = Field(
        default=None, description="scale of the sigmoid in the first and the last step of a stage, such as [0.1, 10]"
    )
    every: Count | None = Field(default=None, description="steps after which alpha moves")
    bump: NotNegative | None = Field(
        default=None, description="added to alpha where a code collapses or does not become binary; 0: never"
    )
    penalty: NotNegative | None = Field(
        default=None, description="lambda, the weight of the distance from the share, at the beginning"
    )
    pull: Annotated[Annotated[Number, Field(gt=0)] | Literal[False] | None, BeforeValidator(_pull)] = Field(
        default=None, description="lambda is set to so many times the distance every 20 steps; false: it stays"
    )
    batch_average: bool = Field(default=True, description="false: each image has a code of its own, an ablation")
    binarise: bool = Field(default=True, description="false: alpha stays where it begins, an ablation")
    most: Count | None = Field(default=None, description="weights that a gate may have; larger maps are pooled more")
    precision: Precision = Field(default="float32", description="float32, bfloat16 or float16, see fine_tune")

    @model_validator(mode="after")
    def _is_a_recipe(self) -> Self:
        self.recipe(seed=0)
        return self

    def recipe(self, *, seed: int) -> GateRecipe:
        """Return the numbers of the training."""
        preset = GateRecipe() if self.preset is None else PRESETS[self.preset]
        given = self.model_dump(exclude={"preset", "granularity"}, exclude_none=True)
        if given.get("pull") is False:
            given["pull"] = None
        return preset.changed({**given, "seed": seed})


class SoftClustersConfig(TrainConfig):
    """How the network is trained while more and more of its filters become equal."""

    epochs: Count = Field(default=10, description="passes over the training images; filters become equal after each")
    learning_rate: Positive = Field(default=0.01, description="the largest step, at the start")

    @model_validator(mode="after")
    def _has_no_average(self) -> Self:
        if self.average:
            raise ValueError("average: equal filters are not equal in a moving average; leave it 0")
        return self
