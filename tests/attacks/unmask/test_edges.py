"""Edge energies: blind to the mask, mixtures of those of the images, and clustered into images."""

from __future__ import annotations

import numpy as np
import pytest
from dead_leaves import dead_leaves
from scipy.optimize import linear_sum_assignment

from instahide_nb.attacks.mixtures import Mixtures
from instahide_nb.attacks.unmask.attack import share_right
from instahide_nb.attacks.unmask.codes import product_table, square_lengths
from instahide_nb.attacks.unmask.constraints import Known
from instahide_nb.attacks.unmask.edges import (
    Edges,
    clusters,
    edge_features,
    edge_filter,
    first_codes,
    groups_of,
    margins,
    residual_kernel,
    restart,
    similarity,
    worth,
)
from instahide_nb.attacks.unmask.smoothness import whiten
from instahide_nb.evaluate.metrics import identified


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


def planted(noise: float, n: int = 240, seed: int = 0) -> tuple[Edges, Mixtures]:
    """Features that are exactly what the model says, with smooth noise, and the true codes; six images, no labels."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(6, 4, 9, 9)).astype(np.float32)
    held = np.concatenate([np.stack([rng.permutation(6), rng.permutation(6)], axis=1) for _ in range(n // 6)])
    share = rng.uniform(0.1, 0.6, (n, 2)).astype(np.float32)
    smooth = rng.normal(size=(n, 1, 10, 10))
    smooth = np.repeat(smooth[:, :, 1:, 1:] + smooth[:, :, :-1, :-1], 4, axis=1)
    feature = ((share[:, :, None, None, None] * image[held]).sum(axis=1) + noise * smooth).astype(np.float32)
    local = edge_filter(feature)
    known = Known(2, np.zeros(6, np.int64), np.ones((n, 1), bool), None)
    edges = Edges(known, feature, local, square_lengths(feature.__getitem__, n, local))
    return edges, Mixtures(held, share, 6)


def right(true: Mixtures, found: np.ndarray) -> float:
    """Share of places with the right image, under the best renaming of images."""
    table = np.zeros((6, 6), int)
    for column in found.T:
        row = np.flatnonzero(column >= 0)
        for place in true.assignment[row].T:
            np.add.at(table, (place, column[row]), 1)
    name = np.empty(6, int)
    a, b = linear_sum_assignment(-table)
    name[b] = a
    renamed = np.where(found >= 0, name[found], -1)
    return identified(renamed, true.assignment).sum() / (found >= 0).sum()


def test_products_are_those_of_whitened_rows() -> None:
    edges, _ = planted(1.0, n=60)
    table = product_table(edges.feature, edges.local)
    white = whiten(edges.feature, edges.local).reshape(60, -1)
    exact = edges.feature.reshape(60, -1) @ white.T
    assert np.array_equal(table, table.T)
    assert np.abs(table - 0.5 * (exact + exact.T)).max() < 1e-3 * np.abs(exact).max()
    twice = similarity(np.block([[table, table], [table, table]]))
    assert (twice.max(), twice.min() >= -1) == (1, True)


@pytest.mark.parametrize("noise", [0.1, 0.6])
def test_clusters_lead_to_all_codes_and_show_epochs(noise: float) -> None:
    edges, true = planted(noise)
    begun = clusters(product_table(edges.feature, edges.local), edges.known)
    assert right(true, begun.assignment) > 0.9
    codes, after = first_codes(edges)
    assert right(true, codes.mixtures.assignment) > 0.9
    assert after.known.epochs
    order = np.random.default_rng(0).permutation(len(edges.feature))
    mixed = Edges(edges.known, edges.feature[order], edges.local, edges.square[order])
    assert not first_codes(mixed)[1].known.epochs


def test_an_image_of_no_worth_is_restarted_where_residuals_agree() -> None:
    edges, true = planted(0.3)
    lost = np.where(true.assignment == 5, 0, true.assignment)  # nobody has image 5
    codes, _ = edges.explain(Mixtures(lost, true.coefficient, 6), 1)
    assert worth(codes).argmin() == 5
    table = residual_kernel(product_table(edges.feature, edges.local), codes, edges.products(codes.mixtures))
    group = groups_of(table, 1)[0]
    shared = [(true.assignment[group.rows] == image).any(axis=1).mean() for image in (0, 5)]
    assert max(shared) > 0.8, "image 0 stands for both: the residuals of either resemble each other"
    again, _ = edges.explain(restart(codes.mixtures, 5, group, edges.known), 3)
    assert right(true, again.mixtures.assignment) > 0.9


def test_edges_speak_against_wrong_images_however_sure_their_codes_are() -> None:
    edges, true = planted(0.3)
    rng = np.random.default_rng(1)
    wrong = rng.random(len(true.assignment)) < 0.2
    held = true.assignment.copy()
    held[wrong, 1] = (held[wrong, 1] + rng.integers(1, 6, wrong.sum())) % 6
    found = margins(edges, Mixtures(held, true.coefficient, 6))
    distinct = held[:, 0] != held[:, 1]
    assert (found[~wrong & distinct] > 0).mean() > 0.95
    assert (found[wrong & distinct, 1] < 0).mean() > 0.9
    swapped = Mixtures(held[:, ::-1], true.coefficient[:, ::-1], 6)
    np.testing.assert_allclose(margins(edges, swapped)[distinct, ::-1], found[distinct], rtol=1e-4, atol=1e-3)
    sure = np.full(held.shape, 50, np.float32)
    own = [share_right(edges.known, sure, margin) for margin in (margins(edges, true), found)]
    assert own[0] > 0.95
    shifted = np.where(np.arange(len(held))[:, None] % 3 > 0, (held + 1) % 6, held)  # two of three rows are wrong
    assert share_right(edges.known, sure, margins(edges, Mixtures(shifted, true.coefficient, 6))) < own[1] < own[0]
