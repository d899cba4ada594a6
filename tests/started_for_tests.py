"""Scripts and commands in processes of their own that start at once: copies of one that has imported the packages.

A new process takes seconds to import torch. Here one process, for all tests of a worker, imports it and the rest, and
forks whatever is started, which begins with a working directory, arguments and an environment of its own.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from functools import cache
from multiprocessing import context, get_context
from multiprocessing.forkserver import ensure_running
from pathlib import Path

PRELOADED = [  # not onnxruntime, which begins a thread
    *("secateur_cli.main", "secateur_onnx", "secateur_cli.report.plots", "secateur.criteria.compiled_rank"),
    *("torchvision", "sklearn.datasets", "onnxscript", "exports_for_tests"),
]


@cache
def forkserver() -> context.ForkServerContext:
    """Return the context whose processes are such copies."""
    server = get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))
    changes = {
        "OMP_NUM_THREADS": "1",  # a fork is safe where there are no other threads
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),  # it does not get sys.path
    }
    before = os.environ.copy()
    os.environ.update(changes)
    try:
        ensure_running()
    finally:
        for name in changes:
            os.environ.pop(name) if name not in before else os.environ.update({name: before[name]})
    return server


class Started:
    """A script, a module after `-m` or code after `-c`, that runs in `folder`; two files hold what it prints."""

    def __init__(self, *words: str | Path, folder: Path, output: Path) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self._printed, self._complained = output / "printed", output / "complained"
        environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        given = ([str(word) for word in words], str(folder), environment, str(self._printed), str(self._complained))
        self._process = forkserver().Process(target=_work, args=given)
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit status, None while it runs, less than 0 for the signal that ended it."""
        return self._process.exitcode

    def send(self, kind: int) -> None:
        """Send a signal, if it still runs."""
        if self._process.pid is not None and self.poll() is None:
            os.kill(self._process.pid, kind)

    def wait(self, *, seconds: float = 280) -> tuple[int, str, str]:
        """Return the exit status, what was printed and what was complained about."""
        self._process.join(seconds)
        code = self.poll()
        if code is None:
            self.send(signal.SIGKILL)
            raise AssertionError(f"still running after {seconds:.0f} s: {self._printed.read_text(encoding='utf-8')}")
        return code, self._printed.read_text(encoding="utf-8"), self._complained.read_text(encoding="utf-8")


def ended(*command: str | Path, folder: Path) -> tuple[int, str, str]:
    """Run what `Started` takes on one thread; return its exit status, what it prints and what it complains about."""
    return Started(*command, folder=folder, output=folder.with_name(f"{folder.name}-printed")).wait()


def run(*command: str | Path, folder: Path) -> str:
    """Run what `Started` takes on one thread, and return what it prints."""
    code, printed, complained = ended(*command, folder=folder)
    assert code == 0, printed + complained
    return printed


def _work(words: list[str], folder: str, environment: dict[str, str], printed: str, complained: str) -> None:
    for path, number in ((printed, 1), (complained, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    kind, script = (words[0], words[1]) if words[0] in ("-m", "-c") else ("", words[0])
    sys.argv[:] = words[1:] if kind else words
    sys.path.insert(0, folder if kind else str(Path(script).parent))
    if kind == "-m":
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(script, {"__name__": "__main__"})
    else:
        runpy.run_path(script, run_name="__main__")
