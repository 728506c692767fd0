"""Textures: energies as mixtures, whitened by their own covariance."""

from __future__ import annotations

import numpy as np

from instahide_nb.attacks.unmask import clusters
from instahide_nb.attacks.unmask.assignment import Slots, read_slots
from instahide_nb.attacks.unmask.matched_filter import matched_filter
from instahide_nb.attacks.unmask.pair_scores import Own, best_pairs
from instahide_nb.attacks.unmask.smoothness import whiten
from instahide_nb.attacks.unmask.textures import (
    Textures,
    explain,
    fit_textures,
    scene,
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
    found = fit_textures(feature, slots, pair).pattern
    assert np.allclose(found.reshape(6, -1), pulled, atol=1e-4)
    for a, b in zip(found, texture, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98


def test_an_unknown_partner_is_noise_and_rows_of_one_class_say_nothing() -> None:
    slots, texture, pair, feature = mixtures(0.0)
    half = pair.copy()
    half[::2, 1] = -1
    found = fit_textures(feature, slots, half).pattern
    for a, b in zip(found, texture, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9
    shared = np.zeros(len(pair), bool)
    shared[:20] = True
    spoilt = feature.copy()
    spoilt[:20] += 100
    only = Slots(slots.image_class, slots.coefficient, shared, slots.start, slots.epoch)
    spoilt_fit, fit = fit_textures(spoilt, only, pair), fit_textures(feature, only, pair)
    assert np.array_equal(spoilt_fit.pattern, fit.pattern)
    assert not fit.influence[:20].any()


def given(texture: np.ndarray, n: int) -> Textures:
    """Textures that were fitted to nothing."""
    return Textures(
        texture, np.zeros((n, 2, len(texture))), np.zeros((n, 2), np.int64), np.zeros((n, 2), np.float32)
    )


def test_pairs_are_found_under_smooth_noise_that_hides_them_without_whitening() -> None:
    slots, texture, pair, feature = mixtures(1.5)
    found = explain(scene(slots, feature, texture_filter(feature)), given(texture, len(pair)), times=1)
    flat = feature.reshape(len(feature), -1)
    plain = np.where(
        slots.image_class[:, 0] == 0,
        (flat @ texture[:3].reshape(3, -1).T).argmax(axis=1),
        3 + (flat @ texture[3:].reshape(3, -1).T).argmax(axis=1),
    )
    assert (found.assignment == pair).mean() > 0.97
    assert (found.assignment == pair).mean() > (plain == pair[:, 0]).mean() + 0.05
    assert found.score.shape == (len(pair), 2, 3)
    assert (found.gain > 0).mean() > 0.97


def test_gain_is_half_the_drop_of_the_whitened_length() -> None:
    slots, texture, _, feature = mixtures(0.5, n=40)
    local = texture_filter(feature)
    found = explain(scene(slots, feature, local), given(texture, 40), times=1)
    made = (slots.coefficient[:, :, None, None, None] * texture[found.assignment]).sum(axis=1)

    def length(z: np.ndarray) -> np.ndarray:
        # the filter is symmetric but for the window's end; both orders count half
        return (z * whiten(z.astype(np.float32), local)).reshape(len(z), -1).sum(axis=1)

    drop = 0.5 * (length(feature) - length(feature - made))
    assert np.allclose(found.gain, drop, rtol=0.05, atol=0.02 * np.abs(drop).max())


def test_scores_are_those_by_textures_fitted_without_the_encryption() -> None:
    slots, _, pair, feature = mixtures(0.5, n=41)
    local = texture_filter(feature)
    fit, around = fit_textures(feature, slots, pair), scene(slots, feature, local)
    none, one = np.zeros(4, np.float32), np.ones(41, np.float32)
    product, gram = matched_filter(feature, fit.pattern, none, local, slots)
    own = Own(fit.influence, fit.assignment, fit.coefficient, around.square)
    quick = best_pairs(slots, product, gram, one, own).score
    with_it = best_pairs(slots, product, gram, one).score
    for i in (0, 7, 20):
        design = np.zeros((41, 6))
        np.put_along_axis(design, pair, slots.coefficient, axis=1)
        pull = 0.1 * np.diag(design.T @ design).mean()  # as in the fit with all rows
        design[i] = 0
        flat = feature.reshape(41, -1)
        without = np.linalg.solve(design.T @ design + pull * np.eye(6), design.T @ flat)
        alone = matched_filter(
            feature, without.reshape(fit.pattern.shape).astype(np.float32), none, local, slots
        )
        slow = best_pairs(slots, *alone, one).score
        at = slow[i] > -1e29
        assert np.allclose(quick[i][at], slow[i][at], rtol=0.02, atol=0.02 * np.abs(slow[i][at]).max())
        assert not np.allclose(with_it[i][at], slow[i][at], rtol=0.02, atol=0.02 * np.abs(slow[i][at]).max())


def test_similarity_is_a_correlation() -> None:
    _, _, _, feature = mixtures(1.0, n=60)
    found = similarity(feature, texture_filter(feature))
    assert np.array_equal(found, found.T)
    assert np.allclose(np.diagonal(found), 1)
    assert np.abs(found).max() < 1.0001


def test_encryptions_alike_have_no_negative_distance() -> None:
    """Scipy refuses trees with one; at k = 2 two encryptions may be the same up to their masks."""
    _, _, _, feature = mixtures(1.0, n=60)
    twice = np.concatenate([feature, feature])
    found = similarity(twice, texture_filter(feature))
    assert found.max() == 1
    assert found.min() >= -1
    group = clusters._groups(1.0 - found, 3)
    assert np.array_equal(group[:60], group[60:])


def test_the_partner_is_taken_off() -> None:
    slots, texture, pair, feature = mixtures(0.0, n=30)
    chosen = np.array([[3, 0], [4, 1]])
    left = without_partner(feature, texture, slots, pair, chosen)
    expected = slots.coefficient[[3, 4], [0, 1]][:, None, None, None] * texture[pair[[3, 4], [0, 1]]]
    assert np.allclose(left, expected, atol=1e-5)
