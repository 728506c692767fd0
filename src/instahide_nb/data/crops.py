"""Random square crops of photographs, and their SIFT key points.

Crop number a is drawn from block a of a counter-based generator (Philox-4x64-10, Salmon et al. 2011) whose key is
the draw's number and a hash of the photographs' names. So it does not depend on how many crops are wanted, on the
number of threads, or on which crops were kept before it. Its four words give the photograph, the side, x and y.

Key point counts of the embedded photographs' first crops, which the package carries.

SIFT's count of a crop differs by up to three between processors with and without AVX2, and about one embedded crop in
5,000 has a count on either side of the cut at 40. One such crop shifts every later patch, and so
every number of the demo. The demo is to be the same on any machine, so its counts are files of the package,
found under the key of `instahide_nb.data.crops`; other sources, draws and sizes are counted where they are used.

``python -m instahide_nb.data.crops`` counts again and writes the files (with other photographs or another
stream there are other keys); a test recounts and compares.

The table of crops: which passed the SIFT filter, kept between runs.

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
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, make_folder, save_array, write_bytes
from instahide_nb.core.progress import progress
from instahide_nb.core.threads import thread_count
from instahide_nb.data.photographs import Photograph, digest

SMALLEST = 64
"""Shortest side of a crop in pixels: SIFT finds 40 key points in no patch of 32 x 32."""
LARGEST = 160
"""Longest side of a crop in pixels, where the photograph is that large."""

STREAM = 1
"""Version of the draw; a part of the generator's key."""

_DECODED_BYTES = 512 * 2**20


def draw_crops(
    photographs: Sequence[Photograph], start: int, stop: int, *, draw: int = 0, smallest: int = SMALLEST
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw the crops numbered `start` to `stop` - 1.

    Each is in a photograph chosen with equal chances, has a side chosen evenly between `smallest` and the
    photograph's shorter side (`LARGEST` at most), and a place chosen evenly among those inside the photograph.

    Parameters
    ----------
    photographs : sequence of Photograph
        Each at least `smallest` on its shorter side.
    start, stop : int
        Numbers of the crops.
    draw : int
        Number of the draw, 0 .. 2^64-1; other draws are independent.
    smallest : int
        Shortest side, in pixels.

    Returns
    -------
    photo : ndarray of int64, shape (stop - start,)
    box : ndarray of int64, shape (stop - start, 3)
        x, y and side.

    Examples
    --------
    >>> from pathlib import Path
    >>> photos = [Photograph("a", Path("a.png"), 100, 80), Photograph("b", Path("b.png"), 64, 64)]
    >>> photo, box = draw_crops(photos, 5, 8)
    >>> bool((draw_crops(photos, 0, 8)[1][5:] == box).all())
    True
    """
    # Other photographs get other draws, so that two parties' crops have nothing in common but the rule.
    listed = "\n".join([f"crops {STREAM}", *(photo.name for photo in photographs)])
    own = int.from_bytes(hashlib.sha256(listed.encode()).digest()[:8], "little")
    key = np.array([draw, own], np.uint64)
    words = np.random.Philox(key=key, counter=start).random_raw(4 * (stop - start)).reshape(-1, 4)
    width = np.array([photo.width for photo in photographs], np.uint64)
    height = np.array([photo.height for photo in photographs], np.uint64)
    # Residues of 64-bit words: the largest bias, for 10^6 choices, is 10^6 / 2^64.
    photo = words[:, 0] % np.uint64(len(photographs))
    longest = np.minimum(np.minimum(width, height), np.uint64(max(LARGEST, smallest)))[photo]
    side = np.uint64(smallest) + words[:, 1] % (longest - np.uint64(smallest) + np.uint64(1))
    x = words[:, 2] % (width[photo] - side + np.uint64(1))
    y = words[:, 3] % (height[photo] - side + np.uint64(1))
    return photo.astype(np.int64), np.stack([x, y, side], axis=1).astype(np.int64)


def _sift() -> Any:
    # OpenCV's defaults (Lowe 2004), spelt out so that another version's defaults change nothing.
    return cv2.SIFT.create(
        nfeatures=0,
        nOctaveLayers=3,
        contrastThreshold=0.04,
        edgeThreshold=10,
        sigma=1.6,
        enable_precise_upscale=False,
    )


def key_points(crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """SIFT key points of an RGB crop: x, y and diameter in pixels, shape (k, 3).

    Examples
    --------
    >>> len(key_points(np.zeros((64, 64, 3), np.uint8)))
    0
    """
    found = _sift().detect(cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY), None)
    return np.array([(*point.pt, point.size) for point in found], np.float32).reshape(-1, 3)


class KeyPointCounter:
    """Counts SIFT key points in crops of photographs, each crop at its own size, on all processors.

    Grey versions of the photographs are decoded once and held while they fit in 512 MiB; beyond that a
    photograph is decoded again for each call.

    Parameters
    ----------
    photographs : sequence of Photograph
    """

    def __init__(self, photographs: Sequence[Photograph]) -> None:
        self._photographs = photographs
        self._held: dict[int, npt.NDArray[np.uint8]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def _grey(self, index: int) -> npt.NDArray[np.uint8]:
        held = self._held.get(index)
        if held is not None:
            return held
        grey = np.asarray(cv2.cvtColor(self._photographs[index].read(), cv2.COLOR_RGB2GRAY), np.uint8)
        with self._lock:
            if index not in self._held and self._bytes + grey.nbytes <= _DECODED_BYTES:
                self._bytes += grey.nbytes
                self._held[index] = grey
        return grey

    def count(
        self,
        photo: npt.NDArray[np.int64],
        box: npt.NDArray[np.int64],
        advance: Callable[[int], object] = lambda _: None,
    ) -> npt.NDArray[np.int64]:
        """Count the key points of crops, as `draw_crops` returns them.

        Parameters
        ----------
        photo, box : ndarray of int64, shapes (m,) and (m, 3)
        advance : callable
            Called now and then with the number of crops that were counted since.

        Returns
        -------
        ndarray of int64, shape (m,)
        """
        counts = np.zeros(len(photo), np.int64)
        if not len(photo):
            return counts
        order = np.argsort(photo, kind="stable")
        cuts = np.flatnonzero(np.diff(photo[order])) + 1
        # One task is some crops of one photograph; so a few photographs still feed every thread.
        tasks = [part[i : i + 32] for part in np.split(order, cuts) for i in range(0, len(part), 32)]

        def work(rows: npt.NDArray[np.int64]) -> int:
            sift = _sift()
            grey = self._grey(int(photo[rows[0]]))
            for row in rows.tolist():
                x, y, side = box[row].tolist()
                counts[row] = len(sift.detect(grey[y : y + side, x : x + side], None))
            return len(rows)

        # OpenCV's own threads bring nothing on crops this small; ours run side by side, as it releases the GIL.
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        pool = ThreadPoolExecutor(thread_count())
        try:
            for done in pool.map(work, tasks):
                advance(done)
        finally:
            pool.shutdown(cancel_futures=True)
            cv2.setNumThreads(threads)
        return counts


CROPS = 6144
"""How many crops of each embedded source are carried: about 5,000 pass the cut at 40."""

_FOLDER = Path(__file__).parent / "counted"


def carried_counts(key: str) -> npt.NDArray[np.int64]:
    """The counts that the package carries for a table's key, shape (m,); none for other tables.

    Examples
    --------
    >>> carried_counts("0" * 64).shape
    (0,)
    """
    file = _FOLDER / f"{key[:32]}.npy"
    if not file.is_file():
        return np.zeros(0, np.int64)
    return load_array(file, dtype=np.uint16, shape=(None,)).astype(np.int64)


def main() -> None:
    """Count the key points of the first crops of both embedded sources, and write them."""
    pass
    pass
    from instahide_nb.data.embedded import public_regions

    make_folder(_FOLDER)
    for holder in ("challenge", "attacker"):
        photographs = public_regions(holder)
        counts = KeyPointCounter(photographs).count(*draw_crops(photographs, 0, CROPS))
        file = _FOLDER / f"{table_key(photographs)[:32]}.npy"
        save_array(file, counts.astype(np.uint16))
        print(f"{holder}: {(counts > 40).sum()} of {CROPS} crops pass; {file.name}")


if __name__ == "__main__":
    main()


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
