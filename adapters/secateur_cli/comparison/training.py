"""The dense network of a comparison, where it is trained here, and how any network of a comparison is trained."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from secateur.errors import ConfigError
from secateur.journal import Journal
from secateur.journal.identity import Identity, differences, flat
from secateur.modes import placed
from secateur.training import fine_tune
from secateur.weights import load_weights, read_safetensors, save_weights
from secateur_cli.claims import Claims
from secateur_cli.comparison.setting import DENSE_WEIGHTS, JOURNAL, Setting
from secateur_cli.inputs.data import Data
from secateur_cli.stages.identity import computes, hold_to
from secateur_cli.stages.job import going_on

DECIDING = ("network", "data", "train")  # the sections by which the dense network is trained
TRAINED_BY = "trained_by"
"""The name, in the metadata of the dense network's file, of what its training was decided by."""


def train_dense(setting: Setting, parts: Identity, claims: Claims) -> None:
    """Train the dense network where the configuration says so, unless its folder holds it; one process does.

    The folder of another comparison is refused before, by all `parts` of its identity but the weights, which may still
    be to be trained.
    """
    settings = setting.config.train
    Journal.check(setting.output / JOURNAL, {key: of for key, of in parts.items() if key != "weights"})
    hold_to(setting.output, computes(setting.model, setting.data, seed=setting.config.seed))
    if settings is None:
        return
    path, checkpoint = setting.output / DENSE_WEIGHTS, setting.checkpoint("dense")
    deciding = {key: of for key, of in parts["settings"].items() if key in DECIDING}
    trained_by = flat({**parts, "settings": deciding})
    with claims.claim("dense", wait=True):
        if path.exists():
            _check_trained(path, trained_by)
        else:
            with setting.progress.task("training the dense network") as advance:
                trained(
                    setting, setting.model, setting.data, settings.recipe(seed=setting.config.seed), checkpoint, advance
                )
            save_weights(setting.model, path, metadata={TRAINED_BY: json.dumps(trained_by)})
            checkpoint.unlink(missing_ok=True)
    load_weights(setting.model, path)
    setting.model.eval()


def _check_trained(path: Path, trained_by: Mapping[str, str]) -> None:
    """Refuse a dense network that other settings have trained, such as one left by a comparison begun before."""
    _, metadata = read_safetensors(path)
    try:
        before = dict(json.loads(metadata[TRAINED_BY]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} does not say what it was trained by: delete it to train anew") from error
    if differing := differences(before, trained_by):
        raise ConfigError(
            f"{path} was trained by other settings: {'; '.join(differing)}. Delete it to train anew, or choose another "
            "--output"
        )


def trained(
    setting: Setting, model: nn.Module, data: Data, recipe: Any, checkpoint: Path, advance: Any, **more: Any
) -> dict[str, Any]:
    """Train `model` in place; a training that was stopped goes on from its last epoch. Return what happened."""
    begun = time.monotonic()

    def train() -> Any:
        with placed(setting.config.device, model, more.get("teacher")):
            return fine_tune(
                *(model, data.train.fresh(), data.validation),
                recipe=recipe,
                checkpoint=checkpoint,
                on_step=advance,
                **more,
            )

    history = going_on(train, checkpoint, setting.progress)
    model.eval()
    epochs = [{"epoch": e.number, "loss": e.loss, "accuracy": e.accuracy} for e in history.epochs]
    return {"epochs": epochs, "chosen": history.chosen, "seconds": time.monotonic() - begun}
