"""The folder of one run: which run it is, which stages are done, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.errors import ConfigError
from secateur.files import write_json
from secateur_cli.schema import first_difference

RUN_FILE = "run.json"
FORMAT = 1


class Workspace:
    """A folder that holds one run, in which finished stages are not repeated.

    run.json names the run by its settings. A folder of the same run is continued; one that holds another run, or files
    that no run has written, is refused before anything is touched. A stage counts as done once its result stands in
    run.json, which is written after the stage's files, so a run that is stopped at any moment can be continued.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self.stages: dict[str, Any] = {}
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"the output {folder} is a file; it must be a folder")
        if (folder / RUN_FILE).exists():
            self._continue()
        elif folder.is_dir() and any(not p.name.endswith(".tmp") for p in folder.iterdir()):
            raise ConfigError(
                f"the output folder {folder} holds files that are not a run's; choose another with --output"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    @property
    def continued(self) -> bool:
        """Whether an earlier call has done some of the stages already."""
        return bool(self.stages)

    def path(self, name: str) -> Path:
        """Return the path of a file in the folder; its own folder exists."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def done(self, stage: str, result: Any) -> None:
        """Keep the result of a stage whose files are complete."""
        self.stages[stage] = result
        self._write()

    def _continue(self) -> None:
        path = self.folder / RUN_FILE
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            before, stages = record["settings"], record["stages"]
            if record["format"] != FORMAT or not isinstance(stages, dict):
                raise ValueError(f"format {record['format']!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not the record of a run ({error}); choose another --output") from error
        difference = first_difference(before, self.settings)
        if difference:
            raise ConfigError(
                f"the output folder {self.folder} holds another run ({difference}); choose another with --output, "
                "or repeat that run's settings to continue it"
            )
        self.stages = stages

    def _write(self) -> None:
        record = {"format": FORMAT, "settings": self.settings, "stages": self.stages}
        write_json(self.folder / RUN_FILE, record)
