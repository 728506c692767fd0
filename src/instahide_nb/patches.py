"""Public patches: random square crops with many SIFT key points, reduced by area interpolation.

InstaHide mixes public images into every encryption, and its challenge filtered ImageNet by SIFT so that the mix is
busy (Huang et al. 2020, section 5.1; the count is of the crop before it is reduced).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from instahide_nb.errors import InputError
from instahide_nb.images.cache import cache_folder
from instahide_nb.images.crop_table import CropTable, kept_crops
from instahide_nb.images.crops import SMALLEST, KeyPointCounter, workers
from instahide_nb.images.npz import read_npz
from instahide_nb.images.photographs import reduce_area
from instahide_nb.sources import parse_source, source_photographs

__all__ = ["public_crops", "public_patches", "recount"]

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
        Where the table of crops is kept between runs; see `instahide_nb.images.cache.cache_folder`.

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

    with ThreadPoolExecutor(workers()) as pool:
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
