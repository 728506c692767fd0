"""Textures: energies as mixtures, whitened by their own covariance."""

from __future__ import annotations

import numpy as np

from instahide_nb.attack.assignment import Slots, read_slots
from instahide_nb.attack.smoothness import whiten
from instahide_nb.attack.textures import (
    assign_textures,
    fit_textures,
    similarity,
    texture_filter,
    without_partner,
)


def mixtures(noise: float, n: int = 241, seed: int = 0) -> tuple[Slots, np.ndarray, np.ndarray, np.ndarray]:
    """Energies that are exactly what the model says: textures by coefficient, and smooth noise."""
    rng = np.random.default_rng(seed)
    texture = rng.normal(size=(6, 4, 9, 9)).astype(np.float32)
    pair = np.stack([rng.integers(0, 3, n), rng.integers(3, 6, n)], axis=1)
    label = rng.uniform(0.1, 0.5, (n, 2)).astype(np.float32)
    slots = read_slots(label, 6)
    pair = np.take_along_axis(pair, slots.image_class, axis=1)
    smooth = rng.normal(size=(n, 1, 10, 10))
    smooth = np.repeat(smooth[:, :, 1:, 1:] + smooth[:, :, :-1, :-1], 4, axis=1)
    feature = (slots.coefficient[:, :, None, None, None] * texture[pair]).sum(axis=1) + noise * smooth
    return slots, texture, pair, feature.astype(np.float32)


def test_textures_are_what_the_energies_are_mixed_of() -> None:
    slots, texture, pair, feature = mixtures(0.0)
    design = np.zeros((len(pair), 6))
    np.put_along_axis(design, pair, slots.coefficient, axis=1)
    normal = design.T @ design
    pulled = np.linalg.solve(
        normal + 0.1 * np.diag(normal).mean() * np.eye(6), design.T @ feature.reshape(len(feature), -1)
    )
    found = fit_textures(feature, slots, pair)
    assert np.allclose(found.reshape(6, -1), pulled, atol=1e-4)
    for a, b in zip(found, texture, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98


def test_an_unknown_partner_is_noise_and_rows_of_one_class_say_nothing() -> None:
    slots, texture, pair, feature = mixtures(0.0)
    half = pair.copy()
    half[::2, 1] = -1
    found = fit_textures(feature, slots, half)
    for a, b in zip(found, texture, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9
    shared = np.zeros(len(pair), bool)
    shared[:20] = True
    spoilt = feature.copy()
    spoilt[:20] += 100
    only = Slots(slots.image_class, slots.coefficient, shared, slots.start, slots.epoch)
    assert np.array_equal(fit_textures(spoilt, only, pair), fit_textures(feature, only, pair))


def test_pairs_are_found_under_smooth_noise_that_hides_them_without_whitening() -> None:
    slots, texture, pair, feature = mixtures(1.5)
    local = texture_filter(feature)
    assignment, score, gain = assign_textures(feature, texture, local, slots)
    white = (assignment == pair).mean()
    flat = feature.reshape(len(feature), -1)
    plain = np.where(
        slots.image_class[:, 0] == 0,
        (flat @ texture[:3].reshape(3, -1).T).argmax(axis=1),
        3 + (flat @ texture[3:].reshape(3, -1).T).argmax(axis=1),
    )
    assert white > 0.97
    assert white > (plain == pair[:, 0]).mean() + 0.05
    assert score.shape == (len(pair), 2, 6)
    assert (gain > 0).mean() > 0.97


def test_gain_is_half_the_drop_of_the_whitened_length() -> None:
    slots, texture, _, feature = mixtures(0.5, n=40)
    local = texture_filter(feature)
    assignment, _, gain = assign_textures(feature, texture, local, slots)
    made = (slots.coefficient[:, :, None, None, None] * texture[assignment]).sum(axis=1)

    def length(z: np.ndarray) -> np.ndarray:
        # the filter is symmetric but for the window's end; both orders count half
        return (z * whiten(z.astype(np.float32), local)).reshape(len(z), -1).sum(axis=1)

    drop = 0.5 * (length(feature) - length(feature - made))
    assert np.allclose(gain, drop, rtol=0.05, atol=0.02 * np.abs(drop).max())


def test_similarity_is_a_correlation() -> None:
    _, _, _, feature = mixtures(1.0, n=60)
    found = similarity(feature, texture_filter(feature))
    assert np.array_equal(found, found.T)
    assert np.allclose(np.diagonal(found), 1)
    assert np.abs(found).max() < 1.0001


def test_the_partner_is_taken_off() -> None:
    slots, texture, pair, feature = mixtures(0.0, n=30)
    chosen = np.array([[3, 0], [4, 1]])
    left = without_partner(feature, texture, slots, pair, chosen)
    expected = slots.coefficient[[3, 4], [0, 1]][:, None, None, None] * texture[pair[[3, 4], [0, 1]]]
    assert np.allclose(left, expected, atol=1e-5)
