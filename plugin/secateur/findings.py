"""What a check found, as data: what is so, why it matters, and the command that mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from secateur.errors import ConfigError

Severity = Literal["error", "warning", "fine"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at, in a word or two.
        what: what is so.
        severity: "error": something that is installed or asked for fails, or does another thing than it says;
            "warning": it works, but worse or less than it could; "fine".
        why: what that means for the user; "" only where all is fine.
        mend: commands that change it, to be given one after another; empty where no command can.

    Raises:
        ConfigError: the severity is not one of these, or an error or a warning does not say why it matters.

    Example:
        >>> Finding("numba", "not installed", "fine", "HRank takes longer", ("pip install numba",)).to_json()["mend"]
        ['pip install numba']
    """

    check: str
    what: str
    severity: Severity = "fine"
    why: str = ""
    mend: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.severity not in get_args(Severity):
            raise ConfigError(f"unknown severity {self.severity!r}; allowed: {', '.join(get_args(Severity))}")
        if self.severity != "fine" and not self.why:
            raise ConfigError(f"the finding on {self.check!r} is of severity {self.severity!r}, but does not say why")

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"mend": list(self.mend)}


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the highest severity among the findings; "fine" where there are none.

    Example:
        >>> worst([Finding("a", "is so"), Finding("b", "is so", "warning", "it is slow")])
        'warning'
    """
    order: tuple[Severity, ...] = get_args(Severity)
    return min((finding.severity for finding in findings), key=order.index, default="fine")
