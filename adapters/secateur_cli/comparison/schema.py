"""What a comparison can be told: the sections of a run that apply, and `compare`.

`plan` says how widths are found whatever the budget (round_to, residual, ignore, delta, worth, exponent, unit_cost),
`score` the tap and the images, `recover` how many images recovery reads and what fine-tuning starts from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from secateur.search import parse_budget
from secateur_cli.comparison.contenders import AUTOPRUNER, HOUSES, check_name, house_and_name, learns
from secateur_cli.settings.plan_schema import WHOLE, BudgetConfig
from secateur_cli.settings.schema import RunConfig
from secateur_cli.settings.values import Count, Section, as_tuple

CompareSearch = Literal["uniform", "greedy", "curves", "cross_layer"]
Stage = Literal["cut", "recalibrated", "compensated", "fine-tuned"]
SMOKE_IMAGES = 32


def _as_contender(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _as_seeds(value: Any) -> Any:
    """Refuse a number by itself, which may be meant as how many seeds there are."""
    if isinstance(value, int):
        raise ValueError(f"must be a list of seeds such as [0, 1, 2], or [{value}] for that one alone; found {value}")
    return value


def _in_order(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Return the stages as a network comes to them, however they are listed: the last one decides who leads."""
    return tuple(sorted(stages, key=get_args(Stage).index))


def _as_budget(value: Any) -> Any:
    return value if isinstance(value, (Mapping, BudgetConfig)) else {"macs": value}


class ContenderConfig(Section):
    """A criterion that takes part."""

    name: str = Field(
        description="a name in secateur.criteria such as hrank; torch-pruning: and magnitude, bn-scale, fpgm, lamp, "
        "random or taylor; nni: and l1, l2, fpgm, taylor or slim; or autopruner, which learns channels while it trains "
        "the network, for the search uniform alone"
    )
    options: dict[str, Any] = Field(
        default={},
        description="keyword arguments of the criterion, importance or pruner; autopruner: the keys of plan.autopruner",
    )
    samples: Count | None = Field(
        default=None, description="training images that it reads; null: score.samples, or as many as it asks for"
    )

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        try:
            check_name(self.name, self.options)
        except TypeError as error:
            raise ValueError(f"options do not fit the criterion {self.name!r}: {error}") from error
        if self.learns and self.samples is not None:
            raise ValueError(f"samples: {self.name} trains on all training images")
        return self

    @property
    def learns(self) -> bool:
        """Whether its channels are learnt while it trains the network."""
        return learns(self.name)

    def smoke(self) -> ContenderConfig:
        """Return the same on as many images as it asks for, or trained for one epoch."""
        short = {"epochs": 1, "granularity": "all"} if self.learns else {}
        return self.model_copy(update={"samples": None, "options": {**self.options, **short}})

    @property
    def house(self) -> str:
        """Whose code it is."""
        return house_and_name(self.name)[0]

    @property
    def label(self) -> str:
        """What it is called in tables: its name within its house, and its options."""
        options = "".join(f" {key}={value}" for key, value in self.options.items())
        samples = "" if self.samples is None else f" on {self.samples:,}"
        return f"{house_and_name(self.name)[1]}{options}{samples}"

    @property
    def full_label(self) -> str:
        """The same with the house."""
        return f"{self.label} ({self.house})"


Contender = Annotated[ContenderConfig, BeforeValidator(_as_contender)]
Budget = Annotated[BudgetConfig, BeforeValidator(_as_budget)]
Seed = Annotated[int, Field(strict=True, ge=0)]
Stages = Annotated[tuple[Stage, ...], BeforeValidator(as_tuple), AfterValidator(_in_order), Field(min_length=1)]


def _told_apart(value: Any) -> str:
    """Return what two values that mean the same have in common: a budget may be written in several ways."""
    if isinstance(value, BudgetConfig):
        return str({cost: parse_budget(amount, WHOLE) for cost, amount in value.given.items()})
    return str(getattr(value, "full_label", value))


class CompareConfig(Section):
    """What is compared."""

    criteria: Annotated[tuple[Contender, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        description="who takes part: names, or mappings {name: torch-pruning:magnitude, options: {p: 1}}"
    )
    searches: Annotated[tuple[CompareSearch, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("uniform", "curves"),
        description="how a budget is shared out over the layers: uniform, greedy, curves, cross_layer (by the keys "
        "exponent and unit_cost of `plan`)",
    )
    budgets: Annotated[tuple[Budget, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=(BudgetConfig(macs="50%"),),
        description="shares or amounts of the dense network's MACs such as 50%, or mappings {parameters: 50%}",
    )
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_as_seeds), Field(min_length=1)] = Field(
        default=(0, 1, 2),
        description="each decides which training images are scored and recovered on, the random criteria and training",
    )
    stages: Stages = Field(
        default=("cut", "recalibrated", "compensated"),
        description="when accuracy is measured: cut, recalibrated, compensated, fine-tuned",
    )
    latency: bool = Field(default=False, description="whether networks are timed in ONNX Runtime, as `onnx` says")

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        if any(budget.latency is not None for budget in self.budgets):
            raise ValueError("budgets: latency is measured in a comparison (latency: true), and has no budget there")
        for key in ("criteria", "searches", "budgets", "seeds", "stages"):
            known: list[str] = []
            for value in getattr(self, key):
                if (told := _told_apart(value)) in known:
                    raise ValueError(f"{key}: {getattr(value, 'full_label', None) or value}: the same twice")
                known.append(told)
        return self

    @model_validator(mode="after")
    def _learnt_at_uniform_widths(self) -> Self:
        if "uniform" not in self.searches and any(contender.learns for contender in self.criteria):
            raise ValueError(
                f"searches: {AUTOPRUNER} learns its channels at uniform widths, and {', '.join(self.searches)} would "
                "leave it out: add uniform to the searches, or take it out of criteria"
            )
        return self


class CompareRun(RunConfig):
    """A comparison on one network and data set, under one schedule."""

    compare: CompareConfig = Field(description="what is compared")

    @model_validator(mode="before")
    @classmethod
    def _widths_come_from_compare(cls, given: Any) -> Any:
        """Give `plan` the budget that it must have and no comparison reads; refuse what `compare` says instead."""
        if isinstance(given, dict) and "compare" not in given:
            raise ValueError("compare: missing; a comparison says what is compared, such as {criteria: [hrank, l1]}")
        plan = given.get("plan") if isinstance(given, dict) else None
        if not isinstance(given, dict) or not isinstance(plan, (dict, type(None))):
            return given
        for key, instead in (("budget", "budgets"), ("search", "searches")):
            if key in (plan or {}):
                raise ValueError(f"plan.{key}: a comparison has several; they stand in compare.{instead}")
        if AUTOPRUNER in (plan or {}):
            raise ValueError(
                f"plan.{AUTOPRUNER}: in a comparison its keys are options of {AUTOPRUNER} in compare.criteria"
            )
        if "variant" in (plan or {}):
            raise ValueError("plan.variant: not in a comparison, in which the channels of the lowest scores go")
        for key in ("criterion", "options"):
            if isinstance(given.get("score"), dict) and key in given["score"]:
                raise ValueError(f"score.{key}: a comparison has several; they stand in compare.criteria")
        searches = list(get_args(CompareSearch))
        return given | {"plan": {**(plan or {}), "budget": {"macs": "50%"}, "search": searches}}

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if self.fine_tune is None and "fine-tuned" in self.compare.stages:
            raise ValueError("compare.stages: fine-tuned needs a schedule, but fine_tune is null")
        for key in ("greedy_from", "rescore"):
            if getattr(self.plan, key) is not None:
                raise ValueError(f"plan.{key}: not in a comparison, whose greedy search is the published one")
        if self.recover.method == "sketch":
            raise ValueError("recover: sketch: not in a comparison, since it takes no channels of any criterion")
        if self.fine_tune is not None and self.fine_tune.layer_by_layer:
            raise ValueError("fine_tune.layer_by_layer: not in a comparison, which trains once at the end")
        frozen = self.fine_tune is not None and self.fine_tune.freeze and "fine-tuned" in self.compare.stages
        if frozen and any(contender.learns for contender in self.compare.criteria):
            raise ValueError(
                f"fine_tune.freeze: goes by scores, which {AUTOPRUNER} does not have: leave one of them out"
            )
        for key, given in {"quantize": self.quantize, "onnx.int8": self.onnx.int8}.items():
            if given:
                raise ValueError(f"{key}: not in a comparison, whose networks are in float32")
        return self

    def smoke(self) -> CompareRun:
        """Return a copy that takes seconds: few images, the first of all, of the criteria that of each house.

        Where AutoPruner takes part, it does so beside another of ours.
        """
        short, compare = super().smoke(), self.compare
        kinds = [(house, learnt) for house in HOUSES for learnt in (False, True)]
        first = [next((c for c in compare.criteria if (c.house, c.learns) == kind), None) for kind in kinds]
        kept = [contender.smoke() for contender in first if contender is not None]
        few = compare.model_copy(
            update={
                "criteria": tuple(kept),
                "searches": ("uniform",) if any(c.learns for c in kept) else compare.searches[:1],
                "budgets": compare.budgets[:1],
                "seeds": compare.seeds[:1],
            }
        )
        fewer = {key: getattr(short, key).model_copy(update={"samples": SMOKE_IMAGES}) for key in ("score", "recover")}
        return self.model_copy(update={**dict(short), **fewer, "compare": few})

    def given(self) -> dict[str, Any]:
        """Return what is not left at its default, as plain data."""
        said = super().given()
        for key in ("budget", "search"):
            said["plan"].pop(key, None)
        return said

    def schedule(self) -> dict[str, Any]:
        """Return what all cells share and what decides their results, see `RunConfig.deciding`."""
        return {key: value for key, value in self.deciding().items() if key != "compare"}
