"""Views: windows of the padded image, drawn evenly and from a generator of their own."""

from __future__ import annotations

import numpy as np
import pytest

from instahide_nb.scheme.views import PAD, all_views, apply_views, draw_views

SIZES = {"none": 1, "flip": 2, "crop": 81, "crop_flip": 162}


@pytest.mark.parametrize("augment", SIZES)
def test_all_views_are_drawn_about_equally_often(augment: str) -> None:
    views, drawn = all_views(augment), draw_views(augment, 5, 400, 81)
    assert (len(views), drawn.shape, drawn.dtype) == (SIZES[augment], (400, 81, 3), np.int8)
    one, count = np.unique(drawn.reshape(-1, 3), axis=0, return_counts=True)
    assert {*map(tuple, one)} == {*map(tuple, views)}
    expected = drawn[..., 0].size / len(views)
    assert np.abs(count - expected).max() < 5 * expected**0.5
    assert (draw_views(augment, 5, 3, 81) == drawn[:3]).all(), "more epochs do not change the first ones"
    assert augment == "none" or (draw_views(augment, 2**255, 400, 81) != drawn).any()


def test_a_view_is_a_window_of_the_padded_image_then_mirrored() -> None:
    image = np.random.default_rng(0).integers(1, 256, (1, 6, 9, 3), np.uint8)
    padded = np.pad(image[0], ((PAD, PAD), (PAD, PAD), (0, 0)))
    views = all_views("crop_flip")
    for made, (dy, dx, flip) in zip(apply_views(image.repeat(162, axis=0), views), views, strict=True):
        window = padded[dy : dy + 6, dx : dx + 9]
        assert (made == (window[:, ::-1] if flip else window)).all()
    assert (apply_views(image, np.array([[PAD, PAD, 0]])) == image).all()
