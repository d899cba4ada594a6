"""The sections of a report on fewer bits: the filters' own, static INT8, and how each provider executes the files."""

from __future__ import annotations

from secateur_cli.report.deployment import medians
from secateur_cli.report.page import Report, Section, Table, part
from secateur_cli.report.quantized_table import activation_bits, executions
from secateur_cli.report.verdict import agreement
from secateur_cli.wording import NONE, PROVIDERS, amount, batch, change, percent, speed, spread, with_room

ORDERS = {
    "di": "Filters of high DI keep more bits than the others of their layer.",
    "reversed": "Filters of low DI keep more bits than the others of their layer, for comparison.",
    "random": "Which filters keep more bits was drawn at random, for comparison.",
    "uniform": "All filters have as many bits.",
}
THRESHOLDS = {
    "published": "Filters are clipped at their largest weight from 5 bits on, and below at the threshold of least "
    "divergence.",
    "largest": "Filters are clipped at their largest weight, which means not at all.",
    "least_squares": "Filters are clipped at the threshold of least squared error.",
}


def few_bits_section(report: Report) -> Section | None:
    """Return what fewer bits for the filters cost and gave; None where there were none."""
    found = part(report, "quantization")
    if not found:
        return None
    shares, floats = part(found, "accuracy"), (report.get("accuracy") or [{}])[-1].get("accuracy")
    ends = part(report, "config", "quantize").get("ends")
    apart = "" if ends is None else f" Those of the first and the last layer have {ends}."
    order, bits = ORDERS.get(str(found.get("order")), ""), found.get("bits_a_weight") or 0
    clipped = THRESHOLDS.get(str(found.get("thresholds", "published")), "")
    text = [
        f"{order}{apart} On average a weight has {bits:.2f} bits; each filter has a scale of its own. {clipped} "
        "The sizes are those on disk, scales and the map of levels counted.",
        agreement(part(found, "parity")),
    ]
    ranges = part(found, "activations")
    if ranges:
        text.append(
            f"{len(ranges)} layers read activations of {activation_bits(found)} bits, in ranges found on training "
            "images. A value at the border of two codes may round either way, which makes a whole step of a tiny "
            "difference; the tolerance of the comparison allows for it."
        )
    rows = [["pruned, in float32", percent(floats)], ["rounded", percent(shares.get("rounded"))]]
    if shares.get("trained") is not None:
        rows.append(["fine-tuned through the rounding", percent(shares["trained"])])
    tables = [Table(["", "top-1"], rows, "Accuracy on the held-out images")]
    pairs = [
        ("packed, safetensors", found.get("float_bytes"), found.get("file_bytes")),
        ("ONNX", part(report, "onnx", "pruned").get("file_bytes"), part(found, "onnx").get("file_bytes")),
    ]
    sizes = [[name, amount(before, "B"), amount(after, "B"), change(before, after)] for name, before, after in pairs]
    tables.append(Table(["file", "float32", "few bits", "change"], sizes))
    why = {**dict.fromkeys(with_room(found), "ONNX has 2, 4, 8 and 16 bits alone"), **part(found, "wider")}
    kinds = [[str(bits), str(kind), str(why.get(bits, NONE))] for bits, kind in part(found, "stored").items()]
    tables.append(Table(["bits", "type in the ONNX file", "why no narrower one"], kinds))
    left = [[name, str(reason)] for name, reason in part(found, "left").items()]
    if left:
        tables.append(Table(["layer", "why"], left, "Layers whose weights the ONNX file holds in float32"))
    filters = part(found, "filters")
    rows = [[name, ", ".join(f"{n} of {b} bits" for b, n in own.items())] for name, own in filters.items()]
    folded = [Table(["layer", "filters"], rows, f"Bits of the filters of all {len(rows)} layers")]
    return Section("few-bits", "Fewer bits", text, tables=tables, folded=folded)


def int8_section(report: Report) -> Section | None:
    """Return the accuracy and the speed of static INT8 beside the float file; None where it was not written."""
    found = part(report, "int8")
    if not found:
        return None
    timed, floats = part(found, "benchmark"), (report.get("accuracy") or [{}])[-1].get("accuracy")
    comparisons = timed.get("comparisons") or []
    text = [
        "The pruned ONNX file made one in 8-bit integers by onnxruntime's own quantizer, the ranges of activations "
        f"found on {part(found, 'file').get('images')} training images, and timed beside the float file in one process "
        f"on the CPU. It names the class that torch names for {percent(found.get('top1_agreement'))} of the held-out "
        "images."
    ]
    before, after = part(report, "onnx", "pruned").get("file_bytes"), part(found, "file").get("file_bytes")
    rows = [
        ["top-1, held out", percent(floats), percent(found.get("accuracy")), ""],
        ["file", amount(before, "B"), amount(after, "B"), change(before, after)],
        *([f"time, {batch(c, comparisons)}", *medians(c), f"{speed(c)} ({spread(c)})"] for c in comparisons),
    ]
    return Section("int8", "Static INT8", text, tables=[Table(["", "float32", "INT8", "INT8 is"], rows)])


def execution_section(report: Report) -> Section | None:
    """Return how each provider executes the quantized files; None where there are none."""
    rows = [
        [form, PROVIDERS.get(str(row.get("provider")), str(row.get("provider"))), str(row.get("how")),
         str(row.get("why")), "seen in its graph" if row.get("observed") else "not seen here"]
        for form, providers in executions(report).items() for row in providers
    ]  # fmt: skip
    if not rows:
        return None
    text = (
        "A small file is not a quick one. Weights in codes become floats at every run; with the session entry "
        "session.disable_quant_qdq set to 1 (few bits, unpacked) they become floats once, as the file is loaded."
    )
    table = Table(["file", "provider", "executed as", "what that means", "how it is known"], rows)
    return Section("execution", "How the quantized files are executed", [text], tables=[table])
