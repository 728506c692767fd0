"""Clusters of strong encryptions: planted groups are found, outliers left out."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.optimize import linear_sum_assignment

from instahide_nb.attacks.unmask.assignment import read_slots
from instahide_nb.attacks.unmask.clusters import (
    cut_to_size,
    first_assignment,
    mend,
    seed_clusters,
    strong_slots,
)
from instahide_nb.attacks.unmask.textures import explain, fit_textures, scene, texture_filter


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, true images and features: coefficient times the image's own direction, plus noise."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(6, 200))
    n = 301  # not a multiple of six: no epochs
    pair = np.stack([rng.integers(0, 3, n), rng.integers(3, 6, n)], axis=1)
    lam = rng.uniform(0.1, 0.5, (n, 2))
    feature = (
        lam[:, :1] * direction[pair[:, 0]]
        + lam[:, 1:] * direction[pair[:, 1]]
        + 0.1 * rng.normal(size=(n, 200))
    )
    feature -= feature.mean(axis=1, keepdims=True)
    feature /= feature.std(axis=1, keepdims=True)
    return lam.astype(np.float32), pair, feature.astype(np.float32).reshape(n, 4, 5, 10)


def test_planted_images_are_found() -> None:
    label, pair, feature = planted()
    slots = read_slots(label, 6)
    (seed,) = seed_clusters(scene(slots, feature, texture_filter(feature)), (20,))
    row, slot = np.nonzero(seed >= 0)
    true = pair[row, slots.image_class[row, slot]]
    found = seed[row, slot]
    table = np.zeros((6, 6), int)
    np.add.at(table, (true, found), 1)
    assert table.max(axis=1).sum() / table.sum() > 0.97
    assert sorted(table.argmax(axis=1)) == list(range(6))


def test_strong_slots_are_the_largest_of_their_class() -> None:
    label, _, _ = planted()
    slots = read_slots(label, 6)
    strong = strong_slots(slots, 1)
    value = slots.coefficient[strong[:, 0], strong[:, 1]]
    assert (slots.image_class[strong[:, 0], strong[:, 1]] == 1).all()
    assert (np.diff(value) <= 0).all()
    assert np.isclose(value[0], label[:, 1].max())


def test_an_outlier_does_not_become_an_image() -> None:
    points = np.concatenate([np.arange(10) * 0.01, 5 + np.arange(10) * 0.01, [100.0]])
    group = cut_to_size(linkage(points[:, None], "average"), 21, 2)
    assert group[20] == -1
    assert len(set(group[:10])) == 1
    assert len(set(group[10:20])) == 1
    assert group[0] != group[10]


def test_every_slot_is_assigned_to_its_planted_image() -> None:
    label, pair, feature = planted()
    slots = read_slots(label, 6)
    found = first_assignment(scene(slots, feature, texture_filter(feature)))
    true = np.take_along_axis(pair, slots.image_class, axis=1)
    table = np.zeros((6, 6), int)
    np.add.at(table, (true.ravel(), found.assignment.ravel()), 1)
    assert table.max(axis=1).sum() / table.sum() > 0.9
    assert found.score.shape == (len(label), 2, 3)


def test_an_image_with_two_clusters_and_a_cluster_of_two_images_are_mended() -> None:
    label, pair, feature = planted()
    slots = read_slots(label, 6)
    energies = scene(slots, feature, texture_filter(feature))
    true = np.take_along_axis(pair, slots.image_class, axis=1)
    wrong = true.copy()
    wrong[true == 1] = 0  # images 0 and 1 in one cluster
    row, slot = np.nonzero(true == 2)
    wrong[row[::2], slot[::2]] = 1  # image 2 in two
    broken = explain(energies, fit_textures(feature, slots, wrong))
    mended = mend(energies, broken, 2)
    assert mended.gain.sum() > broken.gain.sum()

    def right(assignment: np.ndarray) -> float:
        table = np.zeros((6, 6), int)
        np.add.at(table, (true.ravel(), assignment.ravel()), 1)
        return table[linear_sum_assignment(-table)].sum() / table.sum()

    assert right(broken.assignment) < 0.9 < right(mended.assignment)
