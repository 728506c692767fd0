"""Signs alone and together; planted speckles are flipped back, clean images stay."""

from __future__ import annotations

import numpy as np
import pytest
from dead_leaves import dead_leaves

from instahide_nb.attacks.mixtures import Mixtures
from instahide_nb.attacks.unmask.signs import TEMPERATURE, flip_gain, lift_masks, repair_signs
from instahide_nb.attacks.unmask.smoothness import TAPS, Smoothness, public_moments, smoothness

MOMENTS = public_moments(dead_leaves(200, (16, 16), 41))
ALONE = TEMPERATURE[:0]


def planar(n: int, seed: int = 42) -> np.ndarray:
    images = dead_leaves(n, (16, 16), seed).astype(np.float32) / 127.5 - 1
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def test_alone_and_without_coupling_a_sign_is_the_algebraic_sigmoid() -> None:
    rng = np.random.default_rng(1)
    size = rng.uniform(0, 1, (4, 3, 9, 9)).astype(np.float32)
    prediction = rng.normal(size=size.shape).astype(np.float32)
    scale = np.array([0.1, 0.5, 1, 2], np.float32)
    taps, variance = np.zeros((1, 3, 3, TAPS, TAPS, 9), np.float32), np.full((1, 3, 9), 0.4, np.float32)
    free = Smoothness(taps, variance, np.zeros(9, np.int64))
    u = size * prediction / (0.4 * scale[:, None, None, None])
    expected = size * u / np.sqrt(1 + u * u)
    for temperature in (ALONE, np.ones(40, np.float32)):
        found = lift_masks(size, prediction, scale, 0.4, free, temperature)
        assert np.allclose(found, expected, atol=1e-5)


def test_together_more_signs_are_right() -> None:
    images = planar(60, 9)
    x = 0.4 * images[:20] + 0.3 * images[20:40] + 0.3 * images[40:]
    prediction = 0.4 * images[:20] + 0.6 * MOMENTS.mean[:, None, None]
    size, scale = np.abs(x), np.full(20, 0.18, np.float32)

    def wrong(temperature: np.ndarray) -> float:
        local = smoothness(MOMENTS, 16, 16, 0.3)
        found = lift_masks(size, prediction, scale, MOMENTS.variance, local, temperature)
        assert (np.abs(found) <= size + 1e-5).all()
        return float((size * (np.sign(found) != np.sign(x))).sum() / size.sum())

    assert wrong(TEMPERATURE) < 0.6 * wrong(ALONE)


@pytest.mark.parametrize("places", [1, 2, 3])
def test_gain_is_the_change_of_log_likelihood(places: int) -> None:
    rng = np.random.default_rng(places)
    image = rng.uniform(-1, 1, (4, 5)).astype(np.float32)
    assignment = np.stack([rng.permutation(4)[:places] for _ in range(6)])
    assignment[3, 0] = -1
    if places > 1:
        assignment[4, 0] = assignment[4, 1]
    coefficient = rng.uniform(0.2, 0.9 / places, (6, places)).astype(np.float32)
    variance = rng.uniform(0.05, 0.2, 6).astype(np.float32)
    mean = rng.uniform(-0.2, 0.2, 5).astype(np.float32)
    size = rng.uniform(0, 1, (6, 5)).astype(np.float32)

    def likelihood(i: int, values: np.ndarray) -> np.ndarray:
        m = coefficient[i] @ values[assignment[i]] + (1 - coefficient[i].sum()) * mean
        return np.sqrt(1 + (size[i] * m / variance[i]) ** 2) - m * m / (2 * variance[i])

    expected = np.zeros((4, 5))
    for i in [0, 1, 2, 5] + ([4] if places == 1 else []):
        for a in assignment[i]:
            flipped = image.copy()
            flipped[a] *= -1
            expected[a] += likelihood(i, flipped) - likelihood(i, image)
    found = flip_gain(size, image, Mixtures(assignment, coefficient, 4), variance, mean)
    assert np.allclose(found, expected, atol=2e-4)


def test_planted_speckles_are_flipped_back() -> None:
    clean, rng = planar(20), np.random.default_rng(1)
    wrong = (rng.random(clean.shape) < 0.03) & (np.abs(clean) > 0.4)
    evidence = np.where(wrong, 0, -30).astype(np.float32)  # the encryptions are silent where it is wrong
    local = smoothness(MOMENTS, 16, 16, 0.1)
    found = repair_signs(np.where(wrong, -clean, clean), evidence, MOMENTS.mean, local)
    left = ((np.sign(found) != np.sign(clean)) * clean**2).sum()
    assert left < 0.3 * (wrong * clean**2).sum()
    assert np.array_equal(np.abs(found), np.abs(clean))
    strong = np.full_like(clean, -1e6)
    assert np.array_equal(repair_signs(clean, strong, MOMENTS.mean, local), clean)
