"""Edge energies: blind to the mask, mixtures of those of the images, and clustered into images."""

from __future__ import annotations

import numpy as np
import pytest
from dead_leaves import dead_leaves
from scipy.cluster.hierarchy import linkage
from scipy.optimize import linear_sum_assignment

from instahide_nb.attacks.mixtures import Fit, Mixtures
from instahide_nb.attacks.unmask import edges as module
from instahide_nb.attacks.unmask.edges import (
    Edges,
    clusters,
    cut_to_size,
    edge_energies,
    edge_features,
    edge_filter,
    first_assignment,
    repair_clusters,
    similarity,
    strong_slots,
)
from instahide_nb.attacks.unmask.matching import read_slots, square_lengths
from instahide_nb.attacks.unmask.smoothness import whiten


def mixed_images() -> np.ndarray:
    """Ten mixtures: rows 0 and 1 share an image with a large coefficient."""
    images = dead_leaves(30, (16, 16), 0).astype(np.float32) / 127.5 - 1
    mixed = np.stack([0.6 * images[i] + 0.4 * images[10 + i] for i in range(10)])
    mixed[1] = 0.6 * images[0] + 0.4 * images[25]
    return mixed.astype(np.float32)


def test_a_mask_changes_nothing() -> None:
    image = mixed_images()
    mask = np.where(np.random.default_rng(0).random(image.shape) < 0.5, np.float32(-1), np.float32(1))
    assert np.array_equal(edge_features(image), edge_features(image * mask))


def test_known_differences() -> None:
    image = np.zeros((1, 2, 2, 3), np.float32)
    image[0, 0, 0] = [0.3, -0.4, 0.0]
    assert np.allclose(edge_energies(image).ravel(), [0.5, 0.5, 0.5 / np.sqrt(2), 0.0])
    assert np.isfinite(edge_features(np.zeros((3, 8, 8, 3), np.float32))).all()


def test_a_shared_image_shows_in_the_correlation() -> None:
    table = edge_features(mixed_images()).reshape(10, -1)
    assert np.allclose(table.mean(axis=1), 0, atol=1e-5)
    assert np.allclose(table.std(axis=1), 1, atol=1e-4)
    found = np.corrcoef(table)
    assert found[0, 1] == found[~np.eye(10, dtype=bool)].max()


def planted(noise: float, n: int = 241, seed: int = 0) -> tuple[Edges, np.ndarray, np.ndarray]:
    """Features that are exactly what the model says, with smooth noise; the images' features, and the true pairs."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(6, 4, 9, 9)).astype(np.float32)
    pair = np.stack([rng.integers(0, 3, n), rng.integers(3, 6, n)], axis=1)
    slots = read_slots(rng.uniform(0.1, 0.5, (n, 2)), 6)  # n is no multiple of six: no epochs
    pair = np.take_along_axis(pair, slots.image_class, axis=1)
    smooth = rng.normal(size=(n, 1, 10, 10))
    smooth = np.repeat(smooth[:, :, 1:, 1:] + smooth[:, :, :-1, :-1], 4, axis=1)
    feature = (slots.coefficient[:, :, None, None, None] * image[pair]).sum(axis=1) + noise * smooth
    feature = feature.astype(np.float32)
    local = edge_filter(feature)
    return Edges(slots, feature, local, square_lengths(feature.__getitem__, n, local)), image, pair


def given(image: np.ndarray, n: int) -> Fit:
    """Features that were fitted to nothing."""
    nobody = Mixtures(np.full((n, 2), -1), np.zeros((n, 2), np.float32), len(image))
    return Fit(image, nobody, np.zeros((n, len(image))))


def right(true: np.ndarray, found: np.ndarray) -> float:
    """Share of slots with the right image, under the best renaming of images."""
    table = np.zeros((6, 6), int)
    np.add.at(table, (true[found >= 0], found[found >= 0]), 1)
    return table[linear_sum_assignment(-table)].sum() / table.sum()


def test_an_unknown_partner_is_noise_and_rows_of_one_class_say_nothing() -> None:
    energies, image, pair = planted(0.0)
    half = pair.copy()
    half[::2, 1] = -1
    for a, b in zip(energies.fit(half).image, image, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9
    energies.slots.shared[:20] = True
    fit = energies.fit(pair)
    energies.feature[:20] += 100
    assert np.array_equal(energies.fit(pair).image, fit.image)
    assert not fit.influence[:20].any()


def test_pairs_are_found_under_smooth_noise() -> None:
    energies, image, pair = planted(1.5)
    _, found = energies.explain(given(image, len(pair)), times=1)
    assert (found.assignment == pair).mean() > 0.97
    assert (found.chosen(energies.slots)[:, 0] > 0).mean() > 0.97


def test_gain_is_half_the_drop_of_the_whitened_length() -> None:
    energies, image, _ = planted(0.5, n=40)
    _, found = energies.explain(given(image, 40), times=1)
    gain = found.chosen(energies.slots)[:, 0]
    made = (energies.slots.coefficient[:, :, None, None, None] * image[found.assignment]).sum(axis=1)

    def length(z: np.ndarray) -> np.ndarray:
        return (z * whiten(z.astype(np.float32), energies.local)).reshape(len(z), -1).sum(axis=1)

    drop = 0.5 * (length(energies.feature) - length(energies.feature - made))
    assert np.allclose(gain, drop, rtol=0.05, atol=0.02 * np.abs(drop).max())
    assert np.isclose(energies.total_gain(found), gain.sum(), rtol=1e-5)


def test_similarity_is_a_correlation() -> None:
    energies, _, _ = planted(1.0, n=60)
    twice = np.concatenate([energies.feature, energies.feature])
    found = similarity(twice, energies.local)
    assert np.array_equal(found, found.T)
    assert np.allclose(np.diagonal(found), 1)
    # two encryptions of the same mixture have no negative distance, which scipy would refuse
    assert (found.max(), found.min() >= -1) == (1, True)
    group = module._groups(1.0 - found, 3)
    assert np.array_equal(group[:60], group[60:])


def test_an_outlier_does_not_become_an_image() -> None:
    points = np.concatenate([np.arange(10) * 0.01, 5 + np.arange(10) * 0.01, [100.0]])
    group = cut_to_size(linkage(points[:, None], "average"), 21, 2)
    assert group[20] == -1
    assert (len(set(group[:10])), len(set(group[10:20])), group[0] != group[10]) == (1, 1, True)


def test_strong_slots_are_the_largest_of_their_class() -> None:
    slots = planted(0.5)[0].slots
    row, slot = strong_slots(slots, 1).T
    value = slots.coefficient[row, slot]
    assert (slots.image_class[row, slot] == 1).all()
    assert (np.diff(value) <= 0).all()
    assert value[0] == slots.coefficient[slots.image_class == 1].max()


@pytest.mark.parametrize("noise", [0.1, 0.6])
def test_clusters_are_the_planted_images_and_lead_to_all_slots(noise: float) -> None:
    energies, _, pair = planted(noise, n=301)
    (seed,) = clusters(energies, (20,))
    assert right(pair, seed) > 0.97
    assert right(pair, first_assignment(energies).assignment) > 0.9
    assert module.agreement(energies, pair) > 0.9


def test_an_image_with_two_clusters_and_a_cluster_of_two_images_are_repaired() -> None:
    energies, _, pair = planted(0.3, n=301)
    wrong = pair.copy()
    wrong[pair == 1] = 0  # images 0 and 1 in one cluster
    row, slot = np.nonzero(pair == 2)
    wrong[row[::2], slot[::2]] = 1  # image 2 in two
    broken = energies.explain(energies.fit(wrong))
    _, repaired = repair_clusters(energies, *broken, 2)
    assert energies.total_gain(repaired) > energies.total_gain(broken[1])
    assert right(pair, broken[1].assignment) < 0.9 < right(pair, repaired.assignment)


def test_the_partner_is_subtracted() -> None:
    energies, image, pair = planted(0.0, n=31)
    left = energies.without_partner(given(image, 31), pair, np.array([3, 4]), np.array([0, 1]))
    share = energies.slots.coefficient[[3, 4], [0, 1]][:, None, None, None]
    assert np.allclose(left, share * image[pair[[3, 4], [0, 1]]], atol=1e-5)
