"""Numbers and verdicts in words: what a report says, without how it looks.

References:
    [Wilson1927] E. B. Wilson. Probable inference, the law of succession, and statistical inference. JASA 22, 1927.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from secateur_onnx.comparison import milliseconds as in_milliseconds

NONE = "\N{EN DASH}"
PROVIDERS = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
NORMAL_95 = 1.959963984540054


def is_shown(character: str) -> bool:
    """Return whether a character is text that can be seen, or room between such.

    Example:
        >>> is_shown("é"), is_shown("\N{NO-BREAK SPACE}"), is_shown("\N{RIGHT-TO-LEFT OVERRIDE}")
        (True, True, False)
    """
    return character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"


def amount(value: float | None, unit: str = "") -> str:
    """Return a count with three digits and a decimal prefix.

    Example:
        >>> amount(5_930_000, "MACs"), amount(999_999, "B"), amount(640), amount(0.2134, "ms"), amount(None)
        ('5.93 M MACs', '1.00 MB', '640', '0.213 ms', '–')
    """
    if value is None:
        return NONE
    if unit == "ms":
        return milliseconds(value)
    scaled, prefix = float(value), ""
    for larger in ("k", "M", "G", "T"):
        if abs(scaled) < 999.5:
            break
        scaled, prefix = scaled / 1000, larger
    digits = 0 if not prefix and scaled == int(scaled) else max(0, 2 - math.floor(math.log10(abs(scaled) or 1)))
    number = f"{scaled:.{min(digits, 2)}f}"
    if unit == "B":
        return f"{number} {prefix}B"
    return " ".join(part for part in (number, prefix, unit) if part)


def percent(share: float | None) -> str:
    """Return a share with one decimal.

    Example:
        >>> percent(0.9754), percent(1), percent(None)
        ('97.5%', '100.0%', '–')
    """
    return NONE if share is None else f"{100 * share:.1f}%"


def points(difference: float | None) -> str:
    """Return the difference of two shares in percentage points, with its sign.

    Example:
        >>> points(-0.0104), points(0.002), points(0.0)
        ('−1.0 points', '+0.2 points', '0.0 points')
    """
    return NONE if difference is None else f"{_signed(100 * difference)} points"


def change(before: float | None, after: float | None) -> str:
    """Return how much smaller or larger `after` is, as a share of `before`.

    Example:
        >>> change(200, 101), change(0, 5)
        ('−49.5%', '–')
    """
    return NONE if not before or after is None else f"{_signed(100 * (after / before - 1))}%"


def tiny(value: float | None) -> str:
    """Return a difference with two digits.

    Example:
        >>> tiny(2.13e-7), tiny(0.0), tiny(None)
        ('2.1e-07', '0', '–')
    """
    return NONE if value is None else f"{value:.2g}"


def milliseconds(value: float | None) -> str:
    """Return a time with three digits.

    Example:
        >>> milliseconds(0.71234), milliseconds(None)
        ('0.712 ms', '–')
    """
    return NONE if value is None else in_milliseconds(value)


def duration(seconds: float | None) -> str:
    """Return a time in minutes and seconds.

    Example:
        >>> duration(93.1), duration(8)
        ('1 min 33 s', '8 s')
    """
    if seconds is None:
        return NONE
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending whole numbers, runs of three and more written as their ends.

    Example:
        >>> ranges([0, 1, 2, 5, 6, 9])
        '0–2, 5, 6, 9'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}{NONE}{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)


def wilson_interval(share: float, trials: int) -> tuple[float, float]:
    """Return the 95% interval of a probability that was met in a share of independent trials.

    Formula: (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.96 [Wilson1927]. It stays within [0, 1],
    keeps a width where all trials agree, and holds the share itself, whatever rounding does to its ends.

    Example:
        >>> [round(end, 3) for end in wilson_interval(0.975, 400)]
        [0.955, 0.986]
    """
    if trials < 1:
        return 0.0, 1.0
    z2 = NORMAL_95**2 / trials
    centre = share + z2 / 2
    reach = math.sqrt(z2) * math.sqrt(share * (1 - share) + z2 / 4)
    low, high = max(0.0, (centre - reach) / (1 + z2)), min(1.0, (centre + reach) / (1 + z2))
    return min(low, share), max(high, share)


def speed(comparison: Mapping[str, Any]) -> str:
    """Return a comparison of times in words: faster or slower only where the whole interval says so.

    Example:
        >>> speed({"ratio": 1.826, "lower": 1.78, "upper": 1.9}), speed({"ratio": 1.03, "lower": 0.98, "upper": 1.09})
        ('1.83 times as fast', 'not faster')
    """
    if not _measured(comparison):
        return NONE
    if comparison["lower"] > 1:
        return f"{comparison['ratio']:.{_digits(comparison)}f} times as fast"
    return "slower" if comparison["upper"] < 1 else "not faster"


def spread(comparison: Mapping[str, Any]) -> str:
    """Return the interval of the ratio of the times, with the ratio itself where `speed` does not name it.

    Example:
        >>> spread({"ratio": 1.826, "lower": 1.78, "upper": 1.9, "confidence": 0.95})
        '95% interval 1.78 to 1.90'
    """
    if not _measured(comparison):
        return NONE
    digits = _digits(comparison)
    ratio, lower, upper = (f"{comparison[key]:.{digits}f}" for key in ("ratio", "lower", "upper"))
    interval = f"{comparison.get('confidence') or 0.95:.0%} interval {lower} to {upper}"
    return interval if comparison["lower"] > 1 else f"{ratio} times the speed, {interval}"


def _measured(comparison: Mapping[str, Any]) -> bool:
    return all(comparison.get(key) is not None for key in ("ratio", "lower", "upper"))


def _digits(comparison: Mapping[str, Any]) -> int:
    """Return how many decimals keep the interval from being rounded onto 1."""
    return 2 if min(abs(comparison[key] - 1) for key in ("lower", "upper")) >= 0.01 else 4


def batch(comparison: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Return what was timed: the batch size, and how, where there is more than one way."""
    ways = {c.get("measured") for c in comparisons}
    way = f", {comparison.get('measured')}" if len(ways) > 1 else ""
    return f"batch {comparison.get('batch_size')}{way}"


def cautions(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return why measured speeds should be doubted, those that should.

    Example:
        >>> cautions([{"batch_size": 1, "caution": None}, {"batch_size": 8, "caution": "the times scatter"}])
        ['batch 8: the times scatter']
    """
    return [f"{batch(c, comparisons)}: {c['caution']}" for c in comparisons if c.get("caution")]


def peaks(timed: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Return batch size and peak memory of dense and pruned in a benchmark; only where both are known.

    Example:
        >>> peaks({"dense": {"peak_bytes": {"1": 30, "8": 90}}, "pruned": {"peak_bytes": {"1": 20, "8": None}}})
        [('1', 30, 20)]
    """
    dense, pruned = ((timed.get(side) or {}).get("peak_bytes") or {} for side in ("dense", "pruned"))
    return [(size, peak, pruned[size]) for size, peak in dense.items() if peak and pruned.get(size)]


def few_positions(layers: Sequence[Mapping[str, Any]]) -> str:
    """Return which layers were solved for from fewer output positions than they have weights; "" where none was.

    Example:
        >>> few_positions([{"layer": "head", "rows": 5, "unknowns": 16}, {"layer": "stem", "rows": 99, "unknowns": 9}])
        'too few images to settle all weights of 1 of 2 layers: head (5 positions for 16 weights). There the weights \
stay near what they were; more images would serve better.'
    """
    few = [fit for fit in layers if fit["rows"] < fit["unknowns"]]
    if not few:
        return ""
    named = ", ".join(f"{fit['layer']} ({fit['rows']:,} positions for {fit['unknowns']:,} weights)" for fit in few[:4])
    more = f" and {len(few) - 4} more" if len(few) > 4 else ""
    return (
        f"too few images to settle all weights of {len(few)} of {len(layers)} layers: {named}{more}. There the weights "
        "stay near what they were; more images would serve better."
    )


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def with_room(fact: Mapping[str, Any]) -> dict[str, str]:
    """Return bits -> the type in the ONNX file, where it is larger because ONNX has 2, 4, 8 and 16 bits alone.

    Example:
        >>> with_room({"stored": {"8": "INT8", "3": "INT4", "2": "INT8"}, "wider": {"2": "not known here"}})
        {'3': 'INT4'}
    """
    stored, wider = fact.get("stored") or {}, fact.get("wider") or {}
    return {bits: kind for bits, kind in stored.items() if kind != f"INT{bits}" and bits not in wider}
