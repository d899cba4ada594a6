"""`secateur doctor [CONFIG]`: what is going to go wrong, before it does, and the command that mends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from secateur.findings import worst
from secateur.installed import installed_packages
from secateur_cli.commands.telling import FAILED, Changes, Trace, plain_console, telling
from secateur_cli.doctor.environment import read_environment
from secateur_cli.doctor.environment_findings import diagnose_environment
from secateur_cli.doctor.examination import Examination
from secateur_cli.doctor.findings_table import print_findings, print_verdict
from secateur_cli.doctor.network_findings import diagnose_network
from secateur_cli.doctor.nni_findings import diagnose_nni
from secateur_cli.progress import Progress
from secateur_cli.settings.config import load_config
from secateur_onnx.diagnosis import diagnose
from secateur_onnx.installation import read_installation


def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of a run: its network is tried too.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of tables.")] = False,
    change: Changes = None,
    trace: Trace = False,
) -> None:
    """Find clashes before they bite: in the installation, and with CONFIG in the network, its data and its export.

    Nothing is written or trained. The exit code is 1 where something is an error.
    """
    with telling(trace=trace):
        if config is not None:
            load_config(config, overrides=change or [])  # refused before the seconds that follow
        console, progress = plain_console(), Progress(plain_console(stderr=True))
        with progress.waiting("trying the installation"):
            packages = installed_packages()
            around = read_environment(packages)
            onnx = diagnose(read_installation(packages))
        findings = {"installation": [*diagnose_environment(around), *onnx, *diagnose_nni(around)]}
        if not as_json:
            print_findings(console, "installation", findings["installation"])
        if config is not None:
            job = Examination(config, progress, overrides=change or [], trace=trace)
            findings["network"] = diagnose_network(job)
            if not as_json:
                print_findings(console, f"the network of {config}", findings["network"])
        everything = [finding for part in findings.values() for finding in part]
        if as_json:
            told = {part: [finding.to_json() for finding in found] for part, found in findings.items()}
            typer.echo(json.dumps({"worst": worst(everything)} | told, indent=1))
        else:
            print_verdict(console, everything)
        if worst(everything) == "error":
            raise typer.Exit(FAILED)
