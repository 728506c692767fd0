"""Rows that share public images are found, predict each other, and sharpen least squares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from public_residuals import SIDE, SIZE, residuals, white_model
from slot_tables import one_class

import instahide_nb.attacks.unmask.found_companions as module
from instahide_nb.attacks.unmask.assignment import Slots
from instahide_nb.attacks.unmask.companion_images import fit_images
from instahide_nb.attacks.unmask.found_companions import Companions, find_companions, parts, predict_residuals
from instahide_nb.attacks.unmask.smoothness import smoothness


def alone(n: int) -> np.ndarray:
    """An assignment in which no two rows share an image."""
    return np.arange(2 * n).reshape(n, 2)


def found(rows: np.ndarray, assignment: np.ndarray, **more: Any) -> Companions:
    return find_companions(rows, assignment, smoothness(white_model(), SIDE, SIDE, 0.0), **more)


def matrix(companions: Companions) -> np.ndarray:
    """The identity less the weights."""
    out = np.eye(len(companions.row))
    for r, (others, weights) in enumerate(zip(companions.row, companions.weight, strict=True)):
        out[r, others[others >= 0]] -= weights[others >= 0]
    return out


def test_expected_residuals_are_the_regressions() -> None:
    rows, _, _ = residuals()
    companions = found(rows, alone(len(rows)), least=0.2, shrinkage=0.0)
    expected = predict_residuals(rows, companions).reshape(len(rows), -1)
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    likeness = np.abs(np.corrcoef(flat))
    for row in (0, 30):
        others = companions.row[row][companions.row[row] >= 0]
        assert likeness[row, others].min() > 0.19
        assert len(others) >= 3
        fit = np.linalg.lstsq(flat[others].T, flat[row], rcond=None)[0] @ flat[others]
        assert np.allclose(expected[row], fit, atol=1e-2)
        assert np.isclose(companions.scale[row], ((flat[row] - fit) ** 2).mean(), rtol=1e-2)


def test_companions_are_those_that_share_a_source() -> None:
    rows, mixing, _ = residuals()
    companions = found(rows, alone(len(rows)), least=0.2)
    truth = np.zeros((len(rows), len(rows)), bool)
    for e, mixed in enumerate(mixing):
        covariance = mixed @ mixed.T
        size = np.sqrt(np.diag(covariance))
        part = slice(e * SIZE, (e + 1) * SIZE)
        truth[part, part] = covariance / np.outer(size, size) > 0.35
    chosen = matrix(companions) != 0
    assert chosen[truth].mean() > 0.95
    epoch = np.arange(len(rows)) // SIZE
    assert chosen[epoch[:, None] != epoch].mean() < 1e-3


def test_rows_that_share_a_private_image_are_no_companions() -> None:
    rows, _, _ = residuals()
    rng = np.random.default_rng(2)
    assignment = rng.integers(0, 20, (len(rows), 2))
    companions = found(rows, assignment)
    assert (companions.row >= 0).any()
    for r, others in enumerate(companions.row):
        for s in others[others >= 0]:
            assert not set(assignment[r]) & set(assignment[s])


def test_no_more_companions_than_asked_for_and_the_strongest() -> None:
    rows, _, _ = residuals()
    few, many = found(rows, alone(len(rows)), most=3, least=0.1), found(rows, alone(len(rows)), least=0.1)
    likeness = np.abs(np.corrcoef(rows.reshape(len(rows), -1)))
    for r in range(len(rows)):
        others, kept = many.row[r][many.row[r] >= 0], few.row[r][few.row[r] >= 0]
        assert len(kept) == min(3, len(others))
        assert set(kept) <= set(others)
        left = np.setdiff1d(others, kept)
        if len(left):
            assert likeness[r, kept].min() > likeness[r, left].max() - 0.02  # means are not taken off there


def test_nobody_has_companions_where_nothing_is_shared() -> None:
    rows = np.random.default_rng(3).normal(size=(40, 3, SIDE, SIDE)).astype(np.float32)
    companions = found(rows, alone(40), least=0.3)
    assert (companions.row == -1).all()
    assert not predict_residuals(rows, companions).any()
    assert np.allclose(companions.scale, (rows.reshape(40, -1) ** 2).mean(axis=1), rtol=1e-3)


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 20))
def test_parts_hold_every_row_once_and_cut_no_epoch(epochs: int, together: int, whole: int) -> None:
    cut = parts(epochs * whole, together, whole)
    assert [row for part in cut for row in range(part.start, part.stop)] == list(range(epochs * whole))
    for part in cut:
        assert part.start % whole == 0
        assert part.stop - part.start <= max(together, whole)


def mixtures(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rows, _, _ = residuals()
    rng = np.random.default_rng(seed)
    image = rng.uniform(-0.9, 0.9, (6, 3, SIDE, SIDE)).astype(np.float32)
    assignment = rng.integers(0, 6, (len(rows), 2))
    coefficient = rng.uniform(0.1, 0.4, (len(rows), 2)).astype(np.float32)
    return rows, image, assignment, coefficient


def test_rows_less_their_companions_beat_ordinary_least_squares() -> None:
    rows, image, assignment, coefficient = mixtures(5)
    x = rows + (coefficient[:, :, None, None, None] * image[assignment]).sum(axis=1)
    companions = found(rows, alone(len(rows)))
    nobody = Companions(
        np.full_like(companions.row, -1), np.zeros_like(companions.weight), np.ones_like(companions.scale)
    )
    mean = np.zeros(3, np.float32)

    def error(who: Companions) -> float:
        fitted, _ = fit_images(x, [who], assignment, coefficient, mean, one_class(len(rows), 6), ridge=1e-9)
        return float(((fitted - image) ** 2).mean())

    assert error(companions) < 0.5 * error(nobody)


def test_images_solve_their_normal_equations() -> None:
    rows, _, assignment, coefficient = mixtures(6)
    companions = found(rows, alone(len(rows)))
    mean = np.array([0.1, 0.0, -0.1], np.float32)
    design = np.zeros((len(rows), 6))
    for s in range(2):
        np.add.at(design, (np.arange(len(rows)), assignment[:, s]), coefficient[:, s])
    less = matrix(companions) / np.sqrt(companions.scale.astype(float))[:, None]
    target = (0.05 * rows - mean[:, None, None]).reshape(len(rows), -1)
    expected = np.linalg.lstsq(less @ design, less @ target, rcond=None)[0].reshape(6, 3, SIDE, SIDE)
    fitted, influence = fit_images(
        0.05 * rows, [companions], assignment, coefficient, mean, one_class(len(rows), 6), ridge=1e-12
    )
    assert np.allclose(fitted, (expected + mean[:, None, None]).clip(-1, 1), atol=1e-3)
    assert np.allclose(influence[:, 0].T, np.linalg.pinv(less @ design) @ less, atol=1e-3)


def test_images_of_all_parts_are_fitted_together() -> None:
    """As by one list of companions, in which rows are counted from the first of all."""
    rows, _, assignment, coefficient = mixtures(7)
    cut = parts(len(rows), 3 * SIZE, SIZE)
    assert len(cut) > 2
    each = [found(rows[part], alone(part.stop - part.start)) for part in cut]
    row = np.concatenate(
        [np.where(one.row < 0, -1, one.row + part.start) for part, one in zip(cut, each, strict=True)]
    )
    whole = Companions(
        row, np.concatenate([one.weight for one in each]), np.concatenate([one.scale for one in each])
    )
    assert (row >= 0).any()
    more = assignment, coefficient, np.zeros(3, np.float32), one_class(len(rows), 6)
    image, influence = fit_images(0.05 * rows, each, *more)
    expected, expected_influence = fit_images(0.05 * rows, [whole], *more)
    assert np.allclose(image, expected, atol=1e-6)
    assert np.allclose(influence, expected_influence, atol=1e-9)


def test_several_classes_and_a_part_of_one_row_solve_the_same_equations() -> None:
    """Dense algebra on images of two classes, one of which has an image that no row holds."""
    rng = np.random.default_rng(8)
    n, start = 41, np.array([0, 4, 7])
    image_class = np.sort(rng.integers(0, 2, (n, 2)), axis=1)[:, ::-1].copy()
    assignment = np.where(image_class == 0, rng.integers(0, 4, (n, 2)), rng.integers(4, 6, (n, 2)))
    coefficient = rng.uniform(0.1, 0.4, (n, 2)).astype(np.float32)
    slots = Slots(image_class, coefficient, image_class[:, 0] == image_class[:, 1], start, np.full(n, -1))
    each, less = [], np.zeros((n, n))
    for part in (slice(0, 25), slice(25, 40), slice(40, 41)):
        size = part.stop - part.start
        row, weight = np.full((size, 3), -1), np.zeros((size, 3), np.float32)
        for r in range(size):
            count = int(rng.integers(0, min(3, size - 1) + 1))
            row[r, :count] = np.sort(rng.choice(np.delete(np.arange(size), r), count, replace=False))
            weight[r, :count] = rng.normal(0, 0.3, count)
        each.append(Companions(row, weight, rng.uniform(0.5, 2, size).astype(np.float32)))
        less[part, part] = matrix(each[-1]) / np.sqrt(each[-1].scale.astype(float))[:, None]
    design = np.zeros((n, 7))
    for slot in range(2):
        np.add.at(design, (np.arange(n), assignment[:, slot]), coefficient[:, slot].astype(float))
    signed = rng.uniform(-0.2, 0.2, (n, 3, SIDE, SIDE)).astype(np.float32)
    normal = (less @ design).T @ (less @ design)
    normal += 1e-3 * np.diag(normal).mean() * np.eye(7)
    change = np.linalg.solve(normal, (less @ design).T @ less)
    image, influence = fit_images(signed, each, assignment, coefficient, np.zeros(3, np.float32), slots)
    expected = (change @ signed.reshape(n, -1)).reshape(image.shape)
    assert np.allclose(image, expected.clip(-1, 1), atol=1e-4)
    for i, slot in np.ndindex(n, 2):
        low, high = start[image_class[i, slot]], start[image_class[i, slot] + 1]
        assert np.allclose(influence[i, slot, : high - low], change[low:high, i], atol=1e-5)
        assert not influence[i, slot, high - low :].any()


def test_influence_is_what_an_encryption_changes() -> None:
    rows, _, assignment, coefficient = mixtures(6)
    companions = found(rows, alone(len(rows)))
    mean, signed = np.zeros(3, np.float32), 0.05 * rows
    before, influence = fit_images(
        signed, [companions], assignment, coefficient, mean, one_class(len(rows), 6)
    )
    for i in (0, 17):
        changed = signed.copy()
        changed[i] += np.float32(0.05)
        after, _ = fit_images(changed, [companions], assignment, coefficient, mean, one_class(len(rows), 6))
        inside = (np.abs(before) < 0.9) & (np.abs(after) < 0.9)  # images are clipped at 1
        expected = np.broadcast_to(0.05 * influence[i, 0, :, None, None, None], before.shape)
        assert np.allclose((after - before)[inside], expected[inside], atol=1e-4)


def test_a_whitening_that_is_not_positive_still_gives_finite_companions() -> None:
    rows, _, _ = residuals()
    local = smoothness(white_model(), SIDE, SIDE, 0.0)
    companions = find_companions(rows, alone(len(rows)), replace(local, variance=-local.variance))
    assert np.isfinite(companions.weight).all()
    assert (companions.scale > 0).all()
    assert np.abs(companions.weight).max() < 10


def test_a_row_whose_whitened_length_is_not_positive_is_nobodys_companion() -> None:
    rng = np.random.default_rng(4)
    gram = (0.2 * rng.normal(size=(6, 6))).astype(np.float32)
    gram = gram + gram.T
    np.fill_diagonal(gram, 1.0)
    for value in (-0.1, 0.0):
        gram[2, 2] = value
        row, weight = np.full((6, 4), -1), np.zeros((6, 4), np.float32)
        scale = np.empty(6, np.float32)
        module._regress(0, 6, gram, alone(6), 0.1, 0.0, 0.8, row, weight, scale)
        assert not (row == 2).any()
        assert (row[2] == -1).all()
        assert (row >= 0).any()
        assert np.isclose(scale[2], 0.8)
        assert (scale > 0).all()
