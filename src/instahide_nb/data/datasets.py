"""Data sets in files: CIFAR-10, Imagenette and ``.npz``, read without trusting what is in them.

CIFAR-10 (Krizhevsky 2009) comes as pickles, which can run any program when Python loads them. They are read with an
unpickler that accepts only arrays of bytes and plain values. Imagenette (Howard 2019) has photographs of ten classes of
ImageNet. ``pooch`` fetches archives; its `Untar` may write outside the folder before Python 3.12.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from instahide_nb.core.arrays import Int64, UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import make_folder, one_line, sha256_file
from instahide_nb.core.progress import progress


class DataSet(NamedTuple):
    """An archive's address and md5, the folder in it, and a name that the folder must hold."""

    url: str
    md5: str
    folder: str
    mark: str

    @property
    def file(self) -> str:
        """The archive's name."""
        return self.url.rsplit("/", 1)[1]


# fmt: off
DATA_SETS = {
    "cifar10": DataSet(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py", "batches.meta"),
    "imagenette": DataSet(
        "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz", "e793b78cc4c9e9a4ccc0c1155377a412",
        "imagenette2-160", "train"),
}
# fmt: on
_LARGEST = 8 * 2**30  # bytes, unpacked
_LARGEST_BATCH = 256 * 2**20  # bytes; CIFAR-10's have 31 MB
_MAX_CLASSES = 10_000
_AGAIN = "download it again or remove it"
_MAX_SIDE = 256

_Labelled = tuple[UInt8, Int64, tuple[str, ...]]


def cache_folder() -> Path:
    """``$INSTAHIDE_NB_CACHE``, else the user's cache folder; everything in it may be deleted at any time."""
    if own := os.environ.get("INSTAHIDE_NB_CACHE"):
        return Path(own).expanduser()
    import pooch

    return Path(pooch.os_cache("instahide_nb"))


def data_set_folder(name: str, root: Path | None = None) -> Path:
    """The folder with the files of ``cifar10`` or ``imagenette``.

    `root` is the extracted folder or the archive, or a folder that holds one of them; without it the archive is
    fetched once and its md5 is checked. Archives are unpacked into the cache.
    """
    data = DATA_SETS[name]
    for place in (root, root / data.folder) if root else ():
        if (place / data.mark).exists():
            return place
    archives = [root, root / data.file] if root else [fetch(name)]
    archive = next((place for place in archives if place.is_file()), None)
    if archive is None:
        held = f"{data.folder}/{data.mark} nor {data.file}"
        raise InputError(f"{name}: {root} holds neither {held}; give the folder that does")
    folder = make_folder(cache_folder() / name) / sha256_file(archive)[:32]
    if not folder.is_dir():
        _unpack(archive, folder)
    for place in (folder, *sorted(folder.iterdir())):
        if (place / data.mark).exists():
            return place
    raise InputError(f"{archive}: holds no {data.folder}/{data.mark}; fetch {data.url} again")


def fetch(name: str) -> Path:
    """The archive of a data set, fetched into the cache unless it is there with the right md5."""
    import pooch

    data = DATA_SETS[name]
    folder = make_folder(cache_folder() / "archives")
    pooch.get_logger().setLevel(logging.ERROR)
    bar = progress(total=1, desc=data.file, unit="B", scaled=True)
    try:
        # Written under a temporary name and renamed once its md5 is right.
        return Path(pooch.retrieve(data.url, f"md5:{data.md5}", data.file, folder, progressbar=bar))
    except ValueError:
        reason = f"{data.url} sent a file whose md5 is not {data.md5}; try again"
    except Exception as error:
        # requests, urllib3 and the operating system each have their own errors for "no connection".
        reason = f"{data.url} cannot be fetched ({type(error).__name__})"
    raise InputError(f"{name}: {reason}, or put {data.file} in a FOLDER and write {name}:FOLDER")


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files of a tar archive into `folder`, which is whole or absent."""
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as unfinished,
        one_line(archive, advice=_AGAIN, damaged="is not a readable archive, or is truncated"),
        tarfile.open(archive, "r:*") as tar,
    ):
        inside, total = Path(unfinished) / "files", 0
        inside.mkdir()
        for member in progress(tar, desc="unpacking", unit="file"):
            path = PurePosixPath(member.name)
            total += member.size
            if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.isdir()):
                raise InputError(f"{archive}: holds {member.name!r}, a link, a device or a path outside its folder")
            if total > _LARGEST:
                raise InputError(f"{archive}: unpacks to more than 8 GiB")
            if (content := tar.extractfile(member)) is not None:
                (inside / path).parent.mkdir(parents=True, exist_ok=True)
                with open(inside / path, "wb") as stream:
                    shutil.copyfileobj(content, stream)
        # Read to the very end, where gzip keeps its checksum.
        while tar.fileobj is not None and tar.fileobj.read(2**20):
            pass
        if not folder.is_dir():  # another process may have been first
            inside.rename(folder)


class _Standin:
    """Stands in for numpy's arrays and dtypes while a pickle is read; keeps its arguments and its state."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Standin]:
        """The stand-in for numpy's names; an error for anything else that a pickle could call."""
        array = module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct"
        if array or (module == "numpy" and name in ("ndarray", "dtype")):
            return _Standin
        raise pickle.UnpicklingError


def _bytes_array(value: object) -> UInt8:
    """The array of a stand-in, whose state is (version, shape, dtype, Fortran order, bytes)."""
    _, shape, dtype, fortran, data = value.state  # type: ignore[attr-defined]
    if dtype.arguments[0] not in ("u1", b"u1"):
        raise ValueError(f"not bytes: {dtype.arguments[0]}")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def unpickle(file: Path) -> dict[str, object]:
    """Read one of CIFAR-10's pickles: a dict of plain values and arrays of uint8; anything else is an InputError."""
    with one_line(file, advice=_AGAIN, damaged="is not a CIFAR-10 file of arrays and plain values"):
        if file.stat().st_size > _LARGEST_BATCH:
            raise ValueError("too large")
        # From memory: from a file, Python would reserve as many bytes as the pickle claims to need.
        content = _Unpickler(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        found: dict[str, object] = {}
        for key, value in content.items():
            name = key.decode() if isinstance(key, bytes) else str(key)
            found[name] = _bytes_array(value) if isinstance(value, _Standin) else value
        return found


def read_cifar10(folder: Path) -> _Labelled:
    """CIFAR-10's training images (n, 32, 32, 3), labels (n,) and class names, in the order of the five batches."""
    listed = unpickle(folder / "batches.meta").get("label_names")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{folder / 'batches.meta'}: is not a CIFAR-10 file (it has no list label_names)")
    names = tuple(name.decode("latin1") if isinstance(name, bytes) else str(name) for name in listed)
    images, labels = [], []
    for file in (folder / f"data_batch_{number}" for number in range(1, 6)):
        content = unpickle(file)
        data, classes = content.get("data"), content.get("labels")
        if not (
            isinstance(data, np.ndarray)
            and isinstance(classes, list)
            and data.shape == (len(classes), 3072)
            and all(type(label) is int and 0 <= label < len(names) for label in classes)
        ):
            wanted = f"data (n, 3072) and n labels below {len(names)}"
            raise InputError(f"{file}: is not a CIFAR-10 file (it must hold {wanted})")
        images.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # rows hold the planes R, G, B
        labels += classes
    return np.concatenate(images), np.array(labels, np.int64), names


def read_npz(path: Path, *, labelled: bool) -> _Labelled:
    """Read images (n, h, w, 3), and labels (n,) and class names if `labelled`, from an ``.npz`` without unpickling."""
    damaged = "is not a readable .npz file of plain arrays (pickled objects are never loaded)"
    with one_line(path, advice=_AGAIN, damaged=damaged):
        with zipfile.ZipFile(path) as container:
            if sum(member.file_size for member in container.infolist()) > _LARGEST:
                raise InputError(f"{path}: unpacks to more than 8 GiB; use a smaller file")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("images", "labels", "class_names") if name in stored}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("bytes")  # what numpy returns for an entry that is not an array
    images, labels, names = (arrays.get(name) for name in ("images", "labels", "class_names"))
    if images is None:
        raise InputError(f"{path}: has no array named images; save it with numpy.savez(path, images=...)")
    fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3 and images.size > 0
    if not fits or max(images.shape[1:3]) > _MAX_SIDE:
        wanted = f"must be uint8 (n, h, w, 3) with at most {_MAX_SIDE} px per side"
        raise InputError(f"{path}: images {wanted}; found {images.dtype} {images.shape}")
    if not labelled:
        return images, np.zeros(0, np.int64), ()
    fits = labels is not None and labels.shape == (len(images),) and labels.dtype.kind in "iu"
    if labels is None or not fits or not 0 <= int(labels.min()) <= int(labels.max()) < _MAX_CLASSES:
        wanted = f"{len(images)} whole numbers in 0 .. {_MAX_CLASSES - 1}, one per image"
        raise InputError(f"{path}: labels must be {wanted}")
    classes = int(labels.max()) + 1
    if names is None:
        names = np.arange(classes).astype(str)
    if names.dtype.kind != "U" or names.ndim != 1 or not classes <= len(names) <= _MAX_CLASSES:
        raise InputError(f"{path}: class_names must be text, one per class, {classes} or more")
    return images, labels.astype(np.int64), tuple(names.tolist())
