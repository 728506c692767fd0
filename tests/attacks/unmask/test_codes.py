"""Sparse codes: the best images and coefficients under what is known, each row compared with fits without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from instahide_nb.attacks.mixtures import Fit, Mixtures, fit, influence
from instahide_nb.attacks.unmask.codes import Products, assign_epochs, code, code_epochs
from instahide_nb.attacks.unmask.constraints import Known

CLASSES = np.array([0, 0, 0, 1, 1, 1, 1])


def case(
    per_row: int, noise: float, n: int = 140, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows that are mixtures of seven images, in epochs: rows (n, 40), images, assignment and coefficients."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(7, 40))
    blocks = [np.stack([rng.permutation(7) for _ in range(per_row)], axis=1) for _ in range(n // 7)]
    held, share = np.concatenate(blocks), rng.uniform(0.1, 0.6, (n, per_row))
    rows = (share[:, :, None] * image[held]).sum(axis=1) + noise * rng.normal(size=(n, 40))
    return rows, image, held, share


def unfitted(rows: np.ndarray, image: np.ndarray) -> Products:
    return Products(rows @ image.T, image @ image.T, (rows * rows).sum(axis=1), None)


def known_of(held: np.ndarray, share: np.ndarray, labels: str) -> Known:
    total = np.zeros((len(held), 2))
    np.add.at(total, (np.arange(len(held))[:, None], CLASSES[held]), share)
    if labels == "none":
        return Known(held.shape[1], np.zeros(7, np.int64), np.ones((len(held), 1), bool), None)
    return Known(held.shape[1], CLASSES, total > 0, total if labels == "coefficients" else None)


@pytest.mark.parametrize("labels", ["none", "classes", "coefficients"])
@pytest.mark.parametrize("per_row", [1, 2, 3])
def test_images_and_coefficients_are_found(per_row: int, labels: str) -> None:
    rows, image, held, share = case(per_row, 0.01)
    found = code(unfitted(rows, image), known_of(held, share, labels)).mixtures
    true, made = np.zeros((2, len(rows), 7))
    np.add.at(true, (np.arange(len(rows))[:, None], held), share)
    np.add.at(made, (np.arange(len(rows))[:, None], found.assignment), found.coefficient)
    assert np.abs(true - made).max(axis=1).mean() < 0.02
    assert (np.diff(found.coefficient, axis=1) <= 0).all()


def test_labels_are_kept() -> None:
    rows, image, held, share = case(3, 1.0)
    known = known_of(held, share, "coefficients")
    found = code(unfitted(rows, image), known).mixtures
    total = np.zeros_like(known.share)
    np.add.at(total, (np.arange(len(rows))[:, None], CLASSES[found.assignment]), found.coefficient)
    assert np.abs(total - known.share).max() < 0.02


def test_a_row_is_compared_with_images_fitted_without_it() -> None:
    rows, _, held, share = case(2, 0.5)
    mixtures, one = Mixtures(held, share, 7), np.ones(len(rows))
    image = fit(rows, mixtures, one, np.zeros(40), 0.0)
    fitted = Fit(image.astype(np.float32), mixtures, influence(mixtures, one, 0.0))
    known = known_of(held, share, "none")
    codes = code(replace(unfitted(rows, image), fit=fitted), known, held)
    for i in (0, 17):
        others = np.arange(len(rows)) != i
        without = fit(rows[others], mixtures.part(others), one[others], np.zeros(40), 0.0)
        alone = code(unfitted(rows[i : i + 1], without), known.part(slice(i, i + 1)), held[i : i + 1])
        assert np.isclose(codes.gain[i], alone.gain[0], rtol=1e-5)
        assert np.allclose(codes.score[i], alone.score[0], rtol=1e-3, atol=1e-3)


def test_every_image_stands_p_times_in_an_epoch() -> None:
    rows, image, held, share = case(2, 2.0)
    known = replace(known_of(held, share, "none"), epochs=True)
    found = code_epochs(unfitted(rows, image), known, np.ones(len(rows), np.float32)).mixtures.assignment
    for low in range(0, len(rows), 7):
        assert (np.bincount(found[low : low + 7].ravel(), minlength=7) == 2).all()
    assert (np.sort(found) == np.sort(held)).mean() > 0.5
    chosen = np.eye(7, dtype=np.float32)[held]
    assert np.array_equal(assign_epochs(chosen, np.ones(len(rows), np.float32), 7), held)
