"""Grids hold the pixels they claim to hold, and the same ones everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import sha256_array
from instahide_nb.evaluate.metrics import score, signed_pixels
from instahide_nb.show.grids import (
    STYLES,
    absolute_pixels,
    comparison_grid,
    contact_sheet,
    draw_text,
    enlarge,
    line_height,
    method_grid,
    overview,
    png_bytes,
    quantile_rows,
    text_width,
    to_pixels,
    write_png,
)


def made():
    rng = np.random.default_rng(0)
    private = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    pair = np.stack([np.arange(12) % 6, (np.arange(12) + 1) % 6], axis=1)
    encryption = rng.uniform(-1, 1, (12, 32, 32, 3)).astype(np.float32)
    blend = np.linspace(0.05, 0.95, 12, dtype=np.float32)[:, None, None, None]
    decryption = signed_pixels(private)[pair[:, 0]] * (1 - blend) + encryption * blend
    return private, pair, encryption, decryption, score(decryption, private, pair)


@pytest.fixture(scope="module")
def run():
    return made()


def _holds(canvas, image, factor):
    """Places (x, y) at which the enlarged image stands in the canvas, pixel for pixel."""
    tile = enlarge(image, factor)
    height, width = tile.shape[:2]
    corner = (canvas[: 1 - height or None, : 1 - width or None] == tile[0, 0]).all(axis=2)
    return [
        (int(x), int(y))
        for y, x in np.argwhere(corner)
        if np.array_equal(canvas[y : y + height, x : x + width], tile)
    ]


def test_pixels_are_rounded_to_the_nearest():
    u = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_pixels(signed_pixels(u)), u)
    np.testing.assert_array_equal(to_pixels(np.array([-2.0, -1.0, 1.0, 2.0])), [0, 0, 255, 255])
    np.testing.assert_array_equal(absolute_pixels(np.array([-1.0, 0.25, -0.25])), [255, 64, 64])
    assert to_pixels(u) is u


def test_enlarging_invents_nothing():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(enlarge(image, 3)[1::3, 1::3], image)
    assert set(enlarge(image, 3).ravel()) == set(range(12))


def test_png_keeps_every_pixel(tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", image)
    read = cv2.cvtColor(cv2.imread(str(tmp_path / "a.png")), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(read, image)
    write_png(tmp_path / "b.png", image)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.png", "b.png"]


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)])
def test_what_is_no_picture_is_refused(bad):
    with pytest.raises(InputError, match="uint8"):
        png_bytes(bad)


def test_quantile_rows_run_from_best_to_worst():
    values = np.random.default_rng(2).normal(size=101)
    chosen = quantile_rows(values, 11)
    np.testing.assert_array_equal(values[chosen], np.sort(values)[::-10])
    np.testing.assert_array_equal(quantile_rows(np.zeros(4), 4), np.arange(4))
    np.testing.assert_array_equal(quantile_rows(np.arange(3.0), 9), [2, 1, 0])
    np.testing.assert_array_equal(quantile_rows(np.arange(3.0), 1), [2])


def test_the_comparison_grid_shows_what_was_compared(run):
    private, pair, encryption, decryption, scores = run
    grid = comparison_grid(encryption, decryption, private, pair, scores, rows=4)
    best = scores.best_ssim
    heights = []
    for row in quantile_rows(best, 4):
        columns = [
            private[pair[row, scores.best_slot[row]]],
            to_pixels(encryption[row]),
            absolute_pixels(encryption[row]),
            to_pixels(decryption[row]),
        ]
        places = [_holds(grid, image, 4) for image in columns]
        assert all(places), "every image is there"
        x = [found[-1][0] for found in places]
        assert x == sorted(x), "private | encryption | absolute value | decryption"
        assert len({y for found in places[1:] for _, y in found}) == 1, "on one line"
        heights.append(places[1][0][1])
    assert heights == sorted(heights), "best above worst"


def test_the_overview_puts_each_recovered_image_beside_its_own(run):
    private = run[0]
    order = np.array([3, 1, 5, 0, 2, 4])
    recovered = (signed_pixels(private) * np.float32(0.8))[order]
    canvas = overview(private, recovered, columns=4)
    for place, i in enumerate(order):
        ((x, y),) = _holds(canvas, private[i], 3)
        ((x2, y2),) = _holds(canvas, to_pixels(recovered[place]), 3)
        assert (x2 - x, y2) == (32 * 3 + 2, y)


def test_the_method_grid_has_a_column_per_attack(run):
    private = run[0]
    good = signed_pixels(private) * np.float32(0.9)
    poor = signed_pixels(private)[::-1] * np.float32(0.5)
    canvas = method_grid(private, {"unmask": good, "carlini-v1": poor}, rows=3)
    shown = 0
    for i in range(len(private)):
        a, b, c = (
            _holds(canvas, image, 4) for image in (private[i], to_pixels(good[i]), to_pixels(poor[5 - i]))
        )
        assert len(a) == len(b) == len(c)
        if a:
            shown += 1
            assert a[0][1] == b[0][1] == c[0][1]
            assert a[0][0] < b[0][0] < c[0][0]
    assert shown == 3
    with pytest.raises(InputError, match="no attack"):
        method_grid(private, {})


def test_images_of_other_sizes_fit(run):
    rng = np.random.default_rng(3)
    private = rng.integers(0, 256, (2, 150, 40, 3), dtype=np.uint8)
    pair = np.array([[0, 1]])
    x = signed_pixels(private[:1])
    grid = comparison_grid(x, x, private, pair, score(x, private, pair))
    assert _holds(grid, private[0], 1)
    assert overview(private[:1], x).shape[2] == 3
    sheet = contact_sheet(private, ["a", "a longer caption than the image is wide"])
    assert all(_holds(sheet, image, 1) for image in private)
    with pytest.raises(InputError, match="captions"):
        contact_sheet(private, ["one"])


def test_letters_have_the_pixels_they_were_shipped_with():
    """The pixels of every letter: a changed hash means that every hashed grid changes."""
    canvas = np.full((160, 1600, 3), 255, np.uint8)
    for line, style in enumerate(STYLES):
        draw_text(canvas, "".join(map(chr, range(32, 127))) + "·×–—…λ±²≤≥", 4, 4 + 38 * line, style=style)
    assert sha256_array(canvas) == "cc9853a7be1144ae4068806222356538b3c3cacaab95979035312d0c32e634eb"


def test_text_is_as_wide_as_it_says_and_is_cut_at_the_edge():
    for style in STYLES:
        width = text_width("SSIM 0.974", style)
        canvas = np.full((60, 400, 3), 255, np.uint8)
        draw_text(canvas, "SSIM 0.974", 200, 10, style=style, align="right")
        dark = np.argwhere(canvas[..., 0] < 255)
        assert 200 - width <= dark[:, 1].min()
        assert dark[:, 1].max() < 200
        assert dark[:, 0].min() >= 10
        assert dark[:, 0].max() < 10 + line_height(style)
    draw_text(canvas, "beyond", 390, 50)
    draw_text(canvas, "beyond", -20, -8)
    assert text_width("☃", "body") == text_width("?", "body")


def test_a_grid_has_the_same_pixels_in_another_process(run):
    private, pair, encryption, decryption, scores = run
    here = sha256_array(comparison_grid(encryption, decryption, private, pair, scores))
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_figures as t\n"
        "from instahide_nb.show.grids import comparison_grid\n"
        "private, pair, x, d, s = t.made()\n"
        "print(t.sha256_array(comparison_grid(x, d, private, pair, s)))\n"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here
