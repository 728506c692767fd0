"""Makes small archives and files in the formats of the real data sets."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def text2(value: bytes) -> bytes:
    """A Python 2 str, as its cPickle writes it with protocol 2."""
    if len(value) < 256:
        return b"U" + bytes([len(value)]) + value
    return b"T" + struct.pack("<i", len(value)) + value


def number2(value: int) -> bytes:
    """An int, as protocol 2 writes it."""
    return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)


def array2(array: np.ndarray) -> bytes:
    """A numpy array of bytes, as numpy 1 under Python 2 pickled it: CIFAR-10's files are made so."""
    shape = b"".join(map(number2, array.shape)) + b"\x86"
    dtype = (
        b"cnumpy\ndtype\n" + text2(b"u1") + b"K\x00K\x01\x87R(K\x03" + text2(b"|")
        + b"NNN" + number2(-1) + number2(-1) + b"K\x00tb"
    )  # fmt: skip
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text2(b"b") + b"\x87R"
        + b"(K\x01" + shape + dtype + b"\x89" + text2(array.tobytes()) + b"tb"
    )  # fmt: skip


def list2(items: Iterable[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def pickle2(entries: dict[bytes, bytes]) -> bytes:
    """A dict pickled by Python 2, from keys and pickled values."""
    return b"\x80\x02}(" + b"".join(text2(key) + value for key, value in entries.items()) + b"u."


def cifar_batch(images: np.ndarray, labels: Iterable[int]) -> bytes:
    """One of CIFAR-10's batches from images (n, 32, 32, 3)."""
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)
    return pickle2(
        {
            b"batch_label": text2(b"training batch 1 of 5"),
            b"labels": list2(map(number2, labels)),
            b"data": array2(rows),
            b"filenames": list2(text2(b"a_s_%06d.png" % i) for i in range(len(images))),
        }
    )


def cifar_meta(names: Iterable[bytes]) -> bytes:
    return pickle2(
        {
            b"num_cases_per_batch": number2(10000),
            b"label_names": list2(map(text2, names)),
            b"num_vis": number2(3072),
        }
    )


def tar(path: Path, files: dict[str, bytes], extra: Iterable[tarfile.TarInfo] = ()) -> Path:
    """A gzipped tar archive of files, and of entries without content."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for entry in extra:
            archive.addfile(entry)
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry
