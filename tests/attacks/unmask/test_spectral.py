"""Spectral phase retrieval: products from squares, signs joined."""

from __future__ import annotations

import numpy as np
import pytest
from dead_leaves import dead_leaves

from instahide_nb.attacks.unmask.assignment import Slots, read_slots
from instahide_nb.attacks.unmask.spectral import expected_square, join_signs, pixel_matrix, retrieve


def challenge(n: int = 1500) -> tuple[np.ndarray, np.ndarray, Slots, np.ndarray]:
    """Masked mixtures of two of 8 images in 8 classes and one public image."""
    rng = np.random.default_rng(0)
    images = dead_leaves(8, (16, 16), 21).astype(np.float32) / 127.5 - 1
    public = dead_leaves(100, (16, 16), 22).astype(np.float32) / 127.5 - 1
    pair = np.stack([rng.permutation(8)[:2] for _ in range(n)])
    lam = rng.uniform(0.25, 0.45, (n, 2)).astype(np.float32)
    label = np.zeros((n, 8), np.float32)
    for s in range(2):
        np.add.at(label, (np.arange(n), pair[:, s]), lam[:, s])
    rest = 1 - lam.sum(axis=1)[:, None, None, None]
    x = (lam[:, :, None, None, None] * images[pair]).sum(axis=1) + rest * public[rng.integers(0, 100, n)]
    slots = read_slots(label, 8)
    return images, np.abs(x).astype(np.float32), slots, slots.image_class.copy()


def test_pixel_matrix_estimates_products() -> None:
    images, size, slots, assignment = challenge()
    product, weight = pixel_matrix(size, slots, assignment, (5, 6, 1))
    true = np.outer(images[:, 5, 6, 1], images[:, 5, 6, 1])
    off = ~np.eye(8, dtype=bool)
    assert (weight[off] > 0).all()
    assert np.array_equal(product, product.T)
    assert np.corrcoef(product[off], true[off])[0, 1] > 0.6


def test_retrieves_images_up_to_one_sign() -> None:
    images, size, slots, assignment = challenge()
    found = retrieve(size, slots, assignment)
    agreement = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(found, images, strict=True)]
    assert np.min(np.abs(agreement)) > 0.6
    assert abs(np.sign(agreement).sum()) == len(images)


@pytest.mark.parametrize("seed", range(3))
def test_joined_signs_agree_up_to_one(seed: int) -> None:
    images = dead_leaves(60, (10, 12), 30).astype(np.float32).reshape(60, -1) / 127.5 - 1
    flip = np.random.default_rng(seed).choice(np.float32([-1, 1]), images.shape[1])
    ratio = join_signs(images * flip, (10, 12, 3)) * np.sign(images)
    sign = np.sign(ratio.sum(axis=0))
    assert (np.abs(sign.sum()) == len(sign)).all()


def test_expected_square_fits_its_own_form() -> None:
    rng = np.random.default_rng(1)
    lam = rng.uniform(0.1, 0.4, (200, 2)).astype(np.float32)
    a, b = lam[:, 0].astype(float), lam[:, 1].astype(float)
    square = 0.3 * (a * a + b * b) + 0.1 * (1 - a - b) ** 2 + 0.02
    assert np.allclose(expected_square(square, lam), square, atol=1e-6)
