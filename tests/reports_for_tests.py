"""A page as tests read it, and runs as a report sees them: with every step, with hardly any, with hostile names."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from secateur_cli.inputs.data import load_data
from secateur_cli.report.report import render_report
from secateur_cli.settings.schema import DataConfig

HOSTILE = (
    "\"><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)> $\\frac{1}{2}$ \x00\u202e\ud800"
)


class Page(HTMLParser):
    """What a page holds: elements with their attributes, text, and whether every element was closed in order."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    @property
    def section_names(self) -> list[str | None]:
        return [attributes.get("id") for tag, attributes in self.elements if tag == "section"]


def _timing(median: float, batch_size: int) -> dict[str, Any]:
    return {
        "median_ms": median,
        "p10_ms": 0.96 * median,
        "p90_ms": 1.1 * median,
        "images_per_second": 1000 * batch_size / median,
        "times_ms": [median] * 100,
    }


def _comparison(batch_size: int, dense: float, ratio: float, lower: float, upper: float) -> dict[str, Any]:
    return {
        "batch_size": batch_size,
        "measured": "end to end",
        "dense": _timing(dense, batch_size),
        "pruned": _timing(dense / ratio, batch_size),
        "ratio": ratio,
        "lower": lower,
        "upper": upper,
        "confidence": 0.95,
    }


@functools.cache
def _digits() -> Mapping[str, Any]:
    """The images as a run describes them."""
    return load_data(DataConfig(source="digits"), folder=Path(), seed=0).describe


def full_report() -> dict[str, Any]:
    """A run with every step, of a small residual network."""
    random = np.random.default_rng(0)
    names = ["stem", "block1.conv1", "block2.conv1", "block2.conv2", "block3.conv1", "block3.conv2"]
    groups = []
    for name, width in zip(names, (32, 32, 64, 64, 128, 128), strict=True):
        scores = np.sort(random.gamma(3.0, 1.2, width))[::-1].tolist()
        random.shuffle(scores)
        kept = sorted(np.argsort(scores)[width // 2 :].tolist())
        groups.append(
            {"name": name, "layers": [name, f"{name}.downsample"], "width": width, "kept": len(kept), "ties": 0,
             "scores": scores, "kept_channels": kept}
        )  # fmt: skip
    files = {"opset": 20, "exporter": "dynamo", "fallback_reason": None}
    nodes = {"CPUExecutionProvider": {"Add": 3, "Conv": 9, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 7}}
    stages = [
        ("dense", 0.985),
        ("channels removed", 0.8125),
        ("compensated", 0.9475),
        ("fine-tuned", 0.975),
    ]
    return {
        "format": 1,
        "created": "2026-11-20T12:00:00+00:00",
        "seconds": 93.1,
        "smoke": False,
        "command": "secateur run examples/digits.yaml",
        "versions": {"secateur": "0.1.0", "python": "3.11.7", "torch": "2.15.0", "onnxruntime": "1.31.1"},
        "machine": {"cpu": "AMD EPYC 9B14", "cores": 2, "threads": 2},
        "config": {"network": {"build": "secateur.networks:digits_resnet"}, "plan": {"budget": {"macs": "50%"}}},
        "network": {
            "build": "secateur.networks:digits_resnet",
            "weights": None,
            "skipped": {"head": "its channels are the network's outputs"},
        },
        "data": copy.deepcopy(dict(_digits())),
        "scores": {"criterion": "hrank", "settings": {"criterion": "hrank", "tap": "act", "samples": 500}},
        "plan": {
            "search": "greedy",
            "cost": "macs",
            "before": 1.2e7,
            "after": 5.93e6,
            "budget": 6.0e6,
            "fingerprint": "33b17dfa592c94ff",
            "settings": {"search": "greedy", "round_to": 8},
            "groups": groups,
        },
        "verification": {"largest_difference": 2.1e-7, "tolerance": 1e-4, "unchecked": {"norm": "mixes channels"}},
        "recovery": {
            "method": "compensate",
            "images": 1000,
            "seconds": 6.5,
            "layers": [
                {"layer": "block1.conv1", "rows": 64_000, "unknowns": 144, "before": 0.372, "after": 0.007},
                {"layer": "block2.conv1", "rows": 16_000, "unknowns": 288, "before": 0.493, "after": 0.062},
                {"layer": "head", "rows": 1000, "unknowns": 64, "before": 0.342, "after": 0.074},
            ],
            "left": {"block3.mix": "its weights are not its own"},
        },
        "accuracy": [{"stage": stage, "accuracy": share, "images": 400} for stage, share in stages],
        "cost": {
            "macs": {"before": 1.2e7, "after": 5.93e6},
            "parameters": {"before": 274_000, "after": 139_800},
            "torch_pruning_macs": {"before": 1.21e7, "after": 5.99e6},
            "file_bytes": {"before": 1_120_000, "after": 581_000},
        },
        "training": {"epochs": [{"epoch": e, "loss": 2.3 / e, "accuracy": 1 - 0.6 / e} for e in range(1, 21)]},
        "fine_tuning": {"epochs": [{"epoch": 1, "loss": 0.3, "accuracy": 0.97}]},
        "search": {
            "steps": [
                {"step": s, "group": names[s % 6], "width": 64 - s, "cost": 1.2e7 - 3e5 * s,
                 "worth": 0.985 - 0.0004 * s * s, "candidates": 6}
                for s in range(1, 21)
            ]
        },
        "onnx": {
            "dense": {"path": "dense.onnx", "file_bytes": 1_120_000, **files},
            "pruned": {"path": "pruned.onnx", "file_bytes": 581_000, **files},
            "parity": {"provider": "cpu", "samples": 400, "max_abs": 4e-6, "mean_abs": 5e-7, "max_relative": 3.1e-7,
                       "top1_agreement": 1.0, "tolerance": 1e-4, "passed": True},
            "benchmark": {
                "provider": "cpu",
                "threads": 2,
                "input_shape": [1, 8, 8],
                "seed": 0,
                "machine": {"cpu": "AMD EPYC 9B14", "cores": 2, "load": 0.31, "device": None},
                "dense": {"path": "dense.onnx", "file_bytes": 1_120_000, "assignment": nodes,
                          "peak_bytes": {"1": 14_600_000, "8": 16_900_000, "32": None}},
                "pruned": {"path": "pruned.onnx", "file_bytes": 581_000, "assignment": nodes,
                           "peak_bytes": {"1": 12_100_000, "8": 13_300_000, "32": 15_000_000}},
                "comparisons": [
                    _comparison(1, 0.31, 1.02, 0.97, 1.06),
                    _comparison(8, 1.9, 1.62, 1.55, 1.7),
                    _comparison(32, 7.4, 1.83, 1.78, 1.9),
                ],
            },
        },
    }  # fmt: skip


def quantized_report() -> dict[str, Any]:
    """The same run with fewer bits, rounded activations and static INT8."""
    report = full_report()
    parity = report["onnx"]["parity"] | {"tolerance": 0.016, "max_relative": 0.004}
    rows = [
        {"provider": "cpu", "how": "dequantised floats", "why": "slower than floats", "observed": {"floating": 3}},
        {"provider": "cuda", "how": "dequantised floats", "why": "no speed is claimed", "observed": None},
    ]
    few = {
        "order": "di",
        "bits_a_weight": 4.25,
        "filters": {"stem": {"8": 32}, "block1.conv1": {"3": 8, "6": 8}},
        "activations": {"stem": [8, 1.5, True], "head": [8, 2.5, False]},
        "float_bytes": 577_000,
        "file_bytes": 81_200,
        "accuracy": {"rounded": 0.93, "trained": 0.9725},
        "fine_tuning": {"epochs": [{"epoch": 1, "loss": 0.2, "accuracy": 0.98}]},
        "onnx": {"file_bytes": 93_000},
        "stored": {"3": "INT4", "6": "INT8"},
        "wider": {"3": "onnx does not know it"},
        "left": {"up": "a transposed convolution in groups"},
        "parity": parity,
        "execution": {"few bits and activations": rows},
    }
    int8 = {
        "file": {"path": "model.int8.onnx", "file_bytes": 160_000, "images": 256},
        "accuracy": 0.97,
        "top1_agreement": 0.99,
        "benchmark": {"comparisons": [_comparison(1, 0.3, 1.9, 1.8, 2.0)]},
        "execution": {"static INT8": [{**rows[0], "how": "integer kernels"}]},
    }
    return report | {"quantization": few, "int8": int8}


def minimal_report() -> dict[str, Any]:
    """A run that scored and planned and did nothing else."""
    full = full_report()
    return {key: full[key] for key in ("format", "created", "command", "network", "plan")}


def hostile_report() -> dict[str, Any]:
    """A run whose every text, key or value, was chosen by an attacker."""

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spoil(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [spoil(inner) for inner in value]
        return f"{HOSTILE}{value}" if isinstance(value, str) else value

    report = quantized_report()
    report["network"]["skipped"] = {HOSTILE: HOSTILE}
    report["versions"][HOSTILE] = HOSTILE
    report["onnx"]["benchmark"]["dense"]["assignment"] = {HOSTILE: {HOSTILE: 1}}
    spoiled: dict[str, Any] = spoil(report)
    return spoiled


@functools.cache
def rendered(make: Callable[[], dict[str, Any]]) -> str:
    """Return the page of a run, made once."""
    return render_report(make())
