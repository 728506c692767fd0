"""Images of which rows hold windows: candidates, the fit, messages without signs, and where images lie."""

from __future__ import annotations

import numpy as np
import pytest
from dead_leaves import dead_leaves

from instahide_nb.attacks.mixtures import Mixtures, fit
from instahide_nb.attacks.unmask.crops import in_frame
from instahide_nb.attacks.unmask.edges import edge_features
from instahide_nb.attacks.unmask.windows import EDGE_PLANES, Windows, both_ways, on_canvas, view_table
from instahide_nb.core.arrays import Float32
from instahide_nb.scheme.encryption import pixel_values
from instahide_nb.scheme.views import PAD, apply_views

RNG = np.random.default_rng(5)
N, ROWS, PLANES = 8, 400, np.arange(3)
BYTES = dead_leaves(N, (12, 12), 4)
IMAGE = np.ascontiguousarray(pixel_values(BYTES).transpose(0, 3, 1, 2))
FREE = on_canvas(np.zeros_like(IMAGE), np.inf)  # pulls to zero, but the border is known


def mixed(augment: str, rows: int = ROWS) -> tuple[Windows, Mixtures, Float32]:
    """Windows of two images in each row."""
    windows = Windows(view_table(augment), PLANES)
    count = len(windows.views) * N
    held = Mixtures(RNG.integers(0, count, (rows, 2)), RNG.uniform(0.2, 0.6, (rows, 2)).astype(np.float32), count)
    return windows, held, windows.mix(on_canvas(IMAGE), held.assignment, held.coefficient, (12, 12))


@pytest.mark.parametrize("augment", ["flip", "crop", "crop_flip"])
def test_candidates_are_the_views_of_images(augment: str) -> None:
    windows = Windows(view_table(augment), PLANES)
    found = windows.candidates(on_canvas(IMAGE), (12, 12))
    for v, view in enumerate(windows.views):
        shown = pixel_values(apply_views(BYTES, np.tile(view, (N, 1))))
        np.testing.assert_array_equal(found[v * N : (v + 1) * N], shown.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(found[:N], IMAGE)


@pytest.mark.parametrize("augment", ["flip", "crop_flip"])
def test_spread_is_the_transpose_of_mix(augment: str) -> None:
    windows, held, rows = mixed(augment)
    back = windows.spread(rows, held.assignment, held.coefficient, on_canvas(IMAGE))
    np.testing.assert_allclose((back * on_canvas(IMAGE)).sum(dtype=float), (rows * rows).sum(dtype=float), rtol=1e-4)


@pytest.mark.parametrize("augment", ["flip", "crop_flip"])
def test_images_are_recovered_from_their_windows(augment: str) -> None:
    windows, held, rows = mixed(augment)
    for weight in (np.ones(ROWS), np.tile(np.eye(4) + 0.1, (ROWS // 4, 1, 1))):
        found = on_canvas(np.zeros_like(IMAGE))
        for _ in range(5):
            found = windows.fit(rows, held, weight, FREE, found, 0.0)
        np.testing.assert_allclose(found, on_canvas(IMAGE), atol=2e-3)


def test_the_fit_of_mirrored_images_is_that_of_rows_together_with_rows_in_a_mirror() -> None:
    windows, held, rows = mixed("flip")
    rows += RNG.normal(size=rows.shape).astype(np.float32) / 9
    found = on_canvas(np.zeros_like(IMAGE))
    for _ in range(5):
        found = windows.fit(rows, held, np.ones(ROWS), FREE, found, 0.0)
    twice = np.concatenate([rows, rows[..., ::-1]]).reshape(2 * ROWS, -1)
    whole = fit(twice, both_ways(held), np.ones(2 * ROWS), np.zeros(twice.shape[1]), 0.0)[:N]
    np.testing.assert_allclose(found[:, :, PAD:-PAD, PAD:-PAD].reshape(N, -1), whole, atol=2e-3)


def test_the_border_tells_the_signs_of_images() -> None:
    windows, held, rows = mixed("crop", 3000)
    noise, mean = np.full(len(rows), 0.003, np.float32), np.zeros(3, np.float32)
    found = windows.pass_messages(np.abs(rows), held, noise, mean)
    assert np.corrcoef(found.ravel(), on_canvas(IMAGE).ravel())[0, 1] > 0.95


def test_a_mirror_image_has_the_edges_of_the_image_in_a_mirror() -> None:
    images = RNG.uniform(-1, 1, (30, 6, 7, 3)).astype(np.float32)
    images = np.concatenate([images, images[:, :, ::-1]])
    feature = edge_features(images, squares=True, even=True)
    np.testing.assert_allclose(feature[30:], feature[:30, EDGE_PLANES, :, ::-1], atol=1e-4)


def test_images_are_moved_to_where_their_views_are_possible() -> None:
    view = RNG.integers(0, 9, (500, 2, 3)) * (1, 1, 0)
    image = RNG.integers(0, N, (500, 2))
    moved = view + (RNG.integers(0, 5, (N, 3)) * (1, 1, 0))[image]
    np.testing.assert_array_equal(in_frame(moved, image, np.ones((500, 2), np.float32), N, 9), view)
