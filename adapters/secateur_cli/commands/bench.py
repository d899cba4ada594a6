"""`secateur bench DENSE.onnx PRUNED.onnx`: which of two files is faster, wherever they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import secateur_onnx
from secateur_cli.commands.folders import warnings_said
from secateur_cli.commands.telling import Trace, plain_console, telling
from secateur_cli.progress import Progress
from secateur_cli.summary import benchmark_table
from secateur_cli.wording import PROVIDERS, batch


def bench(
    dense: Annotated[Path, typer.Argument(help="ONNX file of the dense network.")],
    pruned: Annotated[Path, typer.Argument(help="ONNX file of the pruned network, with the same input.")],
    provider: Annotated[str, typer.Option(help="cpu, cuda or tensorrt; never another one in silence.")] = "cpu",
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch", help="Images in a run. Repeatable; 1, 8 and 32 if absent.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads within an operator; as many as torch uses if absent.", show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for each figure.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the inputs and of the interval.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of a table.")] = False,
    trace: Trace = False,
) -> None:
    """Time two ONNX files in turn, in one process, and say whether the second is faster."""
    with telling(trace=trace):
        console = plain_console()
        progress = Progress(plain_console(stderr=True))
        with warnings_said(progress), progress.task("timing in ONNX Runtime") as advance:
            result = secateur_onnx.benchmark(
                dense,
                pruned,
                provider=provider,
                batch_sizes=tuple(batch_sizes or (1, 8, 32)),
                threads=threads,
                seconds=seconds,
                seed=seed,
                on_progress=advance,
            )
        timed = result.to_json()
        if as_json:
            typer.echo(json.dumps(timed, indent=1))
            return
        console.print(benchmark_table(timed))
        for name, file in (("dense", result.dense), ("pruned", result.pruned)):
            ran = ", ".join(f"{sum(nodes.values())} on {where}" for where, nodes in file.assignment.items())
            plan = f"; plan {file.metadata['plan']}" if "plan" in file.metadata else ""
            console.print(f"{name + ':':<8}{ran or 'onnxruntime does not tell what ran where'}{plan}", soft_wrap=True)
        machine = result.machine
        load = "" if machine.load is None else f", load {machine.load}"
        console.print(
            f"machine: {machine.device or machine.cpu}, {machine.cores} cores{load}; "
            f"onnxruntime {machine.onnxruntime}, {PROVIDERS[provider]}",
            soft_wrap=True,
        )
        for measured, facts in zip(result.comparisons, timed["comparisons"], strict=True):
            rates = " against ".join(f"{side.images_per_second:,.0f}" for side in (measured.dense, measured.pruned))
            what = batch(facts, timed["comparisons"])
            console.print(f"{what}: {measured.verdict}, {rates} images a second", soft_wrap=True)
            if measured.caution:
                console.print(f"  {measured.caution}", soft_wrap=True)
