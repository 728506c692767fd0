"""Files that are whole or absent: atomic writing, careful reading, and sha256.

A file is written under a temporary name in the same folder, flushed to the disk and renamed, so that a killed run never
leaves half a file. Reading never unpickles, trusts no size in a header, and reports any fault in one line.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError

_LARGEST_ARRAY = 8 * 2**30  # bytes; a header that claims more is refused
_LARGEST_HEADER = 16 * 2**10
_LARGEST_JSON = 64 * 2**20


@contextlib.contextmanager
def one_line(
    path: Path | str, verb: str = "read", advice: str = "make or fetch it again", *, damaged: str = ""
) -> Iterator[None]:
    """Turn errors of the system into one line: ``path: cannot be VERB (why); ADVICE``.

    Decoders raise nearly any exception on a damaged file; with `damaged` these become ``path: DAMAGED; ADVICE``.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if damaged and not (isinstance(error, OSError) and error.errno):  # errors of decoders have no number
            raise InputError(f"{path}: {damaged}; {advice}") from None
        if not isinstance(error, (OSError, ValueError, MemoryError)):  # ValueError: a NUL in the name
            raise
        if verb == "read" and isinstance(error, FileNotFoundError):
            raise InputError(f"{Path(path).absolute()}: no such file; check the path") from None
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be {verb} ({why}); {advice}") from None


def make_folder(path: Path | str, *, secret: bool = False) -> Path:
    """Create a writable folder and its parents; only the owner can read a secret one."""
    folder = Path(path)
    with one_line(folder, "made", "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        if secret:
            folder.chmod(0o700)
    return folder


def write_bytes(path: Path | str, data: bytes | memoryview, *, secret: bool = False) -> None:
    """Write `data`; only the owner can read a secret file."""
    path = Path(path)
    with one_line(path, "written", "free space or choose another folder"):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o600 if secret else 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def write_json(path: Path | str, content: object, *, secret: bool = False) -> None:
    """Write JSON with sorted keys, two spaces of indent and a final newline."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), secret=secret)


def save_array(path: Path | str, array: npt.NDArray[Any], *, secret: bool = False) -> None:
    """Save an array as `.npy`, in C order and little-endian: equal values give equal bytes."""
    stream = io.BytesIO()
    np.save(stream, _plain(array), allow_pickle=False)
    write_bytes(path, stream.getbuffer(), secret=secret)


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in C order and little-endian. (ascontiguousarray would turn a scalar into an array of one axis.)"""
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def load_array(
    path: Path | str, *, dtype: npt.DTypeLike | None = None, shape: tuple[int | None, ...] | None = None
) -> npt.NDArray[Any]:
    """Load a `.npy` file of plain numbers or text, in C order and native byte order.

    The array must have this `dtype`, in any byte order, and this `shape`, in which None is any length. Raises
    InputError if the file is missing, empty, truncated, pickled, or of another dtype or shape.
    """
    with one_line(path), open(path, "rb") as stream:
        array = read_npy(path, stream)
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise InputError(f"{path}: holds {array.dtype}; {np.dtype(dtype)} is expected")
    if shape is not None and (
        array.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True))
    ):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise InputError(f"{path}: has shape {array.shape}; ({wanted}) is expected")
    return array


def read_npy(file: Path | str, stream: IO[bytes]) -> npt.NDArray[Any]:
    """Read an array from a stream; see `load_array`. Messages begin with `file`."""
    # From a copy of the file's start: numpy would reserve as much memory as a header claims to need.
    head = io.BytesIO(stream.read(_LARGEST_HEADER))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 2 wrote integers as 2L
            npy = np.lib.format
            readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            shape, fortran, dtype = readers[npy.read_magic(head)](head)
    except Exception:  # numpy parses the header as text; a hostile one can raise nearly anything
        raise InputError(
            f"{file}: is empty or not a .npy file; write it with numpy.save, or fetch it again if it is a web page "
            "or a Git LFS pointer"
        ) from None
    if dtype.hasobject:
        raise InputError(f"{file}: holds pickled Python objects, which are never loaded; save plain numbers")
    if dtype.names or dtype.subdtype or dtype.kind not in "biufU" or not dtype.itemsize:
        raise InputError(f"{file}: holds {dtype}; an array of plain numbers is expected")
    # Each axis is bounded, since one of length 0 makes the product 0.
    shape = tuple(map(int, shape))
    needed = math.prod(shape) * dtype.itemsize
    if len(shape) > 32 or any(not 0 <= n <= _LARGEST_ARRAY for n in shape) or needed > _LARGEST_ARRAY:
        raise InputError(f"{file}: its header gives the impossible shape {shape}; make or fetch it again")
    present = stream.seek(0, os.SEEK_END) - head.tell()
    if present != needed:
        raise InputError(f"{file}: has {present} bytes of data instead of {needed}; make or fetch it again")
    stream.seek(head.tell())
    data = np.empty(math.prod(shape), dtype)
    stream.readinto(data.view(np.uint8))  # type: ignore[attr-defined]
    return np.asarray(data.reshape(shape, order="F" if fortran else "C"), dtype.newbyteorder("="), order="C")


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object of at most 64 MiB."""
    with one_line(path):
        if os.stat(path).st_size > _LARGEST_JSON:
            raise InputError(f"{path}: is larger than 64 MiB; make or fetch it again")
        return parse_json(path, Path(path).read_bytes())


def parse_json(file: Path | str, data: bytes) -> dict[str, Any]:
    """Read a JSON object from bytes. Messages begin with `file`."""
    try:
        content = json.loads(data.decode())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{file}: is not a JSON object; make or fetch it again")
    return content


def sha256_file(path: Path | str) -> str:
    """The sha256 of a file's bytes, in hex."""
    with one_line(path), open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_array(array: npt.NDArray[Any]) -> str:
    """The sha256 of an array's dtype, shape and values in C order."""
    plain = _plain(array)
    digest = hashlib.sha256(f"{plain.dtype.str} {array.shape}\n".encode())
    digest.update(plain.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
