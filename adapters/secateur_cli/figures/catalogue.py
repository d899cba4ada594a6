"""The figures by name: what each shows, what it can be asked for, and what it measures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from secateur.criteria import known_criterion
from secateur.errors import ConfigError
from secateur.search.selection import Variant
from secateur_cli.figures import accuracies, kept_widths, selections, stability
from secateur_cli.figures.order import Found, Order, Until
from secateur_cli.progress import Progress
from secateur_cli.settings.config import nearest
from secateur_cli.settings.schema import RunConfig

BUDGETED = ("uniform", "curves", "greedy", "refine", "cross_layer")
"""The searches that any budget of MACs can be given to."""
CRITERIA = ("hrank", "di", "reconstruction", "l1", "fpgm", "taylor", "bn_scale", "random")
VARIANTS: tuple[Variant, ...] = ("low", "middle", "edge", "random", "reverse")
IMAGES = 1280


@dataclass(frozen=True)
class Points:
    """The horizontal axis: what stands on it by default, and between which numbers it lies, the ends left out.

    `closed` lets the lower end in.
    """

    usual: tuple[float, ...]
    low: float
    high: float
    closed: bool = False

    def checked(self, text: str) -> float:
        """Return the number that a text such as 30% or 1e-3 stands for. Raises ConfigError."""
        found = re.fullmatch(r"\s*([-+.\deE]+)\s*(%?)\s*", text)
        try:
            value = float(found[1]) / (100 if found[2] else 1) if found else None
        except ValueError:
            value = None
        if value is None or not (self.low < value < self.high or (self.closed and value == self.low)):
            start = "at least" if self.closed else "above"
            end = f" and below {self.high:g}" if self.high < float("inf") else ""
            raise ConfigError(
                f"--at {text!r}: must be numbers {start} {self.low:g}{end}, or percentages of 1, with commas between"
            )
        return value


@dataclass(frozen=True)
class Kind:
    """A figure: its name, what it shows in a few words, and its defaults; None where it cannot be asked for that.

    Attributes:
        measure: makes the numbers.
        seeds: how many runs.
        at: its horizontal axis.
        lines: what is compared by default.
        allowed: what may be compared.
        until: how far pruned networks are followed.
    """

    name: str
    shows: str
    measure: Callable[[Order], Found]
    seeds: int | None = None
    at: Points | None = None
    lines: tuple[str, ...] | None = None
    allowed: Callable[[str], None] = lambda _: None
    images: int | None = None
    until: Until | None = None

    def takes(self) -> list[str]:
        """Return the options that it can be asked for."""
        given = {"--seeds": self.seeds, "--at": self.at, "--lines": self.lines, "--images": self.images}
        return [option for option, usual in (given | {"--until": self.until}).items() if usual is not None]


def one_of(names: Sequence[str]) -> Callable[[str], None]:
    """Return what raises ConfigError for other names than these."""

    def check(name: str) -> None:
        if name not in names:
            raise ConfigError(f"--lines {name!r} is unknown; {nearest(name, names)}")

    return check


def _criterion(name: str) -> None:
    try:
        known_criterion(name)
    except ConfigError as error:
        raise ConfigError(f"--lines: {error}") from error


def _plan(name: str) -> None:
    if not kept_widths.is_path(name):
        one_of(BUDGETED)(name)


KEPT = Points((0.7, 0.5, 0.3), 0, 1)
KINDS = (
    Kind("rank-stability", "average rank of each channel, batch by batch of images, in layers from first to last",
         stability.rank_stability, images=IMAGES),
    Kind("di-stability", "scores by DI against the number of images they are read from: order and relative change",
         stability.di_stability, images=IMAGES),
    Kind("accuracy-against-delta", "accuracy against the step of the greedy search, with the candidates it judges",
         accuracies.accuracy_against_delta, 3, Points((0.04, 0.02, 0.01, 0.005), 0, 1), until="removed"),
    Kind("accuracy-against-rho", "accuracy against the ridge of DI, of full maps and of averages",
         accuracies.accuracy_against_rho, 3, Points((1e-5, 1e-3, 0.1, 10, 1000), 0, float("inf")),
         tuple(accuracies.POOLS), one_of(tuple(accuracies.POOLS)), until="removed"),
    Kind("criteria-over-ratios", "accuracy by criterion at several budgets of MACs, and the time that scoring takes",
         accuracies.criteria_over_ratios, 3, KEPT, CRITERIA, _criterion, until="removed"),
    Kind("allocations", "accuracy against MACs, by the search that allocates them to the layers",
         accuracies.allocations, 3, KEPT, ("uniform", "curves", "greedy"), one_of(BUDGETED), until="recovered"),
    Kind("selection-variants", "accuracy by which scores go: the lowest, both ends, the middle, any, the highest",
         selections.selection_variants, 3, None, VARIANTS, one_of(VARIANTS), until="recovered"),
    Kind("widths", "channels that each layer keeps, by search or by plans that were found",
         kept_widths.widths, 1, None, ("uniform", "curves", "greedy"), _plan),
    Kind("frozen-shares", "accuracy after fine-tuning with shares of the highest-ranked filters frozen",
         selections.frozen_shares, 3, Points((0.0, 0.15, 0.25), 0, 1, closed=True)),
)  # fmt: skip
FIGURES: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in KINDS})
"""Each figure by its name."""


def order_of(
    name: str,
    config: RunConfig,
    *,
    folder: Path,
    progress: Progress,
    smoke: bool = False,
    seeds: int | None = None,
    at: str | None = None,
    lines: str | None = None,
    images: int | None = None,
    until: Until | None = None,
    kept: Path | None = None,
) -> Order:
    """Return a figure as it was asked for, every default filled in.

    Args:
        name: of the figure.
        config: the run it is about.
        folder: where relative paths and modules of the configuration are looked up.
        progress: shows what happens.
        smoke: makes it quick: one seed, two points of the axis.
        seeds, at, lines, images, until: see `Order`; None for the figure's own; `at` and `lines` as text with commas.
        kept: see `Order`.

    Raises:
        ConfigError: no such figure, an option that it does not take, or one that is out of range.
    """
    if name not in FIGURES:
        raise ConfigError(f"no figure {name!r}; {nearest(name, list(FIGURES))}")
    kind = FIGURES[name]
    asked = {"--seeds": seeds, "--at": at, "--lines": lines, "--images": images, "--until": until}
    for option, value in asked.items():
        if value is not None and option not in kind.takes():
            raise ConfigError(f"the figure {name} does not take {option}; it takes {', '.join(kind.takes())}")
    number = (1 if smoke else kind.seeds or 1) if seeds is None else seeds
    if number < 1:
        raise ConfigError(f"--seeds {number}: must be at least 1")
    if images is not None and images < 2:
        raise ConfigError(f"--images {images}: must be at least 2")
    points = kind.at.usual if kind.at else ()
    if at is not None and kind.at is not None:
        points = tuple(kind.at.checked(text) for text in at.split(","))
    named = kind.lines or () if lines is None else tuple(text.strip() for text in lines.split(","))
    for line in named:
        kind.allowed(line)
    for option, values in (("--at", points), ("--lines", named)):
        if len(set(values)) < len(values):
            raise ConfigError(f"{option}: the same twice: {', '.join(map(str, values))}")
    if until == "fine-tuned" and config.fine_tune is None:
        raise ConfigError("--until fine-tuned: the run is not fine-tuned (fine_tune: null); say how to train")
    return Order(
        config=config,
        folder=folder,
        progress=progress,
        smoke=smoke,
        seeds=tuple(range(config.seed, config.seed + number)),
        at=points[:2] if smoke and at is None else points,
        lines=named,
        chosen=lines is not None,
        images=images or kind.images or 0,
        until=until or kind.until or "fine-tuned",
        kept=kept,
    )
