"""The table of crops: which passed the SIFT filter, kept between runs.

SIFT's count may differ by up to three between processors (SIMD levels) in 1 to 3 % of crops, so counting again is not
the reference: the table is. It is kept in the cache under the sha256 of the photographs and of the draw. It
holds the counts of rejected crops too, so that one table serves any number of patches and any cut, and grows as
more are asked for. The first crops of the embedded photographs have their counts in the package.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.errors import InputError
from instahide_nb.images.crops import LARGEST, SMALLEST, STREAM, KeyPointCounter, draw_crops
from instahide_nb.images.embedded_counts import carried_counts
from instahide_nb.images.photographs import Photograph, digest
from instahide_nb.progress import progress
from instahide_nb.storage import make_folder, write_bytes

__all__ = ["CropTable", "kept_crops", "table_key"]

_BLOCK = 128  # crops counted between two looks at the outcome; a table's length is a multiple of it
_LOOK = 1024  # after so many crops, too few that pass are an error
_RATE = 0.02  # ... when fewer than this share passed
_CHUNK = 4096  # crops counted between two writes of the table


@dataclass(frozen=True)
class CropTable:
    """Crops in the order in which they were drawn, those that were rejected included.

    Attributes
    ----------
    names : tuple of str
        The photographs.
    photo : ndarray of int64, shape (m,)
        For each crop, the index of its photograph in `names`.
    box : ndarray of int64, shape (m, 3)
        x and y of its upper left corner, and its side, in pixels of the photograph.
    keypoints : ndarray of int64, shape (m,)
        SIFT key points in the crop at its own size.
    min_keypoints : int
        A crop is kept when it has more than this.
    """

    names: tuple[str, ...]
    photo: npt.NDArray[np.int64]
    box: npt.NDArray[np.int64]
    keypoints: npt.NDArray[np.int64]
    min_keypoints: int

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """True for each crop that became a patch, shape (m,)."""
        return self.keypoints > self.min_keypoints

    def to_csv(self) -> str:
        """The table as text: photo,x,y,side,keypoints,kept; one crop a line."""
        rows = _rows(self.names, self.photo, self.box, self.keypoints)
        return _csv(
            ("photo", "x", "y", "side", "keypoints", "kept"),
            [(*row, int(keep)) for row, keep in zip(rows, self.kept.tolist(), strict=True)],
        )


def kept_crops(
    photographs: Sequence[Photograph],
    n: int,
    *,
    min_keypoints: int,
    smallest: int = SMALLEST,
    draw: int = 0,
    folder: Path,
    source: str = "",
) -> CropTable:
    """Draw crops until `n` have more than `min_keypoints` key points; reuse and extend the table in `folder`.

    Parameters
    ----------
    photographs : sequence of Photograph
        Those shorter than `smallest` on a side are left out.
    n : int
        How many crops to keep.
    min_keypoints : int
        The cut: a crop is kept when it has more.
    smallest, draw : int
        See `draw_crops`.
    folder : Path
        Where tables are kept. When it cannot be written, a warning says so and the table is only returned.
    source : str
        How messages call the photographs.

    Returns
    -------
    CropTable
        All crops drawn up to the `n`-th that is kept.

    Raises
    ------
    InputError
        When no photograph is large enough, or when after 1,024 crops (looked at again after each 128) fewer than 2 %
        have been kept.
    """
    usable = [photo for photo in photographs if photo.side >= smallest]
    if not usable:
        raise InputError(
            f"public_source {source!r}: no photograph is {smallest} px or more on each side "
            f"({len(photographs)} looked at); name larger photographs"
        )
    names = tuple(photo.name for photo in usable)
    key = table_key(usable, draw=draw, smallest=smallest)
    file = folder / "crops" / f"{key[:32]}.csv"
    carried = carried_counts(key)
    counts = np.concatenate([carried, _read_counts(file, key, usable, draw, smallest)[len(carried) :]])
    drawn = _attempts_needed(counts, n, min_keypoints, source)
    if drawn is None:
        counter = KeyPointCounter(usable)
        with progress(desc="SIFT filter", unit="crop") as bar:
            while drawn is None:
                step = _step(counts, n, min_keypoints)
                bar.total = len(counts) + step
                bar.update(len(counts) - bar.n)
                photo, box = draw_crops(usable, len(counts), len(counts) + step, draw=draw, smallest=smallest)
                counts = np.concatenate([counts, counter.count(photo, box, bar.update)])
                _write_counts(file, key, usable, draw, smallest, counts)
                drawn = _attempts_needed(counts, n, min_keypoints, source)
    photo, box = draw_crops(usable, 0, drawn, draw=draw, smallest=smallest)
    return CropTable(names, photo, box, counts[:drawn], min_keypoints)


def table_key(photographs: Sequence[Photograph], *, draw: int = 0, smallest: int = SMALLEST) -> str:
    """What a table is kept under: the sha256 of the photographs, the draw, the sides, the stream's version."""
    text = f"crops {STREAM} {digest(photographs)} {draw} {smallest} {LARGEST}\n"
    return hashlib.sha256(text.encode()).hexdigest()


def _step(counts: npt.NDArray[np.int64], n: int, min_keypoints: int) -> int:
    """How many crops to count next: what the share that passed so far asks for, in blocks, at most twice as many."""
    kept = int((counts > min_keypoints).sum())
    rate = max(kept / len(counts), _RATE) if len(counts) else 1.0
    blocks = -(-int((n - kept) / rate) // _BLOCK)
    return min(max(blocks, 1) * _BLOCK, _CHUNK, max(len(counts), _LOOK))


def _attempts_needed(counts: npt.NDArray[np.int64], n: int, min_keypoints: int, source: str) -> int | None:
    """The number of crops up to the n-th kept one, or None when more must be drawn."""
    total = np.cumsum(counts > min_keypoints)
    enough = int(np.searchsorted(total, n)) + 1
    # The looks are at fixed crops, so that the outcome does not depend on how many were counted at once.
    looks = np.arange(_LOOK, min(len(counts), enough - 1) + 1, _BLOCK)
    for look in looks.tolist():
        if total[look - 1] < _RATE * look:
            raise InputError(
                f"public_source {source!r}: only {total[look - 1]} of {look} random crops have more than "
                f"{min_keypoints} SIFT key points (min_keypoints); lower it or name richer photographs"
            )
    return enough if enough <= len(counts) else None


def _rows(
    names: Sequence[str],
    photo: npt.NDArray[np.int64],
    box: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
) -> list[tuple[Any, ...]]:
    return [
        (names[index], *place, count)
        for index, place, count in zip(photo.tolist(), box.tolist(), counts.tolist(), strict=True)
    ]


def _csv(header: Sequence[str], rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _write_counts(
    file: Path,
    key: str,
    photographs: Sequence[Photograph],
    draw: int,
    smallest: int,
    counts: npt.NDArray[np.int64],
) -> None:
    photo, box = draw_crops(photographs, 0, len(counts), draw=draw, smallest=smallest)
    names = [photograph.name for photograph in photographs]
    body = _csv(("photo", "x", "y", "side", "keypoints"), _rows(names, photo, box, counts)).encode()
    head = {"crops": STREAM, "draw": draw, "key": key, "sha256": hashlib.sha256(body).hexdigest()}
    try:
        make_folder(file.parent)
        write_bytes(file, f"# {json.dumps(head, sort_keys=True)}\n".encode() + body)
    except InputError as error:
        warnings.warn(f"the table of crops is not kept for the next run: {error}", stacklevel=3)


def _read_counts(
    file: Path, key: str, photographs: Sequence[Photograph], draw: int, smallest: int
) -> npt.NDArray[np.int64]:
    """The counts of a table, or none when the file is absent, damaged or of other crops."""
    empty = np.zeros(0, np.int64)
    try:
        head, _, body = file.read_bytes().partition(b"\n")
        stated = json.loads(head[2:])
        if stated["key"] != key or stated["sha256"] != hashlib.sha256(body).hexdigest():
            return empty
        rows = list(csv.reader(io.StringIO(body.decode(), newline="")))[1:]
        counts = np.array([int(row[4]) for row in rows], np.int64)
        photo, box = draw_crops(photographs, 0, len(rows), draw=draw, smallest=smallest)
        names = [photograph.name for photograph in photographs]
        expected = [[str(cell) for cell in row] for row in _rows(names, photo, box, counts)]
        return counts if expected == rows and (counts >= 0).all() else empty
    except (OSError, ValueError, KeyError, TypeError, IndexError, csv.Error):
        # Whatever is wrong with a cached file, it is made anew.
        return empty
