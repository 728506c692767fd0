"""Planted speckles are found and turned back; clean images stay."""

from __future__ import annotations

import numpy as np
from dead_leaves import dead_leaves

from instahide_nb.attacks.unmask.sign_repair import flip_gain, repair
from instahide_nb.attacks.unmask.smoothness import public_model, smoothness

MODEL = public_model(dead_leaves(200, (16, 16), 41))
LOCAL = smoothness(MODEL, 16, 16, 0.1)


def planar(n: int) -> np.ndarray:
    images = dead_leaves(n, (16, 16), 42).astype(np.float32) / 127.5 - 1
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def test_gain_is_the_change_of_log_likelihood() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (3, 5)).astype(np.float32)
    assignment = np.array([[0, 1], [1, 2], [0, 2], [1, 1], [-1, 0]])
    coefficient = rng.uniform(0.2, 0.4, (5, 2)).astype(np.float32)
    variance = rng.uniform(0.05, 0.2, 5).astype(np.float32)
    mean = rng.uniform(-0.2, 0.2, 5).astype(np.float32)
    size = rng.uniform(0, 1, (5, 5)).astype(np.float32)

    def likelihood(i: int, values: np.ndarray) -> np.ndarray:
        rest = 1 - coefficient[i].sum()
        m = coefficient[i] @ values[assignment[i]] + rest * mean
        return np.sqrt(1 + (size[i] * m / variance[i]) ** 2) - m * m / (2 * variance[i])

    expected = np.zeros((3, 5))
    for i in range(3):
        for a in assignment[i]:
            flipped = image.copy()
            flipped[a] *= -1
            expected[a] += likelihood(i, flipped) - likelihood(i, image)
    found = flip_gain(size, image, assignment, coefficient, variance, mean)
    assert np.allclose(found, expected, atol=1e-4)


def test_planted_speckles_are_turned_back() -> None:
    clean = planar(20)
    rng = np.random.default_rng(1)
    wrong = (rng.random(clean.shape) < 0.03) & (np.abs(clean) > 0.4)
    evidence = np.where(wrong, 0, -30).astype(np.float32)  # the encryptions are silent where it is wrong
    found, flips = repair(np.where(wrong, -clean, clean), evidence, MODEL.mean, LOCAL)
    assert flips > 0
    before = (wrong * clean**2).sum()
    after = ((np.sign(found) != np.sign(clean)) * clean**2).sum()
    assert after < 0.3 * before


def test_strong_evidence_forbids_a_flip() -> None:
    clean = planar(5)
    found, flips = repair(clean, np.full_like(clean, -1e6), MODEL.mean, LOCAL)
    assert flips == 0
    assert np.array_equal(found, clean)


def test_only_signs_change() -> None:
    noisy = planar(5) + np.random.default_rng(2).normal(0, 0.3, (5, 3, 16, 16)).astype(np.float32)
    found, _ = repair(noisy, np.zeros_like(noisy), MODEL.mean, LOCAL)
    assert np.array_equal(np.abs(found), np.abs(noisy))
