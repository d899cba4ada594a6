"""The four splits of a run: images to train on, to calibrate on, to judge candidates on, and held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.errors import DataError
from secateur_cli.inputs.epochs import Epochs, drawing_from, generator, pick
from secateur_cli.inputs.images import Images
from secateur_cli.inputs.readers import read_images
from secateur_cli.inputs.sources import call
from secateur_cli.inputs.user_data import UserBatches, in_memory, user_splits
from secateur_cli.settings.config import DataConfig

Split = Epochs | UserBatches
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Data:
    """What a run reads. Each split yields `(inputs, labels)`, (N, C, H, W) float32 and (N,) int64, again and again.

    Attributes:
        train: shuffled afresh each epoch and augmented; `train.fresh()` starts again with the first epoch.
        calibration: the same images without augmentation, always in the same random order.
        validation: images set aside from the training images, never trained on.
        test: held-out images.
        classes: how many classes there are, if that is known.
        example: two inputs, (2, C, H, W).
        describe: names and counts for the report, as plain data.
    """

    train: Split
    calibration: Split
    validation: Split
    test: Split
    classes: int | None
    example: Tensor
    describe: Mapping[str, Any]

    def for_outputs(self, outputs: int) -> Data:
        """Return the data for a network with so many outputs: a label beyond them is an error when it is read.

        Raises:
            DataError: the data has more classes, or a first batch has a label beyond the outputs.
        """
        if self.classes is not None and self.classes > outputs:
            raise DataError(f"the data has {self.classes} classes but the network only {outputs} outputs")

        def checked(split: Split) -> Split:
            if isinstance(split, Epochs):
                return split
            split = replace(split, classes=outputs)
            split.check()
            return split

        return replace(
            self,
            train=checked(self.train),
            calibration=checked(self.calibration),
            validation=checked(self.validation),
            test=checked(self.test),
        )


def load_data(
    config: DataConfig, *, folder: Path, seed: int, split_seed: int | None = None, limit: int | None = None
) -> Data:
    """Load the data of a run.

    Args:
        config: the section `data` of the configuration.
        folder: relative paths and modules are looked up there: the configuration file's folder.
        seed: decides which images are set aside, the orders and the augmentation.
        split_seed: decides in its place which are set aside, for a network that was trained on the others.
        limit: at most so many images of each split; on top of `config.limit`. The classes keep their proportions, but
            in splits of the user's, of which the first images are read: all others would have to be read for that.

    The validation images are `config.validation_share` of the training images, each class in its proportion.

    Raises:
        ConfigError: the import path leads nowhere or its arguments do not fit.
        DataError: see `read_images` and `user_splits`; and mean and std that do not fit the images.
        MissingDependencyError: the extra `vision` is not installed.
    """
    limits = [number for number in (config.limit, limit) if number is not None]
    limit = min(limits) if limits else None
    if ":" in config.source:
        return _load_user_data(config, folder=folder, seed=seed, split_seed=split_seed, limit=limit)
    images = read_images(config, folder=folder)
    usual = ((0.0,), (1.0,)) if config.source == "digits" else IMAGENET
    mean, std = (config.mean, config.std) if config.mean is not None and config.std is not None else usual
    is_augmented = config.augment and config.source != "digits"
    train, validation = _split(images.train, config.validation_share, seed=seed, split_seed=split_seed, limit=limit)
    test, _ = pick(images.test.labels, min(len(images.test), limit or len(images.test)), random=generator(seed, "test"))
    kept = [train.kept(), validation.kept(), images.test.subset(test).kept()]
    channels = kept[0].read(torch.arange(1)).shape[1]
    if len(mean) != channels:
        raise DataError(f"data.mean and data.std have {len(mean)} numbers, but the images have {channels} channels")

    def epochs(images: Images, *, training: bool = False) -> Epochs:
        return Epochs(
            images, config.batch_size, mean, std, seed=seed, training=training, augment=training and is_augmented
        )

    splits = {
        "train": epochs(kept[0], training=True),
        "calibration": epochs(kept[0]),
        "validation": epochs(kept[1]),
        "test": epochs(kept[2]),
    }
    names = list(images.class_names)
    about = {"mean": list(mean), "std": list(std), "augment": is_augmented, "class_names": names}
    return _data(config, splits, classes=len(names), about=about)


def _load_user_data(config: DataConfig, *, folder: Path, seed: int, split_seed: int | None, limit: int | None) -> Data:
    with drawing_from(seed if split_seed is None else split_seed):  # what is split afterwards may come shuffled
        returned = call(config.source, config.arguments, folder=folder)
        given = user_splits(returned, config.source, limit=limit)
        images = None if "validation" in given else in_memory(replace(given["train"], limit=None))
    splits: dict[str, Split] = dict(given)
    if images is not None:
        train, validation = _split(images, config.validation_share, seed=seed, split_seed=split_seed, limit=limit)
        splits["train"] = Epochs(train, config.batch_size, (0.0,), (1.0,), seed=seed, training=True)
        splits["calibration"] = Epochs(train, config.batch_size, (0.0,), (1.0,))
        splits["validation"] = Epochs(validation, config.batch_size, (0.0,), (1.0,))
    return _data(config, splits, classes=given["train"].classes, about={})


def _split(
    images: Images, share: float, *, seed: int, split_seed: int | None, limit: int | None
) -> tuple[Images, Images]:
    """Return training and validation images, in a random order: of a share first, then each at most `limit`."""
    drawn = seed if split_seed is None else split_seed
    if len(images) < 2:
        raise DataError(f"{len(images)} training image; at least two are needed, one of them to judge candidates on")
    count = min(max(round(share * len(images)), 1), len(images) - 1)
    validation, train = pick(images.labels, count, random=generator(drawn, "validation"))
    parts = []
    for name, idx in (("train", train), ("validation", validation)):
        few, _ = pick(images.labels[idx], min(len(idx), limit or len(idx)), random=generator(drawn, "limit", name))
        parts.append(images.subset(idx[few]))
    if drawn != seed:
        parts[0] = parts[0].subset(torch.randperm(len(parts[0]), generator=generator(seed, "order")))
    return parts[0], parts[1]


def _data(config: DataConfig, splits: Mapping[str, Split], *, classes: int | None, about: Mapping[str, Any]) -> Data:
    first, _ = next(iter(splits["calibration"]))
    counts = {name: len(split.images) if isinstance(split, Epochs) else None for name, split in splits.items()}
    facts = {"source": config.source, "classes": classes, "images": counts, "shape": list(first.shape[1:])}
    return Data(
        train=splits["train"],
        calibration=splits["calibration"],
        validation=splits["validation"],
        test=splits["test"],
        classes=classes,
        example=torch.cat([first, first])[:2] if len(first) == 1 else first[:2],
        describe=facts | {"batch_size": config.batch_size} | dict(about),
    )
