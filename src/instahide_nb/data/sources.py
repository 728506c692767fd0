"""Where images come from: embedded photographs, CIFAR-10, Imagenette, a folder, an `.npz` file.

A source is one string: ``embedded``, ``cifar10[:ROOT]``, ``imagenette[:ROOT]``, the path of a folder of images
or the path of an ``.npz`` file. ROOT is a folder that holds the archive or what was extracted from it; without
one the archive is fetched once and kept in the cache. A folder whose name is one of the words is written
``./cifar10``. Public images may also be ``embedded:attacker``, other regions of the same photographs.

Public patches: random square crops with many SIFT key points, reduced by area interpolation.

InstaHide mixes public images into every encryption, and its challenge filtered ImageNet by SIFT so that the mix is
busy (Huang et al. 2020, section 5.1; the count is of the crop before it is reduced).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError
from instahide_nb.core.threads import thread_count
from instahide_nb.data.crops import SMALLEST, CropTable, KeyPointCounter, kept_crops
from instahide_nb.data.datasets import cache_folder, read_npz
from instahide_nb.data.photographs import reduce_area

if TYPE_CHECKING:
    from instahide_nb.data.photographs import Photograph


SIDE = 32
"""Side in pixels to which photographs are reduced for the private set, as CIFAR-10's images have."""

_GRAMMAR = "embedded, cifar10[:ROOT], imagenette[:ROOT], a folder of images or an .npz file"


@dataclass(frozen=True)
class PrivateSet:
    """Private images and their classes.

    Attributes
    ----------
    images : ndarray of uint8, shape (n, h, w, 3)
        RGB.
    labels : ndarray of int64, shape (n,)
        Indices into `class_names`.
    class_names : tuple of str
        Every class of the source, those without an image here included.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A source, read from its string: its kind, and the folder or file that it names.

    Attributes
    ----------
    text : str
        What the person wrote.
    kind : str
        One of ``embedded``, ``attacker``, ``cifar10``, ``imagenette``, ``folder``, ``npz``.
    path : Path or None
        ROOT, the folder or the file; None for the embedded photographs and for what is fetched.
    """

    text: str
    kind: str
    path: Path | None = None


@dataclass(frozen=True)
class _Pool:
    """All that a source holds: labels at once, images when asked for by index."""

    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    read: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.uint8]]


def parse_source(source: str) -> Source:
    """Read a source's string and check that the folder or file that it names is there.

    Raises
    ------
    InputError
        When the string is of no known form, or names what does not exist.

    Examples
    --------
    >>> parse_source("embedded:attacker").kind
    'attacker'
    >>> parse_source("cifar100")
    Traceback (most recent call last):
    instahide_nb.core.errors.InputError: source 'cifar100': no such folder; a source is embedded, ...
    """
    if not isinstance(source, str) or not source or "\0" in source:
        raise InputError(f"source {source!r}: a source is {_GRAMMAR}")
    word, colon, rest = source.partition(":")
    if word == "embedded":
        if rest not in ("", "attacker") or (colon and not rest):
            raise InputError(f"source {source!r}: write embedded or embedded:attacker")
        return Source(source, rest or word)
    if word in ("cifar10", "imagenette"):
        if not colon:
            return Source(source, word)
        root = Path(rest).expanduser()
        if not rest or not root.exists():
            raise InputError(
                f"source {source!r}: no such folder; write {word}:ROOT with the folder that holds it"
            )
        return Source(source, word, root)
    path = Path(source).expanduser()
    if path.suffix.lower() == ".npz":
        if not path.is_file():
            raise InputError(f"source {source!r}: no such file; check the path")
        return Source(source, "npz", path)
    if not path.is_dir():
        raise InputError(f"source {source!r}: no such folder; a source is {_GRAMMAR}")
    return Source(source, "folder", path)


_WORDS = ("embedded", "cifar10", "imagenette")


def source_kind(source: str) -> str:
    """What may be published of a source: its keyword, ``npz`` or ``folder``, never a path.

    Examples
    --------
    >>> source_kind("cifar10:/data"), source_kind("photos/mine.npz"), source_kind("photos")
    ('cifar10', 'npz', 'folder')
    """
    word = source.partition(":")[0]
    if word in _WORDS:
        return word
    return "npz" if source.lower().endswith(".npz") else "folder"


def private_images(source: str, n_private: int, *, generator: np.random.Generator) -> PrivateSet:
    """Take private images from a source, the same number of each class as far as it goes.

    A source that holds exactly `n_private` images is used whole and in its own order. Otherwise each of its C
    classes gives n_private // C images and the first n_private % C classes one more; what a class is too small
    to give, the others give in the same way. Within a class the images are the first of a random
    permutation. The result is ordered by class, then by draw.

    Parameters
    ----------
    source : str
        See the module's description. Photographs in a folder are cut to the square in their middle and reduced
        to 32 x 32 by area; a plain folder is one class, otherwise each of its folders is a class. Imagenette
        gives its validation half, so that its training half can serve as public images.
    n_private : int
        How many, at least 2.
    generator : numpy.random.Generator
        The draw: PCG64 and Philox give the same permutations on every platform and numpy since 1.17.

    Returns
    -------
    PrivateSet
        `n_private` images of one size: 32 x 32, or what an ``.npz`` file holds.

    Raises
    ------
    InputError
        When the source is unknown, damaged, offline, or holds too few images.

    Examples
    --------
    >>> few = private_images("embedded", 20, generator=np.random.Generator(np.random.PCG64(0)))
    >>> few.images.shape, np.bincount(few.labels).tolist()
    ((20, 32, 32, 3), [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    if not isinstance(n_private, (int, np.integer)) or isinstance(n_private, bool) or n_private < 2:
        raise InputError(f"n_private: {n_private!r} is not possible; two private images or more are needed")
    pool = _pool(parse_source(source))
    if len(pool.labels) < n_private:
        raise InputError(
            f"private_source {source!r}: holds {len(pool.labels)} images; {n_private} were asked for "
            "(n_private): lower it or name a larger source"
        )
    chosen = select_balanced(pool.labels, len(pool.class_names), int(n_private), generator)
    images = np.ascontiguousarray(pool.read(chosen))
    return PrivateSet(images, pool.labels[chosen], pool.class_names)


def select_balanced(
    labels: npt.NDArray[np.int64], classes: int, n: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Choose `n` indices, as many of each class as the classes can give; see `private_images`.

    Examples
    --------
    >>> labels = np.array([0] * 2 + [1] * 9 + [2] * 9)
    >>> chosen = select_balanced(labels, 3, 11, np.random.Generator(np.random.PCG64(0)))
    >>> np.bincount(labels[chosen]).tolist()
    [2, 5, 4]
    """
    if len(labels) == n:
        return np.arange(n, dtype=np.int64)
    held = np.bincount(labels, minlength=classes)
    # The most that every class can be asked for, those that hold fewer giving all they have ...
    level = max(level for level in range(min(n, int(held.max())) + 1) if np.minimum(held, level).sum() <= n)
    quota = np.minimum(held, level)
    # ... and one more of the first classes that still have one.
    quota[np.flatnonzero(held > level)[: n - quota.sum()]] += 1
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[: quota[label]] for label in range(classes)
    ]
    return np.concatenate(chosen).astype(np.int64)


def _pool(source: Source) -> _Pool:
    if source.kind == "embedded":
        from instahide_nb.data.embedded import CLASS_NAMES, private_crops

        images, labels = private_crops()
        return _Pool(labels, CLASS_NAMES, lambda rows: images[rows])
    if source.kind == "attacker":
        raise InputError("private_source 'embedded:attacker': holds public images only; write embedded")
    if source.kind == "cifar10":
        from instahide_nb.data.datasets import read_cifar10

        images, labels, names = read_cifar10(source.path)
        return _Pool(labels, names, lambda rows: images[rows])
    if source.kind == "imagenette":
        from instahide_nb.data.datasets import imagenette_folder

        return _folder_pool(imagenette_folder(source.path) / "val", source.text)
    assert source.path is not None
    if source.kind == "npz":
        from instahide_nb.data.datasets import read_npz

        content = read_npz(source.path, labelled=True)
        stored = content["images"]
        return _Pool(content["labels"], content["class_names"], lambda rows: stored[rows])
    return _folder_pool(source.path, source.text)


def _folder_pool(folder: Path, text: str) -> _Pool:
    from instahide_nb.data.photographs import centre_square, image_files, open_photograph, reduce_area

    files = image_files(folder)
    parts = [file.relative_to(folder).parts for file in files]
    loose = [file for file, part in zip(files, parts, strict=True) if len(part) == 1]
    if loose and len(loose) < len(files):
        raise InputError(
            f"private_source {text!r}: has images beside its class folders ({loose[0].name} and "
            f"{len(loose) - 1} more); move them into a class folder"
        )
    if not files:
        raise InputError(f"private_source {text!r}: holds no image (JPEG, PNG, BMP, WebP, TIFF or PPM)")
    names = [folder.resolve().name] if loose else sorted({part[0] for part in parts})
    place = {name: index for index, name in enumerate(names)}
    labels = np.array([0 if loose else place[part[0]] for part in parts], dtype=np.int64)

    def read(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        images = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
        for image, row in zip(images, rows, strict=True):
            photo = open_photograph(files[row])
            if photo.side < SIDE:
                raise InputError(
                    f"{files[row]}: is {photo.width} x {photo.height} pixels; private images need "
                    f"{SIDE} or more on each side"
                )
            image[:] = reduce_area(centre_square(photo.read()), SIDE)
        return images

    return _Pool(labels, tuple(names), read)


def source_photographs(source: str, *, cache_dir: Path | str | None = None) -> list[Photograph]:
    """The photographs from which a public source's patches are cropped, measured but not decoded.

    Parameters
    ----------
    source : str
        ``embedded``, ``embedded:attacker``, ``imagenette[:ROOT]`` (its training half) or a folder, searched with
        all folders below it.
    cache_dir : Path or str, optional
        Where archives are kept; see `instahide_nb.data.datasets.cache_folder`.

    Raises
    ------
    InputError
        When the source has no photographs, or one cannot be read.
    """
    from instahide_nb.core.progress import progress
    from instahide_nb.data.photographs import image_files, open_photograph

    spec = parse_source(source)
    if spec.kind in ("embedded", "attacker"):
        from instahide_nb.data.embedded import public_regions

        return public_regions("challenge" if spec.kind == "embedded" else "attacker")
    if spec.kind == "cifar10":
        raise InputError(
            f"public_source {source!r}: CIFAR-10 images are 32 px, too small for crops of 64 px with SIFT key "
            "points; name photographs, such as embedded or imagenette"
        )
    if spec.kind == "npz":
        raise InputError(
            f"public_source {source!r}: holds ready patches, so there are no photographs to show"
        )
    if spec.kind == "imagenette":
        from instahide_nb.data.datasets import imagenette_folder

        folder = imagenette_folder(spec.path, cache_dir=cache_dir) / "train"
    else:
        assert spec.path is not None
        folder = spec.path
    files = image_files(folder)
    if not files:
        raise InputError(f"public_source {source!r}: holds no image (JPEG, PNG, BMP, WebP, TIFF or PPM)")
    return [
        open_photograph(file, file.relative_to(folder).as_posix())
        for file in progress(files, desc="measuring photographs", unit="photo")
    ]


_MAX_SIZE = 256


def public_patches(
    source: str,
    n: int,
    *,
    min_keypoints: int = 40,
    size: int | tuple[int, int] = 32,
    draw: int = 0,
    cache_dir: Path | str | None = None,
) -> npt.NDArray[np.uint8]:
    """Make `n` public patches; the same arguments and photographs give the same bits.

    Parameters
    ----------
    source : str
        Photographs (``embedded``, ``embedded:attacker``, ``imagenette[:ROOT]`` or a folder), or an ``.npz`` with
        ready patches, ``images`` uint8 (m, size, size, 3), of which the first `n` are taken as they are.
    n : int
        How many.
    min_keypoints : int
        A crop is kept when SIFT finds more than this in it.
    size : int or (int, int)
        Side of a patch in pixels, or its height and width, 256 at most. Crops are squares of at least 64 px and at
        least this.
    draw : int
        0 .. 2^64-1: other draws are other crops of the same photographs.
    cache_dir : Path or str, optional
        Where the table of crops is kept between runs; see `instahide_nb.data.datasets.cache_folder`.

    Returns
    -------
    ndarray of uint8, shape (n, size, size, 3)

    Raises
    ------
    InputError
        When the source is unknown or damaged, has too few patches, no photograph large enough, or too few
        crops that pass.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     patches = public_patches("embedded", 5, cache_dir=folder)
    >>> patches.shape, patches.dtype
    ((5, 32, 32, 3), dtype('uint8'))
    """
    _check(n, min_keypoints, draw)
    height, width = _height_width(size)
    spec = parse_source(source)
    if spec.kind == "npz":
        assert spec.path is not None
        ready: npt.NDArray[np.uint8] = read_npz(spec.path, labelled=False)["images"]
        if ready.shape[1:3] != (height, width):
            raise InputError(
                f"public_source {source!r}: patches are {ready.shape[1:3]} pixels; {(height, width)} are needed"
            )
        if len(ready) < n:
            raise InputError(
                f"public_source {source!r}: holds {len(ready)} patches; {n} were asked for (n_public): "
                "lower it or name a larger source"
            )
        return np.ascontiguousarray(ready[:n])
    photographs = source_photographs(source, cache_dir=cache_dir)
    table = kept_crops(
        photographs,
        n,
        min_keypoints=min_keypoints,
        smallest=max(SMALLEST, height, width),
        draw=draw,
        folder=cache_folder(cache_dir),
        source=source,
    )
    place = {photo.name: photo for photo in photographs}
    rows = np.flatnonzero(table.kept)
    patches = np.empty((n, height, width, 3), np.uint8)

    def work(index: int) -> None:
        mine = np.flatnonzero(table.photo[rows] == index)
        if not len(mine):
            return
        pixels = place[table.names[index]].read()
        for row in mine.tolist():
            x, y, side = table.box[rows[row]].tolist()
            patches[row] = reduce_area(pixels[y : y + side, x : x + side], (height, width))

    with ThreadPoolExecutor(thread_count()) as pool:
        list(pool.map(work, range(len(table.names))))
    return patches


def public_crops(
    source: str,
    n: int,
    *,
    min_keypoints: int = 40,
    size: int | tuple[int, int] = 32,
    draw: int = 0,
    cache_dir: Path | str | None = None,
) -> CropTable:
    """The crops behind `public_patches`: photograph, box and key points, rejected ones too.

    Parameters and errors are those of `public_patches`; a source of ready patches has no crops and is an error.

    Returns
    -------
    CropTable
        In the order drawn; row i of ``table.box[table.kept]`` is patch i.
    """
    _check(n, min_keypoints, draw)
    photographs = source_photographs(source, cache_dir=cache_dir)
    return kept_crops(
        photographs,
        n,
        min_keypoints=min_keypoints,
        smallest=max(SMALLEST, *_height_width(size)),
        draw=draw,
        folder=cache_folder(cache_dir),
        source=source,
    )


def recount(source: str, table: CropTable, *, cache_dir: Path | str | None = None) -> npt.NDArray[np.int64]:
    """Count a table's key points again on this machine, to compare with ``table.keypoints``.

    Between processors the counts differ by up to three in 1 to 3 % of crops; larger or more differences mean
    that the table is of other photographs.

    Returns
    -------
    ndarray of int64, shape (m,)

    Raises
    ------
    InputError
        When the table names photographs that the source does not hold.
    """
    place = {photo.name: photo for photo in source_photographs(source, cache_dir=cache_dir)}
    absent = [name for name in table.names if name not in place]
    if absent:
        raise InputError(f"source {source!r}: has no photograph {absent[0]}; name the one the table is of")
    counter = KeyPointCounter([place[name] for name in table.names])
    return counter.count(table.photo, table.box)


def _check(n: int, min_keypoints: int, draw: int) -> None:
    for name, value, most in (
        ("n_public", n, 2**32),
        ("min_keypoints", min_keypoints, 2**31),
        ("draw", draw, 2**64),
    ):
        low = 1 if name == "n_public" else 0
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value < most:
            raise InputError(f"{name}: {value!r} is not a whole number of {low} or more")


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, (int, np.integer)) else size
    if not (1 <= height <= _MAX_SIZE and 1 <= width <= _MAX_SIZE):
        raise InputError(f"size: {size!r} is not possible; patches are 1 to {_MAX_SIZE} px a side")
    return int(height), int(width)
