"""Archives, submissions and photographs that were damaged on purpose, or made to write where they should not.

Each reader returns what it promises or refuses in one line, and nothing is written but where it may be. The inputs
are counted with those of test_hostile_files.py.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive_makers import cifar_batch, cifar_meta
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_hostile_files import attempt, damaged, mostly, npy

from instahide_nb.data.datasets import imagenette_folder, read_cifar10
from instahide_nb.data.photographs import MAX_MEGAPIXELS, open_photograph
from instahide_nb.evaluate.submission import load_attack_info, load_decryption

RANDOM = np.random.default_rng(5)
PIXELS = RANDOM.integers(0, 256, (12, 16, 3), np.uint8)


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind)
    return stream.getvalue()


PICTURES = [picture("PNG"), picture("JPEG"), picture("BMP"), picture("WEBP")]

parts = st.sampled_from(
    [
        "train",
        "val",
        "n01",
        "a.JPEG",
        "b.JPEG",
        "..",
        ".",
        "",
        "/",
        "/tmp",
        "C:",
        "a\\..\\..\\b",
        "\n",
        "x" * 120,
    ]
)
halves = st.sampled_from(["train", "val"])
classes = mostly(st.just("n01"), parts)
files = mostly(st.sampled_from(["a.JPEG", "b.JPEG", ".hidden"]), parts)
good = st.tuples(st.just("imagenette2-160"), halves, classes, files)
odd_kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"7"]


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """A tar archive with members of any name and kind."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        anything = st.lists(parts, min_size=1, max_size=5).map(tuple)
        names = draw(st.lists(mostly(good, anything), max_size=4))
        for path in [("imagenette2-160", half, "n01", "z.JPEG") for half in ("train", "val")] + names:
            entry = tarfile.TarInfo("/".join(path))
            entry.type = draw(mostly(st.just(tarfile.REGTYPE), st.sampled_from(odd_kinds)))
            entry.linkname = draw(st.sampled_from(["", "/etc/passwd", "../../..", "imagenette2-160/train"]))
            data = PICTURES[1] if entry.isreg() else b""
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


@st.composite
def damaged_archives(draw: st.DrawFn, whole: bytes) -> bytes:
    """A compressed archive, damaged before it was compressed (its checksum is right then), or after, or not."""
    place = draw(st.sampled_from(["inside", "outside", "nowhere", "nowhere"]))
    data = draw(damaged(whole, len(whole))) if place == "inside" else whole
    data = gzip.compress(data, 1, mtime=0)
    return draw(damaged(data, len(data))) if place == "outside" else data


@settings(max_examples=120)
@given(archives().flatmap(damaged_archives))
def test_imagenette_archives(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        cache, archive = top / "a/b/cache", top / "a/b/imagenette2-160.tgz"
        archive.parent.mkdir(parents=True)
        archive.write_bytes(content)
        found = attempt("imagenette_folder", lambda: imagenette_folder(archive, cache_dir=cache))
        written = [path for path in top.rglob("*") if not path.is_dir() or path.is_symlink()]
        inside = cache / "imagenette"
        assert [path for path in written if inside not in path.parents] == [archive]
        assert not any(path.is_symlink() for path in written)
        if found is None:
            assert written == [archive], "what could not be unpacked whole is removed"
        else:
            assert {path.parents[1].parent for path in written if path != archive} == {found}


def cifar_files() -> dict[str, bytes]:
    batch = cifar_batch(RANDOM.integers(0, 256, (2, 32, 32, 3), np.uint8), [1, 0])
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    batches = dict.fromkeys(names, batch) | {"batches.meta": cifar_meta([b"plane", b"car"])}
    return {f"cifar-10-batches-py/{name}": data for name, data in batches.items()}


def cifar_archive() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in cifar_files().items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


@settings(max_examples=120)
@given(damaged_archives(cifar_archive()))
def test_cifar10_archives(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "cifar-10-python.tar.gz"
        archive.write_bytes(content)
        found = attempt("read_cifar10", lambda: read_cifar10(archive))
        assert list(Path(folder).iterdir()) == [archive]
    if found is not None:
        images, labels, names = found
        assert images.dtype == np.uint8
        assert images.shape == (len(labels), 32, 32, 3)
        assert 0 <= labels.min() <= labels.max() < len(names)


SHAPE = (5, 8, 8, 3)


def submission(compression: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("decryption.npy", npy(np.zeros(SHAPE, np.float32)))
        archive.writestr("attack.json", '{"method": "mine", "seconds": {"all": 1.5}}')
        archive.writestr("readme.txt", "how it works")
    return stream.getvalue()


@settings(max_examples=200)
@given(st.sampled_from([0, 8]).flatmap(lambda way: damaged(submission(way), 10_000)))
def test_submissions(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.zip"
        path.write_bytes(content)
        found = attempt("load_decryption", lambda: load_decryption(path, SHAPE))
        attempt("load_attack_info", lambda: load_attack_info(path))
        assert list(Path(folder).iterdir()) == [path]
    if found is not None:
        assert found.shape == SHAPE
        assert found.dtype == np.float32


@settings(max_examples=60)
@given(
    size=st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 128, 1088, 10**9]),
    packed=st.integers(0, 2**32 - 1) | st.just(-1),
    length=st.integers(0, 3_000_000),
)
def test_zips_that_lie_about_their_sizes(size: int, packed: int, length: int) -> None:
    """Zeros that fill far more than the file, and sizes that promise anything."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("decryption.npy", npy(np.zeros(SHAPE, np.float32))[:128] + bytes(length))
    data = bytearray(stream.getvalue())
    local, central = 18, data.rindex(b"PK\1\2") + 20
    for place in (local, central):
        if packed >= 0:
            data[place : place + 4] = struct.pack("<I", packed)
        data[place + 4 : place + 8] = struct.pack("<I", size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bomb.zip"
        path.write_bytes(data)
        attempt("load_decryption", lambda: load_decryption(path, SHAPE))


def read_picture(content: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        path.write_bytes(content)
        return attempt("photograph", lambda: open_photograph(path).read())


@settings(max_examples=200)
@given(st.sampled_from(PICTURES).flatmap(lambda whole: damaged(whole, 200)))
def test_damaged_pictures(content: bytes) -> None:
    found = read_picture(content)
    if found is not None:
        assert found.dtype == np.uint8
        assert found.ndim == 3
        assert found.shape[2] == 3
        assert found.size <= 3 * MAX_MEGAPIXELS * 10**6


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=100)
@given(
    width=st.integers(0, 2**32 - 1) | st.integers(0, 70_000),
    height=st.integers(0, 2**32 - 1) | st.integers(0, 70_000),
    depth=st.sampled_from([1, 2, 4, 8, 16, 0, 255]),
    colours=st.sampled_from([0, 2, 3, 4, 6, 1, 255]),
)
def test_pictures_of_absurd_sizes(width: int, height: int, depth: int, colours: int) -> None:
    """Headers whose checksum is right, and no pixels behind them."""
    data = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    for kind, body in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    assert read_picture(data) is None
