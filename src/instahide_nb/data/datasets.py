"""The folder where work that can be done again is kept between runs: crop tables and fetched archives.

Archives of data sets: found on the disk or fetched, and read without trusting what is in them.

Images in an `.npz` file, read with care: never unpickled, of checked size, dtype and shape.

Imagenette (Howard 2019): ten classes of ImageNet photographs, found, fetched or unpacked.

CIFAR-10 (Krizhevsky 2009), read from its pickles without unpickling them in numpy's or Python's way.

A pickle can run any program when it is loaded. Ours admits only what these files need: dicts, lists, numbers,
text, and arrays that are rebuilt here from their bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import make_folder
from instahide_nb.core.progress import progress


def cache_folder(cache_dir: Path | str | None = None) -> Path:
    """The cache folder: `cache_dir`, else ``$INSTAHIDE_NB_CACHE``, else the user's cache.

    The user's cache is ``$XDG_CACHE_HOME/instahide_nb``, by default ``~/.cache/instahide_nb`` (XDG base
    directory specification). The folder is not made here. Everything in it may be deleted at any time.

    Examples
    --------
    >>> str(cache_folder("elsewhere"))
    'elsewhere'
    """
    if cache_dir is not None:
        return Path(cache_dir)
    if own := os.environ.get("INSTAHIDE_NB_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    # The specification says that a relative path is to be ignored.
    if base and os.path.isabs(base):
        return Path(base) / "instahide_nb"
    return Path("~/.cache").expanduser() / "instahide_nb"


def find_place(root: Path, folder: str, archive: str, mark: str, word: str) -> Path:
    """The extracted folder or the archive at `root`, or in it."""
    for place in (root, root / folder):
        if (place / mark).exists():
            return place
    for place in (root, root / archive):
        if place.is_file():
            return place
    raise InputError(f"{word}: {root} holds neither {folder}/{mark} nor {archive}; name the folder that does")


def fetch(url: str, md5: str, word: str, cache_dir: Path | str | None) -> Path:
    import logging

    import pooch

    name = url.rsplit("/", 1)[1]
    folder = make_folder(cache_folder(cache_dir) / "archives")
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # Written under a temporary name and renamed once its md5 is right; an interrupted fetch starts again.
        return Path(pooch.retrieve(url, f"md5:{md5}", fname=name, path=folder, progressbar=_bar(name)))
    except ValueError:
        raise InputError(
            f"{word}: what {url} sent has another md5 than {md5}; try again, or put the file in a folder "
            f"and write {word}:FOLDER"
        ) from None
    except Exception as error:
        # requests, urllib3 and the operating system each have their own errors for "no connection".
        raise InputError(
            f"{word}: {url} cannot be fetched ({type(error).__name__}); when offline, put {name} in a "
            f"folder and write {word}:FOLDER, or use embedded"
        ) from None
    finally:
        logger.setLevel(level)


def _bar(name: str) -> Any:
    bar = progress(total=1, desc=name, unit="B")
    bar.unit_scale = True
    return bar


def tar_members(archive: Path, word: str) -> Iterator[tuple[PurePosixPath, Callable[[int], bytes]]]:
    """The plain files of a tar archive, each with a function that reads it up to a limit in bytes.

    Raises
    ------
    InputError
        When the archive is damaged, or holds links, devices, or paths that lead outside of it.
    """
    with _damage(archive, word), tarfile.open(archive, "r:*") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise InputError(f"{archive}: holds {member.name!r}, which leads outside; fetch {word} again")
            if member.isdir():
                continue
            if not member.isreg():
                raise InputError(f"{archive}: holds {member.name!r}, a link or device; fetch {word} again")

            def read(most: int, member: tarfile.TarInfo = member) -> bytes:
                with _damage(archive, word):
                    stream = tar.extractfile(member)
                    if member.size > most or stream is None:
                        raise InputError(f"{archive}: {member.name!r} is too large; fetch {word} again")
                    data = stream.read()
                    if len(data) != member.size:
                        raise EOFError
                    return data

            yield path, read
        # To the very end, where gzip keeps its checksum: altered bytes would pass otherwise.
        while tar.fileobj is not None and tar.fileobj.read(2**20):
            pass


@contextlib.contextmanager
def _damage(archive: Path, word: str) -> Iterator[None]:
    """Turns whatever a damaged archive raises into one line."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{archive}: no such file; check the path") from None
    except Exception:
        # tarfile, gzip and zlib each have their own errors for a file that is cut short or altered.
        raise InputError(
            f"{archive}: is not a readable archive, or is cut short; fetch {word} again"
        ) from None


_MAX_CLASSES = 10_000
_MAX_SIDE = 256
_LARGEST_NPZ = 8 * 2**30  # bytes once unpacked


def read_npz(path: Path, *, labelled: bool) -> dict[str, Any]:
    """Read ``images`` (and, where `labelled`, ``labels`` and ``class_names``) from an ``.npz``, never unpickling.

    Returns
    -------
    dict
        ``images`` uint8 (n, h, w, 3); if `labelled` also ``labels`` int64 (n,) and ``class_names``, a tuple of str
        (the numbers of the classes where the file names none).

    Raises
    ------
    InputError
        When the file is damaged, pickled, or its arrays are missing or of another dtype or shape.
    """
    try:
        with zipfile.ZipFile(path) as container:
            if sum(member.file_size for member in container.infolist()) > _LARGEST_NPZ:
                raise InputError(f"{path}: unpacks to more than 8 GiB; use a smaller file")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in ("images", "labels", "class_names") if key in stored.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("bytes that are no array")  # what numpy returns for an entry that is none
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise InputError(
                f"{path}: holds pickled Python objects, which are never loaded; save plain arrays"
            ) from None
        raise InputError(f"{path}: is not a readable .npz file; save it again with numpy.savez") from None
    except Exception:
        # zipfile, zlib and numpy's header parser raise nearly anything on a damaged file.
        raise InputError(f"{path}: is not a readable .npz file; save it again with numpy.savez") from None
    images = _npz_images(path, arrays)
    if not labelled:
        return {"images": images}
    labels = arrays.get("labels")
    if labels is None or labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        have = "none" if labels is None else f"{labels.dtype} {labels.shape}"
        raise InputError(f"{path}: labels must be {len(images)} whole numbers, one an image; found {have}")
    if labels.size and (int(labels.min()) < 0 or int(labels.max()) >= _MAX_CLASSES):
        raise InputError(f"{path}: labels must lie between 0 and {_MAX_CLASSES - 1}")
    names = arrays.get("class_names")
    most = int(labels.max())
    if names is None:
        class_names = tuple(str(label) for label in range(most + 1))
    elif names.dtype.kind != "U" or names.ndim != 1 or not most < len(names) <= _MAX_CLASSES:
        raise InputError(f"{path}: class_names must be one text for each class, {most + 1} or more")
    else:
        class_names = tuple(str(name) for name in names)
    return {"images": images, "labels": labels.astype(np.int64), "class_names": class_names}


def _npz_images(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    images = arrays.get("images")
    if images is None:
        raise InputError(f"{path}: has no array named images; save it with numpy.savez(path, images=...)")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise InputError(f"{path}: images must be uint8 (n, h, w, 3); found {images.dtype} {images.shape}")
    if max(images.shape[1:3]) > _MAX_SIDE:
        raise InputError(f"{path}: images are {images.shape[1:3]} pixels; up to {_MAX_SIDE} a side are taken")
    return images


IMAGENETTE_URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz"
_IMAGENETTE_MD5 = "e793b78cc4c9e9a4ccc0c1155377a412"
_IMAGENETTE_FOLDER = "imagenette2-160"
_HALVES = ("train", "val")
_LARGEST_PHOTOGRAPH = 64 * 2**20
_LARGEST_ARCHIVE = 4 * 2**30


def imagenette_folder(root: Path | None = None, *, cache_dir: Path | str | None = None) -> Path:
    """The folder that holds Imagenette's ``train`` and ``val``, each with one folder of JPEG files per class.

    Parameters
    ----------
    root : Path, optional
        The folder that holds ``imagenette2-160`` or ``imagenette2-160.tgz``, or that folder or archive itself.
        Without it the archive (99 MB) is fetched once into the cache and its md5 is checked.
    cache_dir : Path or str, optional
        Where an archive is unpacked; see `instahide_nb.data.datasets.cache_folder`.

    Raises
    ------
    InputError
        When the data are absent or damaged, or when there is no connection.
    """
    if root is None:
        place = fetch(IMAGENETTE_URL, _IMAGENETTE_MD5, "imagenette", cache_dir)
    else:
        place = find_place(root, _IMAGENETTE_FOLDER, "imagenette2-160.tgz", "train", "imagenette")
    if place.is_dir():
        if not all((place / half).is_dir() for half in _HALVES):
            raise InputError(f"{place}: lacks the folder train or val; fetch {IMAGENETTE_URL} again")
        return place
    with open(place, "rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = make_folder(cache_folder(cache_dir) / "imagenette") / content[:32]
    if not folder.is_dir():
        _unpack(place, folder)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    """Write the archive's photographs into `folder`, which is whole or absent."""
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpacking-"))
    total = 0
    try:
        for path, read in progress(tar_members(archive, "imagenette"), desc="unpacking", unit="photo"):
            if len(path.parts) < 3 or path.parts[-3] not in _HALVES or path.name.startswith("."):
                continue
            data = read(_LARGEST_PHOTOGRAPH)
            total += len(data)
            if total > _LARGEST_ARCHIVE:
                raise InputError(f"{archive}: unpacks to more than 4 GiB; fetch imagenette again")
            target = unfinished.joinpath(*path.parts[-3:])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        if not all((unfinished / half).is_dir() for half in _HALVES):
            raise InputError(f"{archive}: holds no train and val folders; fetch {IMAGENETTE_URL} again")
        # Where another process was first, its folder is kept: the content is the same.
        with contextlib.suppress(OSError):
            unfinished.rename(folder)
        if not folder.is_dir():
            raise InputError(f"{folder}: cannot be written; free space or set INSTAHIDE_NB_CACHE")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); free space") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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
        See `instahide_nb.data.datasets.cache_folder`.

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
    instahide_nb.core.errors.InputError: made here: is not a CIFAR-10 file (it asks for builtins.print); ...
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
