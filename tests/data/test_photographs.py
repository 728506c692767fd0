"""Image files: measured by their header, decoded with care, cut; and the exact area reduction."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_hostile_files import attempt, damaged

from instahide_nb.core.errors import InputError
from instahide_nb.data.photographs import MAX_MEGAPIXELS, Photograph, open_photograph, reduce_area


def pixels(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray, **options: object) -> Path:
    Image.fromarray(image).save(path, **options)
    return path


def test_lossless_files_are_read_exactly_and_as_rgb(tmp_path: Path) -> None:
    grey, palette = pixels()[..., 0], Image.fromarray(pixels()).quantize(8)
    palette.save(tmp_path / "p.png")
    save(tmp_path / "g.png", grey)
    save(tmp_path / "t.png", np.concatenate([pixels(), grey[..., None]], axis=2))
    expected = {"p.png": np.array(palette.convert("RGB")), "g.png": grey[..., None].repeat(3, axis=2)}
    for suffix in ("png", "bmp", "tiff", "ppm"):
        save(tmp_path / f"a.{suffix}", pixels())
    for path in tmp_path.iterdir():
        photo = open_photograph(path)
        assert (photo.width, photo.height, photo.side) == (60, 40, 40)
        assert np.array_equal(photo.read(), expected.get(path.name, pixels())), path.name


def test_the_cameras_orientation_is_obeyed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show upright
    photo = open_photograph(save(tmp_path / "turned.png", pixels(), exif=exif))
    assert (photo.width, photo.height) == (40, 60)
    assert np.array_equal(photo.read(), np.rot90(pixels(), -1))


def test_a_region_is_a_cut_of_the_whole(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", pixels())
    assert np.array_equal(Photograph("r", path, 20, 10, (7, 5)).read(), pixels()[5:15, 7:27])
    with pytest.raises(InputError, match="changed while it was being read"):
        Photograph("r", path, 61, 40).read()


def png(width: int, height: int, depth: int = 8, colours: int = 2) -> bytes:
    """A PNG whose header is whole, with no pixel behind it."""
    data = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    for kind, body in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    whole = {suffix: save(tmp_path / f"whole.{suffix}", pixels()).read_bytes() for suffix in ("png", "jpg")}
    stream = io.BytesIO()
    Image.fromarray(pixels()).save(stream, "PDF")  # its program would be run if the name decided
    path = tmp_path / "a.png"
    cut = [data[:n] for data in whole.values() for n in (0, 1, 10, 30, len(data) // 2, len(data) - 40)]
    for content in (*cut, b"hello", stream.getvalue()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.png: is not a readable image.*, or is truncated"):
            open_photograph(path).read()
    for size in ((8001, 8000), (100_000, 100_000)):
        path.write_bytes(png(*size))
        for read in (lambda: open_photograph(path), Photograph("bomb", path, *size).read):
            with pytest.raises(InputError, match=r"a\.png: is .*64 megapixels"):
                read()
    with pytest.raises(InputError, match=r"none\.jpg: no such file"):
        open_photograph(tmp_path / "none.jpg")
    save(tmp_path / "deep.png", np.zeros((40, 40), np.uint16))
    with pytest.raises(InputError, match=r"deep\.png: has pixels of mode I;16; save it with 8 bits"):
        open_photograph(tmp_path / "deep.png")


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(12, 16)).save(stream, kind)
    return stream.getvalue()


def read_picture(content: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        path.write_bytes(content)
        return attempt(lambda: open_photograph(path).read())


@settings(max_examples=80)
@given(st.sampled_from([encoded(k) for k in ("PNG", "JPEG", "BMP", "WEBP")]).flatmap(lambda whole: damaged(whole, 200)))
def test_damaged_pictures(content: bytes) -> None:
    found = read_picture(content)
    assert found is None or (found.dtype == np.uint8 and found.shape[2:] == (3,))
    assert found is None or found.size <= 3 * MAX_MEGAPIXELS * 10**6


@settings(max_examples=40)
@given(st.tuples(*[st.integers(3, 12)] * 2), st.tuples(*[st.integers(1, 3)] * 2), st.integers(0, 2**32 - 1))
def test_each_new_pixel_is_the_rounded_mean_of_its_area(old: tuple[int, int], new: tuple[int, int], seed: int) -> None:
    image = pixels(*old, seed)

    def covered(length: int, count: int, place: int) -> list[tuple[int, Fraction]]:
        """Source pixels, and how much of each the new pixel `place` covers."""
        low, high = Fraction(place * length, count), Fraction((place + 1) * length, count)
        return [(p, min(high, Fraction(p + 1)) - max(low, Fraction(p))) for p in range(int(low), -int(-high // 1))]

    reduced = reduce_area(image, new)
    for i, j, c in np.ndindex(*reduced.shape):
        cells = [(y, a, x, b) for y, a in covered(old[0], new[0], i) for x, b in covered(old[1], new[1], j)]
        mean = sum(a * b * int(image[y, x, c]) for y, a, x, b in cells) / sum(a * b for _, a, _, b in cells)
        halved = old == (2 * new[0], 2 * new[1])
        assert reduced[i, j, c] == (int(mean + Fraction(1, 2)) if halved else round(mean))
