"""The section `plan` of the configuration: what may be spent, and which search spends it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from secateur.errors import ConfigError
from secateur.search import PUBLISHED_RATES, parse_budget, parse_rates
from secateur.search.selection import Variant
from secateur_cli.settings.learning_schema import AutoPrunerConfig, SoftClustersConfig
from secateur_cli.settings.values import Count, Number, Recovery, Section, as_tuple

Search = Literal[
    "curves",
    "uniform",
    "greedy",
    "refine",
    "rates",
    "distilled",
    "cross_layer",
    "global_ranking",
    "autopruner",
    "soft_clusters",
]
Amount = str | int | float
WHOLE = 1e300
"""A dense network's cost where its own is not known: a share stays one, and no amount is as large."""
NEEDED = {"rates": "rates", "shallow": "distilled"}
"""Key -> the search that needs it, and that alone."""
OWN = NEEDED | {
    "greedy_from": "greedy",
    "rescore": "greedy",
    "autopruner": "autopruner",
    "soft_clusters": "soft_clusters",
}
"""Key -> the search that it is for."""

VARIED: tuple[Search, ...] = ("uniform", "rates")
"""The searches whose widths do not depend on which channels go."""


def _budget(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r}: must be a share such as 50% or an amount such as 60M")
    if isinstance(value, str) and re.fullmatch(r"\s*100(\.0*)?\s*%\s*", value):
        raise ValueError(f"the budget {value!r} is already met; it must be below the dense network")
    parse_budget(value, WHOLE)  # only its form: whether it can be met is known once there is a network
    return value


def _rates(value: Any) -> Any:
    """Refuse rates that no network could have; whose layers they name is known once there is one."""
    if isinstance(value, str) and value not in PUBLISHED_RATES:
        try:
            parse_rates(value)
        except ConfigError as error:
            raise ValueError(f"{error}; or a name: {', '.join(PUBLISHED_RATES)}") from None
    return value


def _share(value: Any) -> Any:
    if value is not None and (not isinstance(value, str) or not re.fullmatch(r"\s*\d+(\.\d*)?\s*%\s*", value)):
        raise ValueError(f"{value!r}: must be a share of the dense network's cost such as 80%")
    return _budget(value)


def _every(value: Any) -> Any:
    """Return after how many steps: one where the value is true, never where it is false."""
    return (1 if value else None) if isinstance(value, bool) else value


def _cost(description: str) -> Any:
    """Return the field of a cost that may have a budget."""
    return Field(
        default=None, description=f"{description}: a share of the dense network's ('50%') or an amount ('60M')"
    )


def _latency(value: Any) -> Any:
    if value is None or (isinstance(value, str) and (found := MILLISECONDS.fullmatch(value)) and float(found[1]) > 0):
        return value
    if not isinstance(value, str) or "%" not in value:
        raise ValueError(f"{value!r}: must be a share of the dense network's time such as 60%, or a time such as 2.5ms")
    return _budget(value)


MILLISECONDS = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*ms\s*")
Budget = Annotated[Amount | None, BeforeValidator(_budget)]


class BudgetConfig(Section):
    """What the pruned network may cost: one cost, or several that are all to be met."""

    macs: Budget = _cost("multiply-accumulates of one image")
    parameters: Budget = _cost("parameters")
    bytes: Budget = _cost("bytes of the stored tensors, parameters and running statistics")
    flops2: Budget = _cost("operations as AutoPruner's tables count them, two a multiply-accumulate")
    thop: Budget = _cost("multiply-accumulates as thop counts them, batch norms included")
    hrank: Budget = _cost("multiply-accumulates as HRank's tables count them, each layer with all of its dense inputs")
    hrank_parameters: Budget = _cost("parameters as HRank's tables count them")
    latency: Annotated[str | None, BeforeValidator(_latency)] = Field(
        default=None,
        description="time of a batch in ONNX Runtime: a share of the dense network's ('60%') or a time ('2.5ms')",
    )
    provider: Literal["cpu", "cuda"] | None = Field(
        default=None, description="latency: execution provider it is measured on; null: that of onnx"
    )
    batch: Count = Field(default=1, description="latency: images in a run")

    @property
    def given(self) -> dict[str, Amount]:
        """Name of each cost that has a budget -> the budget, the cost that the plan is counted in first."""
        if self.latency is None:
            return self.counted
        found = MILLISECONDS.fullmatch(self.latency)
        return {**self.counted, "latency": float(found[1]) if found else self.latency}

    @property
    def counted(self) -> dict[str, Amount]:
        """The same without the latency, which is not counted but measured."""
        return {
            name: value for name in self._costs() if name != "latency" and (value := getattr(self, name)) is not None
        }

    @model_validator(mode="after")
    def _some_budget(self) -> Self:
        if not self.given:
            raise ValueError(f"no budget; give at least one of {', '.join(self._costs())}, e.g. {{macs: 50%}}")
        if self.latency is None and (stray := {"provider", "batch"} & self.model_fields_set):
            raise ValueError(f"{' and '.join(sorted(stray))}: only a budget of latency has them, e.g. {{latency: 60%}}")
        return self

    @classmethod
    def _costs(cls) -> list[str]:
        return [name for name in cls.model_fields if name not in ("provider", "batch")]

    @model_serializer(mode="wrap")
    def _only_given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        given = {name: value for name, value in serialize(self).items() if value is not None}
        return given if self.latency else {name: value for name, value in given.items() if name != "batch"}


class WorthConfig(Section):
    """What a candidate of a search is worth."""

    measure: Literal["accuracy", "loss", "fidelity"] = Field(
        default="accuracy",
        description="accuracy; loss: the mean cross-entropy, the less the better; fidelity: how close the answers come "
        "to the dense network's, without labels",
    )
    recovery: Recovery = Field(
        default="none",
        description="what a candidate gets before it is judged: none, recalibrate (batch norm measured afresh) or "
        "compensate (new weights behind what goes); on the training images that recover reads",
    )
    images: Count = Field(default=1000, description="validation images that a candidate is judged on")

    def smoke(self, images: int) -> WorthConfig:
        """Return the same with at most so many images."""
        return self.model_copy(update={"images": min(self.images, images)})


class ShallowConfig(Section):
    """The plan that a search found for a shallower network of the same family."""

    plan: Path = Field(description="its plan.json, or the folder of its run or search")
    build: str = Field(description="import path of what builds the shallow network, `package.module:callable`")
    arguments: dict[str, Any] = Field(default={}, description="keyword arguments of that callable")


class PlanConfig(Section):
    """How many channels each layer keeps."""

    search: Annotated[tuple[Search, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("curves",),
        description="curves: the widths at which the layers that read the channels lose least; uniform: the same share "
        "of every layer; greedy: step by step what the network feels least; refine: swaps from the curves on; rates: "
        "stated shares; distilled: what a shallow network spared, stage by stage; cross_layer: one ranking of all "
        "weights; global_ranking: one ranking of all channels, by evolution; autopruner: what gates learn, trained "
        "with the network, at uniform widths; soft_clusters: filters that become equal while they train, at uniform "
        "widths; or a list of them",
    )
    budget: BudgetConfig = Field(
        description="what the pruned network may cost, e.g. {macs: 50%}, or several: {macs: 50%, parameters: 400K}"
    )
    round_to: Count = Field(
        default=8, description="widths are multiples of it: odd widths run slowly; rates state theirs"
    )
    min_keep: Count = Field(default=1, description="channels that every layer keeps at least")
    delta: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=0.01, description="greedy: the least share of the dense cost that one step frees"
    )
    greedy_from: Annotated[str | None, BeforeValidator(_share)] = Field(
        default=None,
        description="greedy: begin from the curves' widths at this share of each cost, such as 80%; null: from the "
        "dense network",
    )
    rescore: Annotated[Count | None, BeforeValidator(_every)] = Field(
        default=None,
        description="greedy: score the network as cut so far anew, true after each step, a number after so many",
    )
    worth: WorthConfig = Field(
        default=WorthConfig(), description="greedy, refine, global_ranking: what a candidate is worth"
    )
    generations: Count = Field(default=400, description="global_ranking: candidates that are judged after the first")
    evaluations: Count = Field(default=200, description="refine: candidates that are judged at most")
    rates: Annotated[str | dict[str, Number] | None, BeforeValidator(_rates)] = Field(
        default=None,
        description="rates: the share of its channels that each layer loses: a name such as resnet56 (published with "
        "HRank), text such as '[0.1]+[0.6]*35' with a rate for each group, or a mapping from layers to rates",
    )
    shallow: ShallowConfig | None = Field(default=None, description="distilled: the plan of a shallow network")
    exponent: Annotated[Number, Field(ge=0)] = Field(
        default=1.0, description="cross_layer: by which power of a layer's cost its weights are divided"
    )
    unit_cost: Literal["layers", "block"] = Field(
        default="layers",
        description="cross_layer: that cost: layers, of those that make the channels; block: also of those that read "
        "them, as published for residual networks",
    )
    autopruner: AutoPrunerConfig | None = Field(
        default=None, description="autopruner: how its gates are trained; null: by the defaults"
    )
    soft_clusters: SoftClustersConfig | None = Field(
        default=None, description="soft_clusters: how the network is trained meanwhile; null: by the defaults"
    )
    variant: Annotated[tuple[Variant, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("low",),
        description="uniform, rates: which channels go: low, those of the lowest scores; or the ablations edge (both "
        "ends), random, reverse (the highest), middle; or a list of them, each a run of its own",
    )
    residual: Literal["joint", "skip", "mask"] = Field(
        default="joint",
        description="joint: layers that a shortcut sums are pruned together; skip: they stay as they are; mask: each "
        "alone, by zeros in place, which makes nothing smaller",
    )
    ignore: tuple[str, ...] = Field(default=(), description="layers that keep all their channels, by name")

    @model_validator(mode="after")
    def _searches_differ(self) -> Self:
        if len(set(self.search)) != len(self.search):
            raise ValueError(f"search: {', '.join(self.search)}: the same search twice")
        return self

    @model_validator(mode="after")
    def _variants_fit_searches(self) -> Self:
        if len(set(self.variant)) != len(self.variant):
            raise ValueError(f"variant: {', '.join(self.variant)}: the same variant twice")
        others = [search for search in self.search if search not in VARIED]
        if self.variant != ("low",) and others:
            raise ValueError(f"variant: a key of the searches {', '.join(VARIED)}, but the search is {others[0]}")
        return self

    @model_validator(mode="after")
    def _keys_fit_searches(self) -> Self:
        for key, search in OWN.items():
            given = getattr(self, key) is not None
            if given and search not in self.search:
                raise ValueError(f"{key}: a key of search: {search}, but the search is {', '.join(self.search)}")
            if search in self.search and key in NEEDED and not given:
                meaning = type(self).model_fields[key].description
                raise ValueError(f"search: {search} needs the key {key}: {str(meaning).partition(': ')[2]}")
        return self

    def smoke(self, images: int) -> PlanConfig:
        """Return the same for the first search alone, with at most so many images and evaluations."""
        first = self.search[0]
        few: dict[str, Any] = {
            "worth": self.worth.smoke(images),
            "evaluations": min(self.evaluations, images),
            "generations": min(self.generations, images),
        }
        if first == "autopruner":
            gates = self.autopruner or AutoPrunerConfig()
            few["autopruner"] = gates.model_copy(update={"epochs": 1, "granularity": "all"})
        if first == "soft_clusters":
            training = self.soft_clusters or SoftClustersConfig()
            few["soft_clusters"] = training.model_copy(update={"epochs": 1, "warmup_epochs": 0.0})
        return self.for_search(first).model_copy(update=few)

    def for_search(self, search: Search) -> PlanConfig:
        """Return the same for one search and variant, without the keys that are for others."""
        foreign = {key: None for key, owner in OWN.items() if owner != search}
        variant = self.variant[:1] if search in VARIED else ("low",)
        return self.model_copy(update={"search": (search,), "variant": variant, **foreign})
