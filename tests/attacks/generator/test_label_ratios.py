"""Ratios of coefficients read from labels."""

import numpy as np
import pytest

from instahide_nb.attacks.generator.label_ratios import label_tolerance, labels_agree, ratio_targets
from instahide_nb.core.errors import InputError
from instahide_nb.scheme.encryption import class_coefficients, draw_coefficients, integer_weights
from instahide_nb.scheme.streams import open_stream


def made(k: int = 6, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of ten classes, integer coefficients and the classes of the first two places."""
    rows = draw_coefficients(open_stream("mt19937", seed=3, key="", states=None), n, k, min_private_sum=0.3)
    weight = integer_weights(rows)
    rng = np.random.default_rng(0)
    index = rng.integers(0, 50, (n, 2)).astype(np.int32)
    return class_coefficients(weight[:, :2], index, np.arange(50) % 10, 10), weight, index % 10


@pytest.mark.parametrize("decimals", [3, 4, 5])
def test_decimals_are_recognised(decimals):
    label = made()[0]
    for rounded in (np.round(label.astype(float), decimals), np.round(label, decimals).astype(np.float32)):
        tolerance, found = label_tolerance(rounded, 6)
        assert found == decimals
        assert np.abs(rounded - label).max() <= tolerance < 0.6 * 10.0**-decimals


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_labels_have_a_tolerance_of_their_rounding(dtype):
    label, weight, _ = made()
    tolerance, decimals = label_tolerance(label.astype(dtype), 6)
    assert decimals is None
    assert tolerance == 7 / 2**24
    assert labels_agree(label, weight, "cross", tolerance) == 1.0


@pytest.mark.parametrize("decimals", [0, 1, 2])
def test_too_few_decimals_are_refused_in_one_line(decimals):
    with pytest.raises(InputError, match=rf"label.npy: its values have {decimals} decimals") as error:
        label_tolerance(np.round(made()[0], decimals), 6)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("k", [3, 4, 5, 6, 9])
def test_targets_hold_the_ratio_of_the_first_two_coefficients(k):
    label, weight, classes = made(k)
    targets = ratio_targets(label, k, 2, label_tolerance(label, k)[0])
    two_classes = classes[:, 0] != classes[:, 1]
    aligned = np.arange(len(label)) * k % 2 == 0  # the row starts with the first of a pair of normal numbers
    assert targets.row.tolist() == np.flatnonzero(two_classes & aligned).tolist()
    pair = weight[targets.row, :2].astype(float)
    ratio = pair.min(axis=1) / pair.max(axis=1)
    assert ((targets.low <= ratio) & (ratio <= targets.high)).all()
    assert (targets.high - targets.low).max() < 2e-5


def test_chance_of_a_wrong_seed_is_that_of_random_ratios():
    """Widen the intervals until hits can be counted, and compare with pairs of normal numbers."""
    label = made()[0][:40]
    targets = ratio_targets(label, 6, 2, 0.01)
    points = np.abs(np.random.default_rng(1).normal(size=(20_000, 2)))
    ratio = points.min(axis=1) / points.max(axis=1)
    hits = ((targets.low[:, None] <= ratio) & (ratio <= targets.high[:, None])).sum(axis=0).mean()
    assert targets.chance() == pytest.approx(hits, rel=0.05)


def test_labels_of_other_coefficients_do_not_agree():
    label, weight, _ = made()
    assert labels_agree(label, weight[::-1], "cross", 7 / 2**24) < 0.05
