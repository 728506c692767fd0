"""The scan: numpy's draws as it assumes them, what labels show, and the right seed among many."""

import math

import numpy as np
import pytest

from instahide_nb.attacks.generator import seed_scan
from instahide_nb.attacks.generator.seed_scan import LANES, SeedTest, find_seed, label_tolerance, ratio_targets, scan
from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.core.errors import InputError
from instahide_nb.scheme.encryption import class_coefficients, draw_coefficients, integer_weights
from instahide_nb.scheme.streams import open_stream


def labelled(seed: int, k: int = 6, places: int = 2, decimals: int | None = None) -> tuple[Release, np.ndarray]:
    """A release of one epoch with labels of ten classes, and its integer coefficients."""
    stream = open_stream("mt19937", seed=seed, key="", states=None)
    weight = integer_weights(draw_coefficients(stream, 100, k, min_private_sum=0.3 if places == 2 else 0.0))
    rng = np.random.default_rng(seed)
    index = np.stack([rng.permutation(100) for _ in range(places)], axis=1).astype(np.int32)
    label = class_coefficients(weight[:, :places], index, np.arange(100) % 10, 10)
    if decimals is not None:
        label = np.round(label, decimals).astype(np.float32)
    info = ReleaseInfo(k=k, scheme="cross" if places == 2 else "inside", encryptions_per_image=1)
    return Release(np.zeros((100, 1, 1, 3), np.float32), label, info), weight


def the_test(release: Release) -> SeedTest:
    test = SeedTest.of(release, label_tolerance(release.label, release.info.k)[0])
    assert test is not None
    return test


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [3, 4, 5, None])
def test_decimals_of_labels_are_recognised(decimals, dtype):
    label = labelled(1)[0].label.astype(float)
    rounded = (label if decimals is None else np.round(label, decimals)).astype(dtype)
    tolerance, found = label_tolerance(rounded, 6)
    assert found == decimals
    assert np.abs(rounded - label).max() <= tolerance
    assert tolerance == 7 / 2**24 if decimals is None else tolerance < 0.6 * 10.0**-decimals


@pytest.mark.parametrize("decimals", [0, 1, 2])
def test_too_few_decimals_are_refused_in_one_line(decimals):
    release = labelled(1, decimals=decimals)[0]
    with pytest.raises(InputError, match=rf"label.npy: its values have {decimals} decimals") as error:
        find_seed(release)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("k", [3, 4, 5, 6, 9])
def test_targets_hold_the_ratio_of_the_first_two_coefficients(k):
    release, weight = labelled(3, k)
    row, low, high = ratio_targets(release.label, k, 2, label_tolerance(release.label, k)[0])
    two_classes = (release.label > 0).sum(axis=1) == 2
    aligned = np.arange(100) * k % 2 == 0  # the row starts with the first of a pair of normal numbers
    assert row.tolist() == np.flatnonzero(two_classes & aligned).tolist()
    pair = weight[row, :2].astype(float)
    ratio = pair.min(axis=1) / pair.max(axis=1)
    assert ((low <= ratio) & (ratio <= high)).all()
    assert (high - low).max() < 2e-5


@pytest.mark.parametrize(
    ("k", "places", "decimals"), [(6, 2, None), (6, 2, 3), (6, 6, None), (5, 2, None), (2, 2, None)]
)
def test_right_seed_survives_as_often_as_planned_and_wrong_ones_hardly(k, places, decimals):
    survived, others, seen, overlooked = 0, 0, 0, 0.0
    seeds = range(7_000, 7_040)
    for seed in seeds:
        test = the_test(labelled(seed, k, places, decimals)[0])
        assert test.fits(np.arange(seed - 5, seed + 6)).nonzero()[0].tolist() == [5]
        overlooked += test.overlooked
        found = test.survivors(seed - 1_000, seed + 1_000)
        survived += seed in found
        others += len(found)
        seen += 2_000
    assert len(seeds) - survived <= overlooked + 4 * math.sqrt(overlooked + 1)
    assert (others - survived) / seen < 6e-3


def test_scan_returns_the_lowest_verified_seed_whatever_the_threads():
    test = the_test(labelled(60_123)[0])
    outcomes = [scan(test, 0, 80_000, lambda seed: True, threads=t) for t in (1, 3)]
    assert outcomes[0] == outcomes[1]
    assert (outcomes[0][:2], outcomes[0][3]) == ((60_123, 80_000), 1)
    refused = scan(test, 0, 80_000, lambda seed: False, threads=1)
    assert (refused[0], refused[3]) == (None, 1)


@pytest.mark.parametrize(
    ("seed", "start", "stop", "found"),
    [
        (77, 77, 78, True),
        (77, 0, 78, True),
        (77, 0, 77, False),
        (77, 78, 900, False),
        (2**32 - 3, 2**32 - 1 - LANES, 2**32, True),
    ],
)
def test_ends_of_the_range_are_exact(seed, start, stop, found):
    """The last group of seeds goes past 2^32 and finds nothing twice."""
    lowest, _, _, fitting = scan(the_test(labelled(seed)[0]), start, stop, lambda seed: True)
    assert (lowest == seed, fitting) == (found, int(found))


def test_an_interrupted_scan_says_where_to_continue(monkeypatch, capsys):
    def interrupted(self, start, stop):
        if stop > 3_000:
            raise KeyboardInterrupt
        return np.empty(0, np.int64)

    monkeypatch.setattr(seed_scan, "CHUNK", 1_000)
    monkeypatch.setattr(SeedTest, "survivors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scan(the_test(labelled(77)[0]), 100, 9_000, lambda seed: True, threads=1)
    assert capsys.readouterr().err.splitlines()[-1] == "scan interrupted; continue with -p seed_start=2100"
