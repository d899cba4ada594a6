"""The result of a run in a few sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur_cli.costs import label, spent
from secateur_cli.wording import PROVIDERS, amount, batch, percent, speed, spread, tiny


def verdict(report: Mapping[str, Any]) -> list[str]:
    """Return the result of a run in a few sentences; steps that were switched off are left out.

    Example:
        >>> verdict({"plan": {"cost": "macs", "before": 200.0, "after": 99.0}})
        ['The pruned network needs 49.5% of the MACs.']
    """
    sentences = []
    plan, stages = report.get("plan") or {}, report.get("accuracy") or []
    needs = [f"{percent(cost['after'] / cost['before'])} of the {label(name)}" for name, cost in spent(plan).items()]
    if needs:
        sentences.append(f"The pruned network needs {' and '.join(needs)}.")
    if stages and stages[-1].get("accuracy") is not None:
        last, first = stages[-1], stages[0]
        dense = f" (dense: {percent(first.get('accuracy'))})" if len(stages) > 1 else ""
        subject = "It" if sentences and len(stages) > 1 else f"The network ({last.get('stage')})"
        sentences.append(f"{subject} reaches {percent(last['accuracy'])} top-1 on {last.get('images')} "
                         f"held-out images{dense}.")  # fmt: skip
    onnx = report.get("onnx") or {}
    if onnx.get("parity"):
        sentences.append(agreement(onnx["parity"]))
    timed = onnx.get("benchmark") or {}
    comparisons = sorted(timed.get("comparisons") or [], key=lambda c: -(c.get("batch_size") or 0))
    if comparisons:
        provider = PROVIDERS.get(str(timed.get("provider")), str(timed.get("provider")))
        sentences.append(f"Against the dense network in ONNX Runtime on {provider} it is {_speeds(comparisons)}")
    return sentences + _fewer_bits(report)


def _fewer_bits(report: Mapping[str, Any]) -> list[str]:
    """Return what few bits and static INT8 came to."""
    few, int8, sentences = report.get("quantization") or {}, report.get("int8") or {}, []
    if few:
        last = list((few.get("accuracy") or {}).values())[-1:] or [None]
        sizes = f"{amount(few.get('file_bytes'), 'B')} on disk instead of {amount(few.get('float_bytes'), 'B')}"
        sentences.append(
            f"With {few.get('bits_a_weight') or 0:.2f} bits a weight it takes {sizes}, and reaches {percent(last[0])}."
        )
    if int8:
        comparisons = (int8.get("benchmark") or {}).get("comparisons") or []
        share = percent(int8.get("accuracy"))
        sentences.append(
            f"In static INT8 it reaches {share}; beside its float file on the CPU that is {_speeds(comparisons)}"
        )
    return sentences


def _speeds(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Return the end of a sentence that tells speeds, and one more where some should be doubted."""
    said = "; ".join(f"{speed(c)} at {batch(c, comparisons)} ({spread(c)})" for c in comparisons) + "."
    doubted = [batch(c, comparisons) for c in comparisons if c.get("caution")]
    if not doubted:
        return said
    return f"{said} The times at {', '.join(doubted)} scatter as on a busy machine: measure again on an idle one."


def agreement(parity: Mapping[str, Any]) -> str:
    """Return whether the ONNX file computes what torch computes, in one sentence.

    Example:
        >>> agreement({"passed": True, "samples": 400, "top1_agreement": 1.0, "max_relative": 3.14e-7})
        'The ONNX file agrees with torch on 400 of 400 images (largest difference 3.1e-07 of the largest output).'
    """
    samples = parity.get("samples") or 0
    agreed = round((parity.get("top1_agreement") or 0) * samples)
    share = tiny(parity.get("max_relative"))
    if parity.get("passed"):
        return (
            f"The ONNX file agrees with torch on {agreed} of {samples} images "
            f"(largest difference {share} of the largest output)."
        )
    return (
        f"The ONNX file does not compute what torch computes: the largest difference is {share} of the largest output, "
        f"{tiny(parity.get('tolerance'))} is allowed; top-1 agrees on {agreed} of {samples} images."
    )
