"""Fixtures for all tests: a tiny challenge of made images, so that no photograph and no SIFT is needed."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as attacks run; more threads only wait for each other here

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings

from instahide_nb.challenge.build import Challenge, build_challenge, save_challenge
from instahide_nb.core.params import GenDataParams

collect_ignore_glob = ["*/make_*.py"]  # scripts that made the data; they need more than the lock file holds

# The same examples each time, so that a failure is seen by everyone; HYPOTHESIS_PROFILE=explore looks for new ones.
_SHARED = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, **_SHARED)
settings.register_profile("explore", max_examples=1000, print_blob=True, **_SHARED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

CLASS_NAMES = ("square", "circle", "cross")
SEED = 3141592653
"""A seed whose ten digits stand out wherever they are written."""


def made_images(n: int, height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """Images of independent values, both ends of the range included."""
    images = np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)
    images[0, 0, 0], images[-1, -1, -1] = 0, 255
    return images


@dataclass(frozen=True)
class Sources:
    """Paths of two ``.npz`` files, and what is in them."""

    private_path: Path
    public_path: Path
    private: npt.NDArray[np.uint8]
    label: npt.NDArray[np.int64]
    public: npt.NDArray[np.uint8]


def write_sources(folder: Path, n_private: int, n_public: int, height: int = 8, width: int = 8) -> Sources:
    """Write made private and public images as sources that are used whole and in their order."""
    private = made_images(n_private, height, width, 1)
    public = made_images(n_public, height, width, 2)
    label = np.arange(n_private) * 7 % len(CLASS_NAMES)
    np.savez(folder / "hidden-private.npz", images=private, labels=label, class_names=np.array(CLASS_NAMES))
    np.savez(folder / "hidden-public.npz", images=public)
    return Sources(folder / "hidden-private.npz", folder / "hidden-public.npz", private, label, public)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """7 private and 12 public images of 8 x 8."""
    return write_sources(tmp_path_factory.mktemp("sources"), 7, 12)


@pytest.fixture(scope="session")
def gen_data_params(sources: Sources) -> GenDataParams:
    """Parameters of the tiny challenge: 7 private images, 5 epochs, k = 4."""
    return GenDataParams(
        **{
            "seed": SEED,
            "n_private": 7,
            "encryptions_per_image": 5,
            "k": 4,
            "n_public": 12,
            "private_source": str(sources.private_path),
            "public_source": str(sources.public_path),
        }
    )


@pytest.fixture(scope="session")
def challenge(gen_data_params: GenDataParams) -> Challenge:
    """The tiny challenge, in memory."""
    return build_challenge(gen_data_params)


@pytest.fixture(scope="session")
def saved_run(challenge: Challenge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny challenge on disk; to be read only."""
    run = tmp_path_factory.mktemp("run")
    save_challenge(run, challenge)
    return run


@pytest.fixture
def run(saved_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny challenge on disk, to be damaged."""
    return Path(shutil.copytree(saved_run, tmp_path / "run"))


def pytest_configure() -> None:
    """Spare jsonschema three seconds on a grammar that notebooks do not use."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


_FIRST = ("test_notebooks.py", "test_same_bits.py", "test_sweep.py", "test_interruption.py", "test_pipeline.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first file compiles the attacks' kernels; files that do not need them, the longest first, run beside it."""
    order = {name: place for place, name in enumerate(_FIRST)}
    items.sort(key=lambda item: (order.get(item.path.name, len(_FIRST)), "attacks" in item.path.parts))
