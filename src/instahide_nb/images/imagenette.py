"""Imagenette (Howard 2019): ten classes of ImageNet photographs, found, fetched or unpacked."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from pathlib import Path

from instahide_nb.errors import InputError
from instahide_nb.images.archives import fetch, find_place, tar_members
from instahide_nb.images.cache import cache_folder
from instahide_nb.progress import progress
from instahide_nb.storage import make_folder

__all__ = ["IMAGENETTE_URL", "imagenette_folder"]

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
        Where an archive is unpacked; see `instahide_nb.images.cache.cache_folder`.

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
