"""Names of layers where there is room for few letters, still told apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

MAX_LETTERS = 24


def shortened(name: str, most: int = MAX_LETTERS) -> str:
    """Return a name, without its middle where it has more than so many letters.

    Example:
        >>> shortened("layer1.0.conv1"), shortened("features.denseblock1.denselayer12.conv1")
        ('layer1.0.conv1', 'features.de…yer12.conv1')
    """
    half = most // 2 - 1
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def told_apart(names: Sequence[str], most: int = MAX_LETTERS) -> list[str]:
    """Return names shortened; without the modules that they all lie in, where some would look alike otherwise.

    Those that still look alike are numbered.

    Example:
        >>> told_apart([f"features.denseblock{block}.denselayer1.conv1" for block in (1, 2)])
        ['…denseblock1…ayer1.conv1', '…denseblock2…ayer1.conv1']
        >>> told_apart(["stem", "layer1.0.conv1"])
        ['stem', 'layer1.0.conv1']
        >>> told_apart(["di pool=gap rho=0.001 on 1,280", "di pool=gap rho=0.01 on 1,280", "l1"], 18)
        ['di pool=…on 1,280 1', 'di pool=…on 1,280 2', 'l1']
    """
    short = [shortened(name, most) for name in names]
    if len({*short}) == len({*names}):
        return short
    parts = [name.split(".") for name in names]
    shared = len([*takewhile(lambda level: len({*level}) == 1, zip(*(part[:-1] for part in parts), strict=False))])
    if shared:
        short = [f"…{shortened('.'.join(part[shared:]), most)}" for part in parts]
    return _numbered(names, short)


def _numbered(names: Sequence[str], short: Sequence[str]) -> list[str]:
    """Return the short names, a number behind those that several names share."""
    own: dict[str, list[str]] = {}
    for name, text in zip(names, short, strict=True):
        if name not in own.setdefault(text, []):
            own[text].append(name)
    return [
        f"{text} {own[text].index(name) + 1}" if len(own[text]) > 1 else text
        for name, text in zip(names, short, strict=True)
    ]
