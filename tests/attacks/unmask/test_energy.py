"""Energy features: blind to the mask, and alike for encryptions that share an image."""

from __future__ import annotations

import numpy as np
from dead_leaves import dead_leaves

from instahide_nb.attacks.unmask.energy import correlation, difference_energy, features, quantise


def mixtures(seed: int = 0) -> np.ndarray:
    """Ten mixtures: rows 0 and 1 share an image with a large coefficient."""
    images = dead_leaves(30, (16, 16), seed).astype(np.float32) / 127.5 - 1
    mixed = np.stack([0.6 * images[i] + 0.4 * images[10 + i] for i in range(10)])
    mixed[1] = 0.6 * images[0] + 0.4 * images[25]
    return mixed.astype(np.float32)


def test_a_mask_changes_nothing() -> None:
    image = mixtures()
    mask = np.where(np.random.default_rng(0).random(image.shape) < 0.5, np.float32(-1), np.float32(1))
    assert np.array_equal(features(image), features(image * mask))


def test_known_differences() -> None:
    image = np.zeros((1, 2, 2, 3), np.float32)
    image[0, 0, 0] = [0.3, -0.4, 0.0]
    assert np.allclose(difference_energy(image), [[0.5, 0.5, 0.5 / np.sqrt(2), 0.0]])


def test_rows_are_standardised() -> None:
    table = features(mixtures())
    assert np.allclose(table.mean(axis=1), 0, atol=1e-5)
    assert np.allclose(table.std(axis=1), 1, atol=1e-4)


def test_a_constant_image_gives_zeros_not_nan() -> None:
    assert np.isfinite(features(np.zeros((3, 8, 8, 3), np.float32))).all()


def test_shared_image_shows() -> None:
    table = correlation(features(mixtures()), features(mixtures()))
    others = table[~np.eye(10, dtype=bool)]
    assert table[0, 1] == others.max()


def test_correlation_is_that_of_numpy_within_rounding() -> None:
    table = features(mixtures())
    assert np.abs(correlation(table, table) - np.corrcoef(table)).max() < 0.01


def test_products_are_exact_whatever_the_order() -> None:
    table = features(mixtures())
    order = np.random.default_rng(1).permutation(table.shape[1])
    assert np.array_equal(correlation(table, table), correlation(table[:, order], table[:, order]))


def test_quantised_values_are_integers_with_exact_squares() -> None:
    table = quantise(features(mixtures()))
    assert np.array_equal(table, np.rint(table))
    assert (table.astype(np.int64) ** 2).sum(axis=1).max() < 2**24
