"""Two networks compared image by image: what their difference leaves open for other images than those held out.

An interval over seeds holds the images still: three seeds may agree on a difference that a dozen of 400 images make.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from secateur_cli.intervals import Mean, mean

Judged = Mapping[str, Any]


def packed(right: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return which images a network has right as plain data, an eighth of a byte each, and a hash of their order.

    Args:
        right: (N,), see `secateur.evaluation.judged`.
        labels: (N,), in the same order.

    Example:
        >>> import torch
        >>> packed(torch.tensor([True, False, True]), torch.tensor([0, 1, 2]))["bits"]
        'oA=='
    """
    bits = base64.b64encode(np.packbits(right.numpy()).tobytes()).decode()
    return {"bits": bits, "images": len(right), "order": hashlib.sha256(labels.numpy().tobytes()).hexdigest()[:16]}


def over_images(ours: Sequence[Judged | None], theirs: Sequence[Judged | None]) -> Mean | None:
    """Return by how many points one is ahead of the other, with the 95% interval over images, the seeds held still.

    Formula: the `mean` over n of d_n = 100 / S sum_s (a_sn - b_sn), a_sn and b_sn in {0, 1} telling whether the two
    have image n right under seed s. Of a single seed it is, but for a term of the order of the squared difference, the
    interval of two paired shares by [McNemar1947]_'s counts: images that both have right, or neither, tell nothing.

    Args:
        ours, theirs: what `packed` gave, for the same seeds in the same order.

    Returns: None where it is not known of some seed which images are right, or they were not read in one order.

    Example:
        >>> import torch
        >>> labels = torch.zeros(400, dtype=torch.int64)
        >>> ours, theirs = (torch.arange(400) < right for right in (370, 360))
        >>> found = over_images([packed(ours, labels)], [packed(theirs, labels)])
        >>> round(found.value, 2), [round(end, 2) for end in found.ends]
        (2.5, [0.96, 4.04])

    References:
        .. [McNemar1947] Q. McNemar. Note on the sampling error of the difference between correlated proportions or
           percentages. Psychometrika 12(2), 1947.
    """
    known = [judged for judged in (*ours, *theirs) if judged is not None]
    if not ours or len(known) < 2 * len(ours) or len({(j["order"], j["images"]) for j in known}) > 1:
        return None
    ahead, behind = (np.sum([_unpacked(judged) for judged in own if judged], axis=0) for own in (ours, theirs))
    return mean((100 / len(ours) * (ahead - behind)).tolist())


def _unpacked(judged: Judged) -> np.ndarray[Any, np.dtype[np.int64]]:
    bits = np.frombuffer(base64.b64decode(judged["bits"]), dtype=np.uint8)
    return np.unpackbits(bits, count=judged["images"]).astype(np.int64)
