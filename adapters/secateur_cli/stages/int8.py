"""The stage that writes the pruned network in 8-bit integers, by onnxruntime's own quantizer, and measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

import secateur_onnx
from secateur_cli.stages.job import Job

INT8_ONNX = "model.int8.onnx"


def write_int8(job: Job, pruned: nn.Module, source: Path) -> None:
    """Calibrate on training images, judge on held-out ones, and time the file beside the float one; if asked for.

    Args:
        job: the run.
        pruned: the network, to say how often the file names the same class.
        source: its ONNX file in floats.
    """
    settings = job.config.onnx
    if not settings.int8:
        return

    def work() -> dict[str, Any]:
        job.progress.say("writing static INT8")
        path = job.workspace.path(INT8_ONNX)
        written = secateur_onnx.export_int8(source, path, job.data.calibration)
        judged = job.progress.track(job.data.test, "judging: static INT8")
        share = secateur_onnx.file_accuracy(path, judged)
        apart = secateur_onnx.check_parity(pruned, path, job.data.test)
        with job.progress.task("timing static INT8 in ONNX Runtime") as advance:
            timed = secateur_onnx.benchmark(
                source,
                path,
                batch_sizes=settings.batch_sizes,
                threads=settings.threads,
                seconds=settings.seconds,
                seed=job.config.seed,
                memory=False,
                on_progress=advance,
            )
        return {
            "file": written.to_json(),
            "accuracy": share,
            "top1_agreement": apart.top1_agreement,
            "max_relative": apart.max_relative,
            "benchmark": timed.to_json(),
            "execution": {"static INT8": secateur_onnx.execution_table(path, "static INT8")},
        }

    job.facts["int8"] = fact = job.once("int8", work)
    job.progress.say(
        f"static INT8: {fact['accuracy']:.1%} of the held-out images right; {fact['file']['file_bytes']:,} bytes; "
        f"against the float file: {fact['benchmark']['verdict']}"
    )
