"""The scan for the seed over Dask workers: the lowest seed, whichever part ends first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instahide_nb import seed_cluster
from instahide_nb.attack.generator.prng_seed import find_seed
from instahide_nb.challenge import build_challenge
from instahide_nb.errors import InputError
from instahide_nb.params import GenDataParams
from instahide_nb.release import Release, save_release

distributed = pytest.importorskip("distributed")

SEED = 1_400_000


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """40 private images of 8 x 8 in ten classes, two epochs."""
    folder = tmp_path_factory.mktemp("seed")
    images = np.random.default_rng(5).integers(0, 256, (40, 8, 8, 3), np.uint8)
    np.savez(folder / "private.npz", images=images, labels=np.arange(40) % 10)
    np.savez(folder / "public.npz", images=images[::-1])
    params = {"seed": SEED, "n_private": 40, "encryptions_per_image": 2, "k": 6, "n_public": 40}
    params |= {"private_source": str(folder / "private.npz"), "public_source": str(folder / "public.npz")}
    return build_challenge(GenDataParams.from_mapping(params)).release


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two workers that are threads of this process."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def silent(line: str) -> None:
    pass


@pytest.mark.parametrize("part", [2**18, 2**20, 2**22])
def test_the_seed_is_that_of_one_machine_whatever_the_parts(client: Any, release: Release, part: int) -> None:
    alone, _ = find_seed(release, 1_000_000, 1_600_000)
    assert alone is not None
    assert alone.seed == SEED
    assert seed_cluster.lowest_seed(client, release, 1_000_000, 1_600_000, part=part, say=silent) == SEED


def test_a_range_without_the_seed_has_no_answer(client: Any, release: Release) -> None:
    for start, stop in ((SEED + 1, SEED + 200_000), (SEED - 200_000, SEED)):
        assert seed_cluster.lowest_seed(client, release, start, stop, part=2**16, say=silent) is None


def test_a_lower_seed_that_comes_later_is_kept(client: Any, release: Release) -> None:
    def scan(release: Release, first: int, last: int, threads: int | None) -> int | None:
        if first == 0:
            time.sleep(1)  # the part with the lowest seed is the slowest
        return {0: 7, 10: 13, 30: 31}.get(first)

    said: list[str] = []
    assert seed_cluster.lowest_seed(client, release, 0, 1000, part=10, scan=scan, say=said.append) == 7
    assert said[0].startswith("seed 13 ")
    assert not any("seed 31 " in line for line in said)


def test_parts_beyond_a_seed_are_given_up(client: Any, release: Release) -> None:
    def scan(release: Release, first: int, last: int, threads: int | None) -> int | None:
        if first > 100:
            time.sleep(0.2)  # two hundred of them would take twenty seconds
        return 5 if first == 0 else None

    begin = time.monotonic()
    assert seed_cluster.lowest_seed(client, release, 0, 2000, part=10, scan=scan, say=silent) == 5
    assert time.monotonic() - begin < 15


def test_an_error_on_a_worker_is_raised_here(client: Any, release: Release) -> None:
    def scan(release: Release, first: int, last: int, threads: int | None) -> int | None:
        raise InputError("label.npy: shows nothing")

    with pytest.raises(InputError, match="shows nothing"):
        seed_cluster.lowest_seed(client, release, 0, 100, part=10, scan=scan, say=silent)


def test_an_interrupt_says_where_to_go_on(client: Any, release: Release) -> None:
    def scan(release: Release, first: int, last: int, threads: int | None) -> int | None:
        if first == 20:
            time.sleep(1)  # the third part is still open when the fourth has ended
        return None

    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seed_cluster.lowest_seed(client, release, 0, 100, part=10, scan=scan, say=say)
    assert said[-1] == "interrupted: seeds 0 .. 19 are done; --seed-start 20 goes on there"


def test_only_labels_are_sent(release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_release(tmp_path, release)
    sent: list[Release] = []

    def lowest(client: Any, release: Release, *words: Any, **more: Any) -> int:
        sent.append(release)
        return SEED

    monkeypatch.setattr(seed_cluster, "lowest_seed", lowest)
    found = seed_cluster.scan_release(tmp_path, SEED, SEED + 1, workers=1, say=silent)
    assert found == SEED
    assert sent[0].encryption.size == 0
    assert sent[0].label.shape == release.label.shape


def test_what_cannot_be_scanned_is_refused(release: Release, tmp_path: Path) -> None:
    save_release(tmp_path, release)
    with pytest.raises(InputError, match="is no range"):
        seed_cluster.scan_release(tmp_path, 5, 5, say=silent)
    other = {**release.info.__dict__, "rng": "chacha20"}
    save_release(tmp_path, Release(release.encryption, release.label, type(release.info)(**other)))
    with pytest.raises(InputError, match="generator chacha20"):
        seed_cluster.scan_release(tmp_path, say=silent)
