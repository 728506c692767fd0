"""CIFAR-10 (Krizhevsky 2009), read from its pickles without unpickling them in numpy's or Python's way.

A pickle can run any program when it is loaded. Ours admits only what these files need: dicts, lists, numbers,
text, and arrays that are rebuilt here from their bytes.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.errors import InputError
from instahide_nb.images.archives import fetch, find_place, tar_members

__all__ = ["CIFAR10_URL", "read_cifar10", "unpickle_batch"]

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_CIFAR10_MD5 = "c58f30108f718f92721af3b95e74349a"
_CIFAR10_FOLDER = "cifar-10-batches-py"
_TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
_NAMES = "batches.meta"
_LARGEST_BATCH = 256 * 2**20  # bytes; the real ones have 31 MB


def read_cifar10(
    root: Path | None = None, *, cache_dir: Path | str | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], tuple[str, ...]]:
    """Read CIFAR-10's training images, the 50,000 that a training scheme would protect.

    Parameters
    ----------
    root : Path, optional
        The folder that holds ``cifar-10-batches-py`` or ``cifar-10-python.tar.gz``, or that folder or archive
        itself. Without it the archive (170 MB) is fetched once into the cache and its md5 is checked.
    cache_dir : Path or str, optional
        See `instahide_nb.images.cache.cache_folder`.

    Returns
    -------
    images : ndarray of uint8, shape (n, 32, 32, 3)
        RGB, in the order of the five training batches.
    labels : ndarray of int64, shape (n,)
    class_names : tuple of str

    Raises
    ------
    InputError
        When the data are absent, damaged or not CIFAR-10's, or when there is no connection.
    """
    if root is None:
        place = fetch(CIFAR10_URL, _CIFAR10_MD5, "cifar10", cache_dir)
    else:
        place = find_place(root, _CIFAR10_FOLDER, "cifar-10-python.tar.gz", _NAMES, "cifar10")
    files = _archive_members(place) if place.is_file() else _folder_members(place)
    missing = [name for name in (*_TRAINING, _NAMES) if name not in files]
    if missing:
        raise InputError(f"{place}: lacks {missing[0]}; fetch {CIFAR10_URL} again")
    names = _class_names(unpickle_batch(files[_NAMES], f"{place}/{_NAMES}"), f"{place}/{_NAMES}")
    batches = [
        _batch(unpickle_batch(files[name], f"{place}/{name}"), len(names), f"{place}/{name}")
        for name in _TRAINING
    ]
    images = np.concatenate([images for images, _ in batches])
    return images, np.concatenate([labels for _, labels in batches]), names


class _Array:
    """Stands for numpy's array while a pickle is read; the array is made from its bytes by `value`."""

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def value(self) -> npt.NDArray[np.uint8]:
        """The array, when it is one of uint8."""
        _, shape, dtype, fortran, data = self.state
        if dtype.code not in ("u1", b"u1") or not isinstance(data, bytes):
            raise ValueError("not an array of bytes")
        return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """Stands for numpy's dtype; only its code is kept."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, _: Any) -> None:
        """Byte order and the rest mean nothing for bytes."""


class _Ndarray:
    """Stands for the class numpy.ndarray, which the pickle hands to `_reconstruct`."""


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    # How Python 3 writes bytes in pickles of protocol 2.
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise ValueError("not bytes")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only our own stand-ins; everything else that a pickle may call is refused."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def unpickle_batch(data: bytes, name: str) -> dict[str, Any]:
    """Read one of CIFAR-10's pickles: a dict whose arrays hold bytes.

    Parameters
    ----------
    data : bytes
        The file.
    name : str
        How messages call it.

    Returns
    -------
    dict
        Keys as text; arrays are uint8.

    Raises
    ------
    InputError
        When the bytes are no such pickle, or ask for anything but arrays and plain values.

    Examples
    --------
    >>> unpickle_batch(pickle.dumps({"labels": [3, 1]}, protocol=2), "made here")
    {'labels': [3, 1]}
    >>> unpickle_batch(pickle.dumps(print), "made here")
    Traceback (most recent call last):
    instahide_nb.errors.InputError: made here: is not a CIFAR-10 file (it asks for builtins.print); ...
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError("it holds no dict")
        return {
            key.decode("latin1") if isinstance(key, bytes) else str(key): value.value()
            if isinstance(value, _Array)
            else value
            for key, value in content.items()
        }
    except pickle.UnpicklingError as error:
        reason = str(error)
    except Exception:
        # A damaged pickle raises nearly anything: EOFError, IndexError, KeyError, UnicodeDecodeError, MemoryError.
        reason = "it is damaged"
    raise InputError(f"{name}: is not a CIFAR-10 file ({reason}); fetch {CIFAR10_URL} again") from None


def _class_names(content: dict[str, Any], name: str) -> tuple[str, ...]:
    listed = content.get("label_names")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{name}: has no list label_names; fetch {CIFAR10_URL} again")
    return tuple(entry.decode("latin1") if isinstance(entry, bytes) else str(entry) for entry in listed)


def _batch(
    content: dict[str, Any], classes: int, name: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    data, labels = content.get("data"), content.get("labels")
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3072:
        raise InputError(f"{name}: data must be uint8 (n, 3072); fetch {CIFAR10_URL} again")
    if not (
        isinstance(labels, list)
        and len(labels) == len(data)
        and all(type(label) is int and 0 <= label < classes for label in labels)
    ):
        raise InputError(f"{name}: labels must be {len(data)} class numbers; fetch {CIFAR10_URL} again")
    # A row is the red plane, then green, then blue.
    images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, np.array(labels, dtype=np.int64)


def _folder_members(folder: Path) -> dict[str, bytes]:
    files = {}
    for name in (*_TRAINING, _NAMES):
        path = folder / name
        try:
            if path.stat().st_size > _LARGEST_BATCH:
                raise InputError(f"{path}: is too large for a CIFAR-10 batch; fetch {CIFAR10_URL} again")
            files[name] = path.read_bytes()
        except OSError:
            continue
    return files


def _archive_members(archive: Path) -> dict[str, bytes]:
    """CIFAR-10's files out of its archive, in memory: nothing is extracted."""
    files = {}
    for member, read in tar_members(archive, "cifar10"):
        name = member.parts[-1]
        if name in (*_TRAINING, _NAMES):
            files[name] = read(_LARGEST_BATCH)
    return files
