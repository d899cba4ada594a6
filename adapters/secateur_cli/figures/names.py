"""What lines are called in a figure and its table."""

from __future__ import annotations

NAMES = {
    "hrank": "HRank",
    "di": "DI",
    "l1": "L1",
    "l2": "L2",
    "fpgm": "FPGM",
    "taylor": "Taylor",
    "bn_scale": "BN scale",
    "rnf": "RNF",
    "dcff": "DCFF",
    "snr": "SNR",
    "cross_layer": "cross-layer",
}


def name_of(line: str) -> str:
    """Return what a line is called in a figure.

    Example:
        >>> name_of("hrank"), name_of("full maps")
        ('HRank', 'full maps')
    """
    return NAMES.get(line, line)
