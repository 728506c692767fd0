"""Image files: measured by their header, decoded with care, cut and reduced."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from instahide_nb.core.errors import InputError
from instahide_nb.data.photographs import (
    Photograph,
    centre_square,
    digest,
    image_files,
    open_photograph,
    reduce_area,
)


def pixels(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm"])
def test_lossless_files_are_read_exactly(tmp_path: Path, suffix: str) -> None:
    photo = open_photograph(save(tmp_path / f"a.{suffix}", pixels()))
    assert (photo.width, photo.height, photo.side) == (60, 40, 40)
    assert np.array_equal(photo.read(), pixels())


def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    grey = pixels()[..., 0]
    assert np.array_equal(
        open_photograph(save(tmp_path / "g.png", grey)).read(), grey[..., None].repeat(3, axis=2)
    )
    seen = np.concatenate([pixels(), grey[..., None]], axis=2)
    assert np.array_equal(open_photograph(save(tmp_path / "t.png", seen)).read(), pixels())
    palette = Image.fromarray(pixels()).quantize(8)
    palette.save(tmp_path / "p.png")
    assert np.array_equal(open_photograph(tmp_path / "p.png").read(), np.array(palette.convert("RGB")))


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


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds no pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8001, 8000), (100_000, 100_000)])
def test_a_huge_image_is_refused_by_its_header(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(InputError, match=r"bomb\.png: is .*(64 megapixels)"):
        open_photograph(path)
    with pytest.raises(InputError, match=r"bomb\.png: is .*(64 megapixels)"):
        Photograph("bomb", path, *size).read()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_every_truncation_is_an_error_that_names_the_file(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"whole.{suffix}", pixels()).read_bytes()
    for length in [0, 1, 10, 30, len(whole) // 2, len(whole) - 40]:
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=rf"cut\.{suffix}: is not a readable image, or is cut short"):
            open_photograph(path).read()


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("hello")
    with pytest.raises(InputError, match=r"a\.jpg: is not a readable image"):
        open_photograph(path)
    with pytest.raises(InputError, match=r"none\.jpg: cannot be read"):
        open_photograph(tmp_path / "none.jpg")
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png: has pixels of kind I;16; save it with 8 bits"):
        open_photograph(tmp_path / "deep.png")


def test_a_format_by_content_not_by_name(tmp_path: Path) -> None:
    # A PDF or an EPS program behind an image's name is not handed to its decoder.
    buffer = io.BytesIO()
    Image.fromarray(pixels()).save(buffer, "PDF")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="is not a readable image"):
        open_photograph(tmp_path / "a.png")


def test_image_files_are_sorted_and_hidden_ones_left_out(tmp_path: Path) -> None:
    for name in ["b/1.JPG", "a/2.png", "a/10.png", ".hidden/3.png", "a/.4.png", "notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)]
    assert found == ["a/10.png", "a/2.png", "b/1.JPG"]


def test_digest_changes_with_bytes_names_and_regions(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", pixels())
    photo = Photograph("a", path, 60, 40)
    other = save(tmp_path / "other.png", pixels(seed=1))
    variants = [
        [photo],
        [photo, photo],
        [Photograph("b", path, 60, 40)],
        [Photograph("a", path, 60, 39)],
        [Photograph("a", path, 60, 39, (0, 1))],
        [Photograph("a", other, 60, 40)],
    ]
    assert len({digest(variant) for variant in variants}) == len(variants)
    assert digest([photo]) == digest([Photograph("a", path, 60, 40)])


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_reduction_by_a_whole_factor_is_the_rounded_mean(rows: int, columns: int, seed: int) -> None:
    image = pixels(8 * rows, 8 * columns, seed)
    blocks = image.reshape(8, rows, 8, columns, 3).astype(int).sum(axis=(1, 3))
    mean = blocks / (rows * columns)
    # Halves may go either way; everything else is the nearest level.
    assert np.abs(reduce_area(image, 8) - mean).max() <= 0.5


def test_reduction_never_enlarges() -> None:
    with pytest.raises(ValueError, match="cannot be reduced"):
        reduce_area(pixels(31, 60), 32)


def test_centre_square() -> None:
    assert np.array_equal(centre_square(pixels(40, 61)), pixels(40, 61)[:, 10:50])
    assert np.array_equal(centre_square(pixels(61, 40)), pixels(61, 40)[10:50])
