"""What the sections of the configuration are made of: a model that knows its keys, and the kinds of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from secateur.errors import ConfigError

Count = Annotated[int, Field(strict=True, gt=0)]
Threads = Annotated[int, Field(strict=True, gt=0, le=1024)]  # far more of them end the process without a word
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]  # what torch takes
Number = Annotated[float, Field(allow_inf_nan=False)]
Recovery = Literal["none", "recalibrate", "compensate"]
Method = Literal["none", "recalibrate", "compensate", "sketch"]


class Section(BaseModel):
    """A part of the configuration: immutable, and with no keys but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def as_tuple(value: Any) -> Any:
    """Return a single value as the only one of a list."""
    return (value,) if isinstance(value, (str, int, float)) else value


def with_home(path: Path) -> Path:
    """Return a path in which `~` is the home folder, and `~name` another user's.

    Raises:
        ConfigError: nobody of that name has a home folder here.

    Example:
        >>> with_home(Path("~/runs")) == Path.home() / "runs"
        True
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: there is no home folder {path.parts[0]}") from None
