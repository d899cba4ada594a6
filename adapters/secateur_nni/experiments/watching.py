"""Nobody left to end NNI's manager: a small process beside the one that started it ends it then.

SIGKILL, or a machine short of memory, leaves a process no time to end what it started, and NNI's manager is a process
group of its own that goes on for ever. The watcher reads a pipe that only the starting process holds the other end of:
however that ends, the pipe ends with it, on any system. It is this file run by itself, without torch and NNI.

What belongs to an experiment is known by a variable of its environment, which the manager hands on to the tuner and to
the trials: also to those that have lost their parent.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

MARK = "SECATEUR_NNI_EXPERIMENT"
"""The variable that holds the id of the experiment."""
ENDING = 10.0  # seconds until what does not end is killed


@contextmanager
def watched(experiment: str) -> Iterator[None]:
    """Within the block, no process of an experiment outlives this one; after it none is left.

    Args:
        experiment: NNI's id.

    Cost: a process of some 20 MB that waits.

    Example:
        >>> with watched("none"):
        ...     pass
    """
    command = [sys.executable, "-P", "-m", "secateur_nni.experiments.watching", experiment]
    quiet = subprocess.DEVNULL
    # a session of its own: Ctrl-C and the closing of a terminal do not reach it
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        yield
    finally:
        if watcher.stdin is not None:
            watcher.stdin.close()
        watcher.wait()


def end_experiment(experiment: str, *, patience: float = ENDING) -> None:
    """End the manager of an experiment, its tuner and its trials; what does not end in time is killed.

    Example:
        >>> end_experiment("none")
    """
    own = _processes_of(experiment)
    for process in own:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(own, timeout=patience)
    left = _processes_of(experiment)  # and what they have started since
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=patience)


def _processes_of(experiment: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or is another user's
            if process.environ().get(MARK) == experiment:
                found.append(process)
    return found


def main(arguments: Sequence[str]) -> None:
    """Wait until the process that holds the other end of standard input is gone, then end its experiment."""
    for number in (signal.SIGINT, signal.SIGTERM):  # for the process that started it to obey
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_experiment(*arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
