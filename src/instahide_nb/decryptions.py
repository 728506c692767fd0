"""Reading anyone's decryption: from a ``.npy`` file, or straight from a submission's zip.

Files of strangers are read with suspicion. Nothing is unpickled and nothing is unpacked to a place that the zip names;
a zip's member is refused by its promised size before a byte is decompressed, and cut off if the promise was false.
"""

from __future__ import annotations

import json
import re
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from instahide_nb.errors import InputError
from instahide_nb.storage import load_array, read_json

__all__ = ["TOLERANCE", "load_attack_info", "load_decryption"]

TOLERANCE = 1e-5
"""How far beyond [-1, 1] a value may lie: rounding in float32, and no more. It is then clipped."""

_MEMBER = "decryption.npy"
_MEMBERS = 10_000
_HEADER = 4096  # bytes that a .npy header may add to the numbers
_LARGEST_JSON = 2**20
_CHUNK = 2**20


def load_decryption(path: Path | str, expected_shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Load and check a decryption.

    Parameters
    ----------
    path : Path or str
        A ``.npy`` file, or a zip that holds one member named ``decryption.npy`` (in a folder or not).
    expected_shape : tuple of int
        The shape of the release's encryptions, (n, h, w, 3).

    Returns
    -------
    float32 (n, h, w, 3)
        Values in [-1, 1].

    Raises
    ------
    InputError
        When the file is missing, truncated, pickled, not float32 or float64, of another shape, not finite, or leaves
        [-1, 1] by more than :data:`TOLERANCE`; when a zip is damaged, unsafe, too large or holds no decryption. The one
        line names the file and the mend.
    """
    file = Path(path)
    if not _is_zip(file):
        return _check(load_array(file), str(file), tuple(expected_shape))
    limit = int(np.prod(expected_shape, dtype=object)) * 8 + _HEADER
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / _MEMBER
        name = f"{file} ({_MEMBER} in it)"
        with open(copy, "wb") as out:
            _read_member(file, _MEMBER, limit, out)
        try:
            array = load_array(copy)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), name)) from None
        return _check(array, name, tuple(expected_shape))


def _check(array: npt.NDArray[Any], name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if array.dtype not in (np.float32, np.float64):
        raise InputError(
            f"{name}: holds {array.dtype}; float32 in [-1, 1] is expected (a pixel u is 2u/255 - 1)"
        )
    if array.shape != shape:
        raise InputError(
            f"{name}: has shape {array.shape}; {shape} is expected, one image per encryption, channels last"
        )
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
        raise InputError(f"{name}: image {row} holds NaN or infinity; every value must lie in [-1, 1]")
    low, high = float(array.min()), float(array.max())
    if low < -1 - TOLERANCE or high > 1 + TOLERANCE:
        raise InputError(
            f"{name}: values run from {low:g} to {high:g}; [-1, 1] is expected (a pixel u is 2u/255 - 1)"
        )
    return np.clip(array.astype(np.float32), np.float32(-1), np.float32(1))


def load_attack_info(path: Path | str) -> dict[str, Any]:
    """What an attack says of itself: ``attack.json`` beside a ``decryption.npy``, or in the same zip.

    Returns
    -------
    dict
        Its content; empty when there is none, since a stranger's decryption may come without.

    Raises
    ------
    InputError
        When there is one and it is not a JSON object, or the zip is unsafe.
    """
    file = Path(path)
    if not _is_zip(file):
        beside = file.with_name("attack.json")
        return read_json(beside) if beside.is_file() else {}
    with tempfile.TemporaryFile() as out:
        if not _read_member(file, "attack.json", _LARGEST_JSON, out, must_be_there=False):
            return {}
        out.seek(0)
        try:
            content = json.loads(out.read().decode())
        except (ValueError, RecursionError):
            content = None
    if not isinstance(content, dict):
        raise InputError(f"{file}: attack.json in it is no JSON object; mend it or leave it out")
    return content


def _is_zip(file: Path) -> bool:
    try:
        with open(file, "rb") as stream:
            magic = stream.read(2)
    except OSError:
        return False  # load_array says what is wrong with it
    if magic != b"PK" and file.suffix.lower() == ".zip":
        raise InputError(f"{file}: is not a zip; make it with instahide-nb submit, or name the .npy itself")
    return magic == b"PK"


def _read_member(file: Path, name: str, limit: int, out: IO[bytes], *, must_be_there: bool = True) -> bool:
    """Copy the one member of that name to `out`; False when there is none and none is required."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > _MEMBERS:
                raise InputError(
                    f"{file}: holds {len(members)} files; {_MEMBERS} are the most a submission may"
                )
            for member in members:
                _refuse_unsafe(file, member)
            found = [member for member in members if member.filename.rpartition("/")[2] == name]
            if not found and not must_be_there:
                return False
            if len(found) != 1:
                raise InputError(f"{file}: holds {len(found)} files named {name}; exactly one is expected")
            _copy(file, archive, found[0], limit, out)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: cannot be unpacked ({error}); make or fetch it again") from None
    return True


def _refuse_unsafe(file: Path, member: zipfile.ZipInfo) -> None:
    name = member.orig_filename
    outside = name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name)
    if outside or "\\" in name or "\0" in name:
        raise InputError(f"{file}: its member {name!r} points outside the zip; use plain relative names")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{file}: its member {name!r} is a link; put the file itself there")


def _copy(file: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int, out: IO[bytes]) -> None:
    if member.flag_bits & 1:
        raise InputError(f"{file}: {member.filename} is encrypted; submit it without a password")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{file}: {member.filename} is compressed in an unusual way; store or deflate it")
    too_large = InputError(
        f"{file}: {member.filename} is larger than the {limit} bytes that fit this challenge"
    )
    if member.file_size > limit:
        raise too_large
    copied = 0
    with archive.open(member) as stream:
        while chunk := stream.read(_CHUNK):
            copied += len(chunk)
            if copied > limit:
                raise too_large
            out.write(chunk)
