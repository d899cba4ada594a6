"""Settings that every test shares: few threads, no randomness from outside, and where the large files may lie."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", settings(), deadline=None)  # machines are shared
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what one asks for by `pytest -m gpu --simulate-cuda`."""
    parser.addoption("--simulate-cuda", action="store_true", help="run what torch does on a CUDA device on none")


def pytest_configure(config: pytest.Config) -> None:
    """Let torch use one thread, and no garbage be looked for in what is collected; not where workers do the tests."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        import torch

        torch.set_num_threads(1)
        gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the experiments of NNI: one that begins last keeps a single worker busy for most of a minute."""
    items.sort(key=lambda item: item.get_closest_marker("nni") is None)


def pytest_collection_finish() -> None:
    """Spare the collector what thousands of collected tests hold, and let it come less often: a tenth of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.default_generator.manual_seed(0)  # `torch.manual_seed` notes, for devices that are not there, who asked


@pytest.fixture
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CUDA device for torch: the machine's, or a simulated one if that is asked for; without either a test skips."""
    import torch

    from simulated_cuda_for_tests import simulated_cuda

    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)
        yield
    elif not request.config.getoption("simulate_cuda"):
        pytest.skip("no CUDA device (--simulate-cuda takes what torch does there to a simulated one)")
    else:
        with simulated_cuda(monkeypatch):
            yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the trained networks and images, beside the checkout; tests that need it skip without it."""
    folder = Path(os.environ.get("SECATEUR_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "models").is_dir() or not (folder / "data").is_dir():
        pytest.skip(f"no trained networks and images in {folder} (set SECATEUR_SHARED to their folder)")
    return folder


@pytest.fixture(scope="session")
def few_images(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `shared` is, with fewer images."""
    from images_for_tests import folder_of_few_images

    return folder_of_few_images(tmp_path_factory.mktemp("few"), shared)
