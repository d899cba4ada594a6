"""Whether a translated network takes any number of images: what it declares, and what a run of it shows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateur.errors import NetworkError
from secateur_onnx.networks import as_array
from secateur_onnx.packages import require
from secateur_onnx.raw_session import open_session

ALLOWED = 0.01


class Passed(NamedTuple):
    """A batch (N, ...) and what the network gives for it, (N, ...)."""

    inputs: Tensor
    outputs: Tensor


class FixedBatchError(NetworkError):
    """A network can be exported for one batch size alone."""

    def __init__(self, images: int) -> None:
        """Say for how many images, why, and what to write instead."""
        super().__init__(
            f"the network cannot be exported for any batch size: its file would be right for {images} images and no "
            "other number. forward turns the batch size into a Python number, as len(x) and int(x.shape[0]) do, and "
            "the exporters keep that of the example; write x.flatten(1), or x.shape[0] as it is"
        )


def fixes_batch(proto: Any, example: Passed, other: Passed, *, values: bool = False) -> bool:
    """Return whether a translated network is right for batches of the example's size alone.

    It is where its input or output declares a number for dimension 0, and where onnxruntime on the CPU gives outputs of
    the network's shape for the example, but not for another batch. Where nothing can be shown, since onnxruntime is
    missing, cannot run the network on the CPU, or protobuf cannot hold it in one piece (2 GB), the answer is False.

    Args:
        proto: an ONNX model with one input and one output.
        example: the batch it was translated with, and the network's outputs.
        other: a batch of another size, and the network's outputs.
        values: whether outputs must also have the network's values, up to 0.01 of the largest. Right for a network
            that is known to ask for its batch size; one that branches on what it sees may do so between the batches.

    Cost: a session that optimizes nothing, and a run, or two where the first shows something; the weights are held
    twice more while it lasts.

    Example:
        >>> from onnx.parser import parse_model
        >>> head = '<ir_version: 8, opset_import: ["": 17]> net (float[N, 2, 2] x) => (float[N, 4] y)'
        >>> baked = "{ shape = Constant<value_ints=[2, -1]>() y = Reshape(x, shape) }"
        >>> two, three = (Passed(torch.ones(n, 2, 2), torch.ones(n, 4)) for n in (2, 3))
        >>> fixes_batch(parse_model(head + baked), two, three)
        True
        >>> fixes_batch(parse_model(head + baked.replace("[2, -1]", "[-1, 4]")), two, three)
        False
    """
    if any(_declares_number(value) for value in (proto.graph.input[0], proto.graph.output[0])):
        return True
    try:
        require("onnxruntime")
        threads = torch.get_num_threads()
        session = open_session(proto.SerializeToString(), provider="cpu", threads=threads, tf32=False, trial=True)
    except Exception:  # onnxruntime's and protobuf's errors have no common class of their own
        return False
    return not _agrees(session, other, values=values) and _agrees(session, example, values=values)


def _declares_number(value: Any) -> bool:
    dimensions = value.type.tensor_type.shape.dim
    return len(dimensions) > 0 and bool(dimensions[0].HasField("dim_value"))


def _agrees(session: Any, passed: Passed, *, values: bool) -> bool:
    try:
        outputs = session.run(None, {session.get_inputs()[0].name: as_array(passed.inputs)})
    except Exception:  # as above
        return False
    found, expected = np.asarray(outputs[0]), as_array(passed.outputs)
    if not values or found.shape != expected.shape:
        return found.shape == expected.shape
    largest = float(np.abs(expected).max(initial=0.0))
    return np.allclose(found, expected, rtol=0.0, atol=ALLOWED * largest, equal_nan=True)
