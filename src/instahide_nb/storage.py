"""Files that are either whole or absent: atomic writing, careful reading, and their sha256.

Everything that a run leaves behind goes through here. A file is written under a temporary name in the same
folder, flushed to the disk and renamed, so that a run killed at any moment leaves no half of a file. Reading
never unpickles, and what is wrong with a file becomes one line that names it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from instahide_nb.errors import InputError

__all__ = [
    "load_array",
    "make_folder",
    "read_json",
    "save_array",
    "sha256_array",
    "sha256_file",
    "write_bytes",
    "write_json",
]

_LARGEST_ARRAY = 8 * 2**30  # bytes; a header that promises more is not believed
_LARGEST_HEADER = 16 * 2**10
_LARGEST_JSON = 64 * 2**20


def _write(path: Path, fill: Callable[[IO[bytes]], object], mode: int) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path}: cannot be written ({_why(error)}); choose another folder") from None
    try:
        with os.fdopen(handle, "wb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise InputError(
                f"{path}: cannot be written ({_why(error)}); free space or choose another folder"
            ) from None
        raise


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def make_folder(path: Path | str, *, secret: bool = False) -> Path:
    """Create a folder (and its parents); a secret one is readable by its owner only.

    Raises
    ------
    InputError
        When the folder cannot be made or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if secret:
            folder.chmod(0o700)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: cannot be made ({_why(error)}); choose another folder") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be written (permission denied); choose another folder")
    return folder


def write_bytes(path: Path | str, data: bytes, *, secret: bool = False) -> None:
    """Write `data` so that the file is whole or absent; `secret` makes it readable by its owner only."""
    _write(Path(path), lambda stream: stream.write(data), 0o600 if secret else 0o644)


def save_array(path: Path | str, array: npt.NDArray[Any], *, secret: bool = False) -> None:
    """Save an array as `.npy`, whole or absent.

    The bytes depend on dtype, shape and values alone: the array is written in C order and little-endian.
    """
    ordered = np.asarray(array, order="C")  # ascontiguousarray would make a single number one-dimensional
    if ordered.dtype.hasobject:
        raise TypeError(f"{path}: arrays of Python objects are never saved")
    ordered = ordered.astype(ordered.dtype.newbyteorder("<"), copy=False)
    _write(
        Path(path), lambda stream: np.save(stream, ordered, allow_pickle=False), 0o600 if secret else 0o644
    )


def load_array(
    path: Path | str, *, dtype: npt.DTypeLike | None = None, shape: tuple[int | None, ...] | None = None
) -> npt.NDArray[Any]:
    """Load a `.npy` file without unpickling, and check what it holds.

    Parameters
    ----------
    path : Path or str
        The file.
    dtype : dtype, optional
        The dtype that the array must have (byte order aside).
    shape : tuple of int or None, optional
        The shape that it must have; None in a place means any length.

    Raises
    ------
    InputError
        When the file is missing, empty, truncated, pickled, or of another dtype or shape.
    """
    file = Path(path)
    try:
        with open(file, "rb") as stream:
            array = _read_npy(file, stream)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{file}: is a folder; name the .npy file in it") from None
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: cannot be read ({_why(error)})") from None
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise InputError(f"{file}: holds {array.dtype}; {np.dtype(dtype)} is expected")
    if shape is not None and (
        array.ndim != len(shape)
        or any(want is not None and want != have for want, have in zip(shape, array.shape, strict=True))
    ):
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise InputError(f"{file}: has shape {array.shape}; {wanted} is expected")
    return array


def _read_npy(file: Path, stream: IO[bytes]) -> npt.NDArray[Any]:
    size = os.fstat(stream.fileno()).st_size
    if size == 0:
        raise InputError(f"{file}: is empty; make or fetch it again")
    try:
        # From a copy of the file's start: numpy would set aside as much memory as a header says that it is long.
        head = io.BytesIO(stream.read(_LARGEST_HEADER))
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of Python 2's way to write whole numbers, which is read all the same
            version = np.lib.format.read_magic(head)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(head)
            else:
                raise ValueError(f"format version {version}")
    except Exception:
        # The header is text that numpy parses; a hostile one can raise nearly anything.
        raise InputError(f"{file}: is not a .npy file; write it with numpy.save") from None
    if dtype.hasobject:
        raise InputError(f"{file}: holds pickled Python objects, which are never loaded; save plain numbers")
    if (
        dtype.names is not None
        or dtype.subdtype is not None
        or dtype.kind not in "biufU"
        or not dtype.itemsize
    ):
        raise InputError(f"{file}: holds {dtype}; an array of plain numbers is expected")
    count = 1
    for length in shape:
        count *= int(length)
    needed = count * dtype.itemsize
    # An axis of length 0 makes any other length weigh nothing, so lengths are bounded one by one too.
    if (
        len(shape) > 32
        or any(not 0 <= int(length) <= _LARGEST_ARRAY for length in shape)
        or needed > _LARGEST_ARRAY
    ):
        raise InputError(f"{file}: its header promises shape {shape}; make or fetch it again")
    present = size - head.tell()
    if present != needed:
        raise InputError(
            f"{file}: is truncated or has bytes too many ({present} of {needed} bytes of data); "
            "make or fetch it again"
        )
    stream.seek(head.tell())
    buffer = bytearray(needed)
    if stream.readinto(buffer) != needed:  # type: ignore[attr-defined]
        raise InputError(f"{file}: could not be read to its end; make or fetch it again")
    data = np.frombuffer(buffer, dtype)
    lengths = tuple(int(length) for length in shape)
    array = data.reshape(lengths[::-1]).T if fortran else data.reshape(lengths)
    return np.asarray(array.astype(dtype.newbyteorder("="), copy=False), order="C")


def write_json(path: Path | str, content: object, *, secret: bool = False) -> None:
    """Write JSON with sorted keys, two spaces of indent and a newline at the end; whole or absent."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), secret=secret)


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        When the file is missing, too large, not JSON, or not an object.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST_JSON:
            raise InputError(f"{file}: is larger than 64 MiB; such a file is not ours")
        content = json.loads(file.read_bytes().decode())
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({_why(error)})") from None
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError(f"{file}: is not JSON; make or fetch it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds no JSON object; make or fetch it again")
    return content


def sha256_file(path: Path | str) -> str:
    """The sha256 of a file's bytes, in hex."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_why(error)})") from None


def sha256_array(array: npt.NDArray[Any]) -> str:
    """The sha256 of an array: of its dtype, its shape and its values in C order.

    Examples
    --------
    >>> import numpy as np
    >>> sha256_array(np.zeros(3, np.uint8))[:16]
    '13c97f3e613d907c'
    >>> sha256_array(np.zeros((3, 1), np.uint8))[:16] == sha256_array(np.zeros(3, np.uint8))[:16]
    False
    """
    ordered = np.asarray(array, order="C")
    ordered = ordered.astype(ordered.dtype.newbyteorder("<"), copy=False)
    digest = hashlib.sha256(f"{ordered.dtype.str} {array.shape}\n".encode())
    digest.update(ordered.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
