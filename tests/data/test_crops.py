"""Random crops: drawn by number, even in side and place; key points counted the same by any number of threads."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from instahide_nb.core.errors import InputError
from instahide_nb.data import crops
from instahide_nb.data.crops import LARGEST, SMALLEST, KeyPointCounter, draw_crops, key_points
from instahide_nb.data.embedded import public_regions
from instahide_nb.data.photographs import Photograph, open_photograph

sizes = st.tuples(st.integers(64, 400), st.integers(64, 400))


def sized(*pairs: tuple[int, int]) -> list[Photograph]:
    return [Photograph(f"{i}.png", Path(f"{i}.png"), *pair) for i, pair in enumerate(pairs)]


@given(st.lists(sizes, min_size=1, max_size=5), st.integers(0, 2**64 - 1), st.sampled_from([64, 50, 7]))
def test_every_crop_lies_inside_its_photograph(
    pairs: list[tuple[int, int]], draw: int, smallest: int
) -> None:
    photos = sized(*pairs)
    photo, box = draw_crops(photos, 0, 200, draw=draw, smallest=smallest)
    size = np.array(pairs)[photo]
    x, y, side = box.T
    assert (side >= smallest).all()
    assert (side <= np.minimum(size.min(axis=1), LARGEST)).all()
    assert ((x >= 0) & (y >= 0) & (x + side <= size[:, 0]) & (y + side <= size[:, 1])).all()


@given(st.integers(0, 300), st.integers(0, 100), st.integers(0, 2**64 - 1))
def test_a_crop_depends_on_its_number_alone(start: int, length: int, draw: int) -> None:
    photos = sized((200, 150), (90, 300))
    photo, box = draw_crops(photos, start, start + length, draw=draw)
    all_photo, all_box = draw_crops(photos, 0, 400, draw=draw)
    assert np.array_equal(photo, all_photo[start : start + length])
    assert np.array_equal(box, all_box[start : start + length])


def test_the_draw_is_even() -> None:
    photos = sized((200, 200), (200, 200))
    photo, box = draw_crops(photos, 0, 40_000)
    x, y, side = box.T
    assert abs(photo.mean() - 0.5) < 0.01
    counts = np.bincount(side)[SMALLEST:]
    assert len(counts) == LARGEST - SMALLEST + 1
    expected = 40_000 / len(counts)
    # Chi-square of 96 degrees of freedom: beyond 160 with probability below 1e-4; the draw is fixed.
    assert ((counts - expected) ** 2 / expected).sum() < 160
    assert abs((x / (200 - side)).mean() - 0.5) < 0.01
    assert abs((y / (200 - side)).mean() - 0.5) < 0.01
    assert abs(np.corrcoef(x / (200 - side), y / (200 - side))[0, 1]) < 0.02


def test_the_stream_is_fixed() -> None:
    photo, box = draw_crops(sized((200, 150), (90, 300)), 0, 3, draw=5)
    assert np.column_stack([photo, box]).tolist() == [[1, 4, 95, 79], [1, 2, 143, 88], [1, 10, 123, 77]]


def test_other_draws_and_other_photographs_have_other_crops() -> None:
    photos = sized((200, 150))
    _, box = draw_crops(photos, 0, 50)
    assert not np.array_equal(box, draw_crops(photos, 0, 50, draw=1)[1])
    assert not np.array_equal(box, draw_crops([Photograph("z", Path("z"), 200, 150)], 0, 50)[1])


def disc(radius: int) -> np.ndarray:
    image = np.full((96, 96, 3), 40, np.uint8)
    cv2.circle(image, (50, 44), radius, (220, 220, 220), -1, cv2.LINE_AA)
    return image


@pytest.mark.parametrize("radius", [4, 7, 10])
def test_a_disc_has_its_key_point_in_its_middle(radius: int) -> None:
    points = key_points(disc(radius))
    largest = points[points[:, 2].argmax()]
    assert np.abs(largest[:2] - [50, 44]).max() < 1
    # The difference of Gaussians peaks at scale r / sqrt(2); a key point's diameter is twice its scale, in OpenCV.
    assert abs(largest[2] - 2 * radius / np.sqrt(2)) < 0.35 * radius


def test_flat_and_evenly_shaded_crops_have_no_key_point() -> None:
    assert key_points(np.full((80, 80, 3), 127, np.uint8)).shape == (0, 3)
    ramp = np.broadcast_to(np.arange(80, dtype=np.uint8)[:, None] * 2, (80, 80))
    assert len(key_points(np.ascontiguousarray(ramp[..., None].repeat(3, axis=2)))) == 0


def test_counts_are_those_of_the_crop_alone() -> None:
    photos = public_regions("challenge")[4:6]
    photo, box = draw_crops(photos, 0, 40)
    counts = KeyPointCounter(photos).count(photo, box)
    for row in range(0, 40, 7):
        x, y, side = box[row]
        crop = photos[photo[row]].read()[y : y + side, x : x + side].copy()
        assert counts[row] == len(key_points(crop))


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = public_regions("challenge")[:4]
    photo, box = draw_crops(photos, 0, 120)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(crops, "workers", lambda threads=threads: threads)
        results.append(KeyPointCounter(photos).count(photo, box))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_decoding_again_when_memory_is_short_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = public_regions("challenge")[:3]
    photo, box = draw_crops(photos, 0, 40)
    expected = KeyPointCounter(photos).count(photo, box)
    monkeypatch.setattr(crops, "_DECODED_BYTES", 0)
    counter = KeyPointCounter(photos)
    assert np.array_equal(counter.count(photo, box), expected)
    assert not counter._held


def test_opencvs_threads_are_given_back_and_errors_pass(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(tmp_path / "a.png")
    photos = [open_photograph(tmp_path / "a.png")]
    (tmp_path / "a.png").write_bytes(b"gone")
    before, running = cv2.getNumThreads(), threading.active_count()
    photo, box = draw_crops(photos, 0, 100)
    with pytest.raises(InputError, match=r"a\.png"):
        KeyPointCounter(photos).count(photo, box)
    assert cv2.getNumThreads() == before
    assert threading.active_count() == running


def test_progress_adds_up() -> None:
    photos = public_regions("challenge")[:2]
    photo, box = draw_crops(photos, 0, 70)
    steps: list[int] = []
    KeyPointCounter(photos).count(photo, box, steps.append)
    assert sum(steps) == 70
    assert KeyPointCounter(photos).count(photo[:0], box[:0]).shape == (0,)
