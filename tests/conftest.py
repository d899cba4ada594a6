"""Settings that every test shares: few threads, no randomness from outside, and where the large files may lie."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from images_for_tests import folder_of_few_images

torch.set_num_threads(1)
settings.register_profile("untimed", settings(), deadline=None)  # machines are shared
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Spare the collector what thousands of collected tests hold: a tenth of the time of all of them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


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
    return folder_of_few_images(tmp_path_factory.mktemp("few"), shared)
