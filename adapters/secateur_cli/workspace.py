"""The folder of one run: which run it is, which stages are done, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from secateur.errors import CheckpointError, ConfigError
from secateur.files import replacing, write_json

RUN_FILE = "run.json"
PLAN, LEARNT_PLAN = "stages/plan.json", "stages/learnt.json"
LEARNT: tuple[Literal["autopruner", "soft_clusters"], ...] = ("autopruner", "soft_clusters")
"""The searches that train the network, to the widths of the uniform one: their first plan says only how many stay."""
FORMAT = 1
UNFINISHED = re.compile(r"\..+\.\d+\.tmp")  # how `secateur.files.replacing` names what it has not finished


class Workspace:
    """A folder that holds one run, in which finished stages are not repeated.

    run.json names the run by its settings, its images and its network. A folder of the same run is continued; one that
    holds another run, or files that no run has written, is refused before anything is touched. A run is held from the
    first file of a stage on: the epochs of a training that was stopped are of that run. A stage counts as done once its
    result stands in run.json, which is written after the stage's files, so a run that is stopped at any moment can be
    continued. Where a file of a stage is gone or is not what was written, that stage and all later ones are done again.

    Making the object reads and checks; `open` is the first to write.

    Args:
        folder: where the run lies, or will lie.
        settings: what decides the result, as plain data.
        files: stage -> the files that it writes, by their names in the folder.
        begun: when this call began to work, by `time.monotonic`; None for now.

    Attributes:
        stages: stage -> its result, in the order in which they were finished.
        seconds: how long the calls worked that finished a stage, each until it had finished its last.
        lost: a file that is gone or is not what was written, so that its stage must be repeated; None if there is none.
        network: what the parts of the network are called -> a hash of them.

    Raises:
        ConfigError: the folder is a file or cannot be read, holds another run, what is no run, or a record that is
            damaged.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        files: Mapping[str, Sequence[str]] | None = None,
        begun: float | None = None,
    ) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self.stages: dict[str, Any] = {}
        self.seconds = 0.0
        self.lost: str | None = None
        self._files = dict(files or {})
        self._images: dict[str, str] = {}
        self.network: dict[str, str] = {}
        self._written: dict[str, dict[str, Any]] = {}
        self._begun = time.monotonic() if begun is None else begun
        self._lock: int | None = None
        self._look()

    def open(self, images: Mapping[str, str] | None = None, network: Mapping[str, str] | None = None) -> Self:
        """Make the folder, keep other processes out, and clear away what a killed process left unfinished.

        Args:
            images: what the images of the run are called -> a hash of them; what the folder says of the same must be
                the same, and what it does not say is added.
            network: what the parts of the network are called -> a hash of them, likewise.

        Raises:
            ConfigError: the folder cannot be made or written, holds a run on other images or of another network, or
                another process works in it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._keep_others_out()
            self._look()  # another process may have worked here since
            self._agree(images or {}, network or {})
            for path in self.folder.rglob(".*.tmp"):
                if UNFINISHED.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            self._write()
        except OSError as error:
            self.close()
            raise self._unusable(error) from error
        except ConfigError:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, name: str) -> Path:
        """Return the path of a file in the folder; its own folder exists."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def read(self, name: str) -> Any:
        """Return the plain data in a JSON file of the folder. Raises CheckpointError where it is damaged."""
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(
                f"{path} is damaged ({error}); delete it, and the same command makes it again"
            ) from error

    def done(self, stage: str, result: Any) -> None:
        """Keep the result of a stage whose files are complete, and what they are: a pass of sha256 over them."""
        paths = {name: self.folder / name for name in self._files.get(stage, ())}
        self._written[stage] = {name: _fingerprint(path) for name, path in paths.items() if path.is_file()}
        self.stages[stage] = result
        self.seconds = self._earlier + time.monotonic() - self._begun
        self._write()

    def take(self, stages: Sequence[str], other: Workspace) -> list[str]:
        """Take over what another run has finished of some stages, where this one has finished nothing.

        Returns: the stages that were taken; none of a run on other images or of another network.
        """
        alike = (self._images, self.network) == (other._images, other.network)
        taken = [stage for stage in stages if stage in other.stages] if alike and not self.stages else []
        for stage in taken:
            for name in other._written[stage]:
                with replacing(self.path(name)) as temporary:
                    shutil.copyfile(other.folder / name, temporary)
            self.stages[stage], self._written[stage] = other.stages[stage], other._written[stage]
        self._write()
        return taken

    def _look(self) -> None:
        """Read what the folder holds, or refuse it."""
        folder = self.folder
        self.stages, self.seconds, self.lost = {}, 0.0, None
        self._images, self.network, self._written = {}, {}, {}
        try:
            if folder.exists() and not folder.is_dir():
                raise ConfigError(f"the output {folder} is a file; it must be a folder")
            if (folder / RUN_FILE).exists():
                self._continue()
            elif folder.is_dir() and any(not UNFINISHED.fullmatch(p.name) for p in folder.iterdir()):
                raise ConfigError(
                    f"the output folder {folder} holds files that are not a run's; choose another with --output"
                )
        except OSError as error:
            raise self._unusable(error) from error
        self._earlier = self.seconds

    def _continue(self) -> None:
        path = self.folder / RUN_FILE
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            before, stages, seconds = record["settings"], record["stages"], float(record["seconds"])
            images, network = dict(record.get("images", {})), dict(record.get("network", {}))
            written = {stage: dict(files) for stage, files in record.get("files", {}).items()}
            if record["format"] != FORMAT or not isinstance(stages, dict) or not isinstance(before, dict):
                raise ValueError(f"format {record['format']!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is not the record of a run ({error}); choose another --output") from error
        if not stages and not self._has_begun():  # nothing would be lost
            return
        difference = first_difference(before, self.settings)
        if difference:
            raise ConfigError(
                f"the output folder {self.folder} holds another run ({difference}); choose another with --output, "
                "or repeat that run's settings to continue it"
            )
        self.seconds, self._images, self.network = seconds, images, network
        for stage, result in stages.items():
            names, known = self._files.get(stage, ()), written.get(stage, {})
            self.lost = next((name for name in names if not _is_whole(self.folder / name, known.get(name))), None)
            if self.lost is not None:
                break
            self.stages[stage], self._written[stage] = result, known

    def _has_begun(self) -> bool:
        """Return whether a stage has left files, such as the epochs of a training that was stopped."""
        within = (self.folder / "stages").rglob("*")
        return any(path.is_file() and not UNFINISHED.fullmatch(path.name) for path in within)

    def _agree(self, images: Mapping[str, str], network: Mapping[str, str]) -> None:
        """Refuse other images and another network than the stages were made of, and keep what is known of them."""
        if other := others(self._images, images):
            raise ConfigError(
                f"the output folder {self.folder} holds a run on other {other} images; choose another with --output, "
                "or give it those images to continue it"
            )
        if other := others(self.network, network):
            raise ConfigError(
                f"the output folder {self.folder} holds a run of a network with other {other}; choose another with "
                "--output, or build that network to continue it"
            )
        self._images, self.network = {**self._images, **images}, {**self.network, **network}

    def _keep_others_out(self) -> None:
        if sys.platform == "win32":  # two processes in one folder are not noticed there
            return
        import fcntl

        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ConfigError(
                f"another process works in the output folder {self.folder}; wait for it, or choose another --output"
            ) from None
        except OSError:  # a file system without locks
            self.close()

    def _unusable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"the output folder {self.folder} cannot be used ({error.strerror}); choose another --output"
        )

    def _write(self) -> None:
        record = {
            "format": FORMAT,
            "settings": self.settings,
            "images": self._images,
            "network": self.network,
            "seconds": self.seconds,
            "stages": self.stages,
            "files": {stage: files for stage, files in self._written.items() if files},
        }
        write_json(self.folder / RUN_FILE, record)


def others(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return what is called the same and is another, as one says it.

    Example:
        >>> others({"weights": "a", "inputs": "b"}, {"weights": "c", "inputs": "d", "labels": "e"})
        'weights and inputs'
    """
    return " and ".join(name for name, digest in now.items() if before.get(name, digest) != digest)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _is_whole(path: Path, written: Mapping[str, Any] | None) -> bool:
    """Return whether a file is there, and what was written if that is known."""
    if written is None or not path.is_file():
        return path.is_file()
    return path.stat().st_size == written.get("bytes") and _fingerprint(path) == written


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Name the first key, by its full path, in which two `RunConfig.canonical` differ, or return None.

    Example:
        >>> first_difference({"plan": {"round_to": 8}, "seed": 0}, {"plan": {"round_to": 4}, "seed": 0})
        'plan.round_to: 8 before, 4 now'
    """
    for key in dict.fromkeys([*before, *now]):
        if key not in before or key not in now:
            return f"{key}: {'given before, absent now' if key in before else 'absent before, given now'}"
        old, new = before[key], now[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = first_difference(old, new)
            if inner is not None:
                return f"{key}.{inner}"
        elif old != new:
            return f"{key}: {old!r} before, {new!r} now"
    return None
