"""One figure of a benchmark: a batch size, with or without the way to the device and back, and its times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from secateur.errors import DataError
from secateur_onnx.comparison import Comparison, Measured, compare
from secateur_onnx.packages import require
from secateur_onnx.sessions import infer, input_spec
from secateur_onnx.timing import time_alternating

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def end_to_end(session: InferenceSession, inputs: NDArray[Any]) -> Callable[[], object]:
    """Return a call that takes an array and gives an array; the first run, here, refuses what cannot run at all."""
    infer(session, inputs)
    feed = {input_spec(session).name: inputs}
    return lambda: session.run(None, feed)


def device_bound(session: InferenceSession, inputs: NDArray[Any], *, device: str = "cuda") -> Callable[[], object]:
    """Return a call that runs the session with its input and output bound to the device, and waits for the result.

    The first run, here, refuses what cannot run at all.
    """
    onnxruntime = require("onnxruntime")
    binding = session.io_binding()
    spec = input_spec(session)
    binding.bind_ortvalue_input(spec.name, onnxruntime.OrtValue.ortvalue_from_numpy(inputs, device, 0))
    binding.bind_output(session.get_outputs()[0].name, device, 0)
    binding.synchronize_inputs()

    def run() -> object:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return binding

    try:
        run()
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise DataError(f"onnxruntime fails on a bound batch of shape {inputs.shape}: {error}") from error
    return run


RUNNERS: dict[Measured, Callable[[InferenceSession, NDArray[Any]], Callable[[], object]]] = {
    "end to end": end_to_end,
    "device bound": device_bound,
}


@dataclass
class Figure:
    """One batch size measured in one way: its times grow with each pair of sessions."""

    inputs: NDArray[Any]
    measured: Measured
    runner: Callable[[InferenceSession, NDArray[Any]], Callable[[], object]]
    dense: list[float] = field(default_factory=list)
    pruned: list[float] = field(default_factory=list)
    sessions: list[int] = field(default_factory=list)

    def time(self, pair: Sequence[InferenceSession], **settings: Any) -> None:
        """Take some rounds of both sessions; `settings` as `time_alternating` has them."""
        dense, pruned = time_alternating(*(self.runner(session, self.inputs) for session in pair), **settings)
        self.dense += dense
        self.pruned += pruned
        self.sessions.append(len(dense))

    def compared(self, seed: int) -> Comparison:
        return compare(
            self.dense,
            self.pruned,
            batch_size=len(self.inputs),
            measured=self.measured,
            sessions=self.sessions,
            seed=seed,
        )
