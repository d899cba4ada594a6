"""Nobody left to end NNI's manager: a small process beside the one that started it ends it then.

SIGKILL, or a machine short of memory, leaves a process no time to end what it started, and NNI's manager is a process
group of its own that goes on for ever. The watcher reads a pipe that only the starting process holds the other end of:
however that ends, the pipe ends with it, on any system. It is this file run by itself, without torch and NNI.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ENDING = 10.0  # seconds until what does not end is killed
ID, FOLDER = "--experiment-id", "--experiments-directory"
"""By these arguments of its command line a manager is known, whatever its process id."""


@contextmanager
def watched(experiment: str, folder: Path) -> Iterator[None]:
    """Within the block, the manager of an experiment does not outlive this process; after it none of it is left.

    Args:
        experiment: NNI's id.
        folder: the experiment's, absolute.

    Cost: a process of some 20 MB that waits.

    Example:
        >>> with watched("none", Path("/nowhere")):
        ...     pass
    """
    command = [sys.executable, "-P", "-m", "secateur_nni.experiments.watching", experiment, str(folder)]
    quiet = subprocess.DEVNULL
    # a session of its own: Ctrl-C and the closing of a terminal do not reach it
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        yield
    finally:
        if watcher.stdin is not None:
            watcher.stdin.close()
        watcher.wait()


def end_manager(experiment: str, folder: Path, *, patience: float = ENDING) -> None:
    """End the manager of an experiment, its tuner and its trials; what does not end in time is killed.

    Example:
        >>> end_manager("none", Path("/nowhere"))
    """
    marks = [(ID, experiment), (FOLDER, str(folder))]
    managers = [process for process in psutil.process_iter() if _told(process, marks)]
    family = [process for manager in managers for process in family_of(manager)]
    for manager in managers:
        with suppress(psutil.NoSuchProcess):
            manager.terminate()  # NNI then ends tuner and trials itself
    _, left = psutil.wait_procs(family, timeout=patience)
    for process in [each for old in left for each in family_of(old)]:  # and what they have started since
        with suppress(psutil.NoSuchProcess):
            process.kill()


def family_of(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all that it has started, and these; nothing where it has ended.

    Example:
        >>> family_of(psutil.Process())[0] == psutil.Process()
        True
    """
    with suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return []


def _told(process: psutil.Process, marks: Sequence[tuple[str, str]]) -> bool:
    """Return whether a process was started with these options."""
    with suppress(psutil.Error):  # it has ended, or is another user's
        given = process.cmdline()
        return all(mark in itertools.pairwise(given) for mark in marks)
    return False


def main(arguments: Sequence[str]) -> None:
    """Wait until the process that holds the other end of standard input is gone, then end the manager."""
    for number in (signal.SIGINT, signal.SIGTERM):  # for the process that started it to obey
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    experiment, folder = arguments
    end_manager(experiment, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
