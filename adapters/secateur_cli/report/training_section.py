"""The parts of a report on training: how it was done, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from secateur_cli.report import plots
from secateur_cli.report.page import Figure, Report, Section, Table, part
from secateur_cli.wording import NONE, percent


def training_section(report: Report, key: str, settings: str, title: str) -> Section | None:
    """Return what the epochs of one training gave, None where there was none.

    Args:
        report: of the run.
        key: where the epochs stand in it, with dots from part to part.
        settings: the section of the configuration that says how.
        title: of the section.
    """
    epochs = part(report, *key.split(".")).get("epochs") or []
    if not epochs:
        return None
    rows = [
        [str(e.get("epoch")), NONE if e.get("loss") is None else f"{e['loss']:.4f}", percent(e.get("accuracy"))]
        for e in epochs
    ]
    table = Table(
        ["epoch", "training loss", "top-1, validation"], rows, f"All {len(rows)} epochs" if len(rows) > 8 else ""
    )
    name = key.replace("_", "-").replace(".", "-")
    figures = [Figure(plots.epochs_plot(epochs, name), "Accuracy and training loss by epoch.")] if len(rows) > 2 else []
    how = recipe_in_words(part(report, "config", settings))
    text = [how] if how else []
    judged = any(e.get("accuracy") is not None for e in epochs)
    if judged and (chosen := part(report, *key.split(".")).get("chosen")):
        text.append(f"Each epoch was judged on the validation images; the weights are those of epoch {chosen}.")
    rounds = [
        [str(number), ", ".join(one["groups"]), str(one["epochs"]), str(one["chosen"]), percent(one["accuracy"])]
        for number, one in enumerate(part(report, key).get("rounds") or [], 1)
    ]
    if rounds:
        text.append(f"Layer by layer: {len(rounds)} rounds, in each of which the channels of a group went first.")
        head = ["round", "group", "epochs", "chosen", "top-1, validation"]
        return Section(name, title, text, figures, tables=[Table(head, rounds)], folded=[table])
    if len(rows) > 8:
        return Section(name, title, text, figures, folded=[table])
    return Section(name, title, text, figures, tables=[table])


def recipe_in_words(settings: Mapping[str, Any]) -> str:
    """Return a sentence or two on how a network was trained.

    Example:
        >>> recipe_in_words({"optimizer": "sgd", "learning_rate": 0.01, "schedule": "cosine", "freeze": 0.15})
        'By SGD at a learning rate of 0.01, falling on a cosine; 15.0% of the filters of each layer frozen.'
    """
    if not settings.get("optimizer"):  # a report of an earlier version, or a section that says less
        return _briefly(settings)
    name = {"sgd": "SGD", "adamw": "AdamW"}.get(settings["optimizer"], settings["optimizer"])
    words = [f"By {name} at a learning rate of {settings.get('learning_rate')}, {_falling(settings)}"]
    if settings.get("distillation"):
        at = f"at temperature {settings.get('temperature'):g}"
        words.append(f"{percent(settings['distillation'])} of the loss by the logits of the dense network, {at}")
    if settings.get("feature_weight"):
        words.append("its feature maps at the ends of blocks compared")
    if settings.get("freeze"):
        words.append(f"{percent(settings['freeze'])} of the filters of each layer frozen")
    if settings.get("restart_batch_norm"):
        words.append("batch norm from its beginning")
    if settings.get("mixup"):
        words.append(f"images mixed by Beta({settings['mixup']:g}, {settings['mixup']:g})")
    if settings.get("average"):
        words.append(f"the weights a moving average with decay {settings['average']:g}")
    if settings.get("precision", "float32") != "float32":
        words.append(f"convolutions in {settings['precision']}")
    return "; ".join(words) + "."


def _falling(settings: Mapping[str, Any]) -> str:
    """Return how the learning rate falls; milestones at the end of a training and behind it are never met."""
    if settings.get("schedule") == "cosine":
        return "falling on a cosine"
    met = [f"{m:g}" for m in settings.get("milestones") or () if m < settings.get("epochs", math.inf)]
    return f"falling after epochs {', '.join(met)}" if met else "which never falls"


def _briefly(settings: Mapping[str, Any]) -> str:
    rate, precision = settings.get("learning_rate"), settings.get("precision", "float32")
    if rate is None:
        return ""
    return f"At a learning rate of {rate}{'' if precision == 'float32' else f'; convolutions in {precision}'}."
