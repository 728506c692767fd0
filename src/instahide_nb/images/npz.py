"""Images in an `.npz` file, read with care: never unpickled, of checked size, dtype and shape."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.errors import InputError

__all__ = ["read_npz"]

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
