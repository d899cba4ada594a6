"""A user's folder, one finished run in it, a folder to compare in, and a file, for all tests of the command."""

from __future__ import annotations

import functools
import gc
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from comparisons_for_tests import write_owner
from exports_for_tests import remembered
from runs_for_tests import Finished, User, write_user
from secateur_cli.report import plots
from secateur_cli.stages import preparation
from secateur_onnx import benchmarking, comparison, exporting


def drawn_once(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Return what makes a figure of the report once for equal data."""
    kept: dict[str, Any] = {}

    @functools.wraps(draw)
    def figure(*given: Any, **more: Any) -> Any:
        key = repr((given, more))
        if key not in kept:
            kept[key] = draw(*given, **more)
        return kept[key]

    return figure


FIGURES = {name: drawn_once(draw) for name, draw in vars(plots).items() if name.endswith(("_plot", "_plots"))}
PEAKS: dict[Any, int | None] = {}
EXPORTERS = tuple((name, remembered(translate)) for name, translate in exporting.EXPORTERS)


@contextmanager
def on_a_calm_machine() -> Iterator[None]:
    """Leave out of commands what tests cannot foresee or wait for; not beyond the tests that ask for it.

    No caution follows the tables, however busy the machine is. The memory of equal files, which many runs leave, is
    measured once, as that starts a process, and equal networks are translated to ONNX once, which takes most of the
    time of a short run; equal figures are drawn once. There is no export that shows before any work whether it can be
    done.
    """
    measure = benchmarking.peak_memory

    def remembered_peak(path: Path, spec: Any, shape: tuple[int, ...], **where: Any) -> int | None:
        key = (Path(path).read_bytes(), shape, *where.items())
        if key not in PEAKS:
            PEAKS[key] = measure(path, spec, shape, **where)
        return PEAKS[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(comparison, "UNSTEADY", math.inf)
        patched.setattr(benchmarking, "peak_memory", remembered_peak)
        patched.setattr(exporting, "EXPORTERS", EXPORTERS)
        patched.setattr(preparation, "check_export", lambda *_, **__: None)
        for name, figure in FIGURES.items():
            patched.setattr(plots, name, figure)
        yield


@pytest.fixture(scope="module", autouse=True)
def _calm_machine() -> Iterator[None]:
    with on_a_calm_machine():
        yield


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A folder with a network, data and a configuration; outputs go elsewhere."""
    return write_user(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="session")
def finished(user: User, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The output folder and the report of an undisturbed run. Only to be read."""
    output = tmp_path_factory.mktemp("finished") / "run"
    with on_a_calm_machine():
        return output, user.call(output)


@pytest.fixture(scope="session")
def owner(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user with a comparison to make.

    Before a comparison measures memory it looks for garbage: not in all that other tests have left.
    """
    gc.freeze()
    return write_owner(tmp_path_factory.mktemp("compared"))


@pytest.fixture
def drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures however often equal ones have been drawn."""
    for name, figure in FIGURES.items():
        monkeypatch.setattr(plots, name, inspect.unwrap(figure))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration with no more than must be given."""
    path = tmp_path / "small.yaml"
    minimal = {
        "network": {"build": "torchvision.models:resnet18"},
        "data": {"source": "digits"},
        "plan": {"budget": {"macs": "50%"}},
    }
    path.write_text(yaml.safe_dump(minimal))
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the export out of an examination; it takes seconds and has a test of its own."""
    monkeypatch.setattr(
        "secateur_cli.doctor.network_findings._deployable", lambda job, *_: job.note("export", "left out")
    )
