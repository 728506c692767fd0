"""Grids hold the pixels they claim to hold, and the same ones everywhere."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import save_array, sha256_array
from instahide_nb.evaluate.metrics import match_images, score
from instahide_nb.scheme.encryption import pixel_values
from instahide_nb.show.grids import (
    CHARACTERS,
    STYLES,
    absolute_pixels,
    comparison_grid,
    draw_text,
    enlarge,
    method_grid,
    overview,
    quantile_rows,
    to_pixels,
    write_method_grid,
)


@pytest.fixture(scope="module")
def run():
    """Private images, pairs, encryptions, decryptions from good to bad, and their scores."""
    rng = np.random.default_rng(0)
    private = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    pair = np.stack([np.arange(12) % 6, (np.arange(12) + 1) % 6], axis=1)
    encryption = rng.uniform(-1, 1, (12, 32, 32, 3)).astype(np.float32)
    blend = np.linspace(0.05, 0.95, 12, dtype=np.float32)[:, None, None, None]
    decryption = pixel_values(private)[pair[:, 0]] * (1 - blend) + encryption * blend
    return private, pair, encryption, decryption, score(decryption, private, pair)


def places(canvas, image, factor):
    """Places (x, y) at which the enlarged image stands in the canvas, pixel for pixel."""
    tile = enlarge(image, factor)
    height, width = tile.shape[:2]
    corner = (canvas[: 1 - height or None, : 1 - width or None] == tile[0, 0]).all(axis=2)
    return [
        (int(x), int(y)) for y, x in np.argwhere(corner) if np.array_equal(canvas[y : y + height, x : x + width], tile)
    ]


def test_pixels_are_rounded_to_the_nearest_and_enlarged_without_new_ones():
    u = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_pixels(pixel_values(u)), u)
    np.testing.assert_array_equal(to_pixels(u), u)
    np.testing.assert_array_equal(to_pixels(np.array([-2.0, -1.0, 1.0, 2.0])), [0, 0, 255, 255])
    np.testing.assert_array_equal(absolute_pixels(np.array([-1.0, 0.25, -0.25])), [255, 64, 64])
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(enlarge(image, 3)[1::3, 1::3], image)
    assert set(enlarge(image, 3).ravel()) == set(range(12))


def test_the_comparison_grid_shows_what_was_compared(run):
    private, pair, encryption, decryption, scores = run
    grid = comparison_grid(encryption, decryption, private, pair, scores, rows=4)
    heights = []
    for row in quantile_rows(scores.best_ssim, 4):
        columns = (
            private[pair[row, scores.ssim[row].argmax()]],
            to_pixels(encryption[row]),
            absolute_pixels(encryption[row]),
            to_pixels(decryption[row]),
        )
        found = [places(grid, image, 4) for image in columns]
        assert all(found), "every image is there"
        x = [where[-1][0] for where in found]
        assert x == sorted(x), "private | encryption | absolute value | decryption"
        assert len({y for where in found[1:] for _, y in where}) == 1, "on one line"
        heights.append(found[1][0][1])
    assert heights == sorted(heights), "best above worst"


def test_the_overview_puts_each_recovered_image_beside_its_own(run):
    private = run[0]
    order = np.array([3, 1, 5, 0, 2, 4])
    recovered = (pixel_values(private) * np.float32(0.8))[order]
    canvas = overview(recovered, match_images(recovered, private), columns=4)
    for place, i in enumerate(order):
        ((x, y),) = places(canvas, private[i], 3)
        assert places(canvas, to_pixels(recovered[place]), 3) == [(x + 32 * 3 + 2, y)]


def test_the_method_grid_has_a_column_per_attack(run, tmp_path):
    private = run[0]
    good = pixel_values(private) * np.float32(0.9)
    poor = pixel_values(private)[::-1] * np.float32(0.5)
    canvas = method_grid(private, {"unmask": good, "carlini-v1": poor}, rows=3)
    shown = 0
    for i in range(len(private)):
        images = (private[i], to_pixels(good[i]), to_pixels(poor[5 - i]))
        found = [places(canvas, image, 4) for image in images]
        assert len({len(where) for where in found}) == 1
        if found[0]:
            shown += 1
            assert len({where[0][1] for where in found}) == 1
            assert found[0][0][0] < found[1][0][0] < found[2][0][0]
    assert shown == 3
    with pytest.raises(InputError, match="no attack"):
        method_grid(private, {})

    (tmp_path / "secret").mkdir()
    save_array(tmp_path / "secret" / "private.npy", private)
    for name, images in (("a", good), ("b", poor), ("c", poor[:2])):
        (tmp_path / "attack" / name).mkdir(parents=True)
        save_array(tmp_path / "attack" / name / "recovered.npy", images)
    assert write_method_grid(tmp_path, ["a", "c", "none"]) is None, "one whole attack is no comparison"
    written = write_method_grid(tmp_path, ["a", "b", "c"])
    pixels = cv2.cvtColor(cv2.imread(str(written)), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(pixels, method_grid(private, {"a": good, "b": poor}))


def test_letters_have_the_pixels_they_were_shipped_with():
    """The pixels of every letter: a changed hash means that every hashed grid changes."""
    canvas = np.full((160, 1600, 3), 255, np.uint8)
    for line, style in enumerate(STYLES):
        draw_text(canvas, CHARACTERS, 4, 4 + 38 * line, style=style)
    assert sha256_array(canvas) == "cc9853a7be1144ae4068806222356538b3c3cacaab95979035312d0c32e634eb"


def test_a_grid_has_the_same_pixels_as_ever(run):
    private, pair, encryption, decryption, scores = run
    grid = comparison_grid(encryption, decryption, private, pair, scores)
    assert sha256_array(grid) == "1cc25f58f5b08964b82ce4cf3bfa16345583a5099aac9ff900b635fd154af7fe"
