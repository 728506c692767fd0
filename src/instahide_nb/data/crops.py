"""Random square crops of photographs, filtered by their number of SIFT key points.

Crop i is drawn from block i of a counter-based generator (Philox-4x64-10, Salmon et al. 2011), whose key is the draw
and a hash of the photographs' names. The four words of a block give photograph, side, x and y.

SIFT counts differ by up to three between processors, in 1 to 3 % of crops, and one crop on the other side of the limit
shifts all later patches. So counts are saved: those of the embedded photographs in this package (folder ``counted``,
made by ``tests/data/make_counted.py --write``), others in the cache. ``KEY-HASH.npy`` contains the counts of crops
0, 1, ..., including rejected ones, so that it serves any limit. KEY is a hash of the photographs and the draw, HASH of
the counts.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from instahide_nb.core.arrays import Bool, Float32, Int64, UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, make_folder, save_array, sha256_array, sha256_file
from instahide_nb.core.progress import progress
from instahide_nb.core.threads import thread_count
from instahide_nb.data.datasets import cache_folder
from instahide_nb.data.photographs import Photograph

SMALLEST, LARGEST = 64, 160
"""Range of a crop's side in pixels. SIFT finds 40 key points in no patch of 32 x 32."""
STREAM = 1
"""Version of the draw, a part of the generator's key."""
_COUNTED = Path(__file__).parent / "counted"
_DECODED_BYTES = 512 * 2**20
_BLOCK = 256  # crops that are counted at once
_LOOK, _RATE = 1024, 0.02  # see _crops_needed


@dataclass(frozen=True)
class CropTable:
    """Crops in the order drawn, including rejected ones.

    Crop i is the square at ``box[i]`` (x, y, side) of ``photographs[photo[i]]``. It has ``keypoints[i]`` SIFT key
    points, and is kept if they are more than `min_keypoints`.
    """

    photographs: tuple[Photograph, ...]
    photo: Int64
    box: Int64
    keypoints: Int64
    min_keypoints: int

    @property
    def kept(self) -> Bool:
        """True for each crop that became a patch, shape (m,)."""
        return self.keypoints > self.min_keypoints


def draw_crops(
    photographs: Sequence[Photograph], start: int, stop: int, *, draw: int = 0, smallest: int = SMALLEST
) -> tuple[Int64, Int64]:
    """The crops numbered `start` to `stop` - 1: photographs (m,), and boxes (m, 3) of x, y and side.

    All are uniform; the side is between `smallest` and the photograph's shorter side, but at most `LARGEST`.
    """
    # The key depends on the names, so that other photographs give other boxes.
    listed = "\n".join([f"crops {STREAM}", *(photo.name for photo in photographs)])
    own = int.from_bytes(hashlib.sha256(listed.encode()).digest()[:8], "little")
    key = np.array([draw, own], np.uint64)
    words = np.random.Philox(key=key, counter=start).random_raw(4 * (stop - start)).reshape(-1, 4)
    width = np.array([photo.width for photo in photographs], np.uint64)
    height = np.array([photo.height for photo in photographs], np.uint64)
    # Residues of 64-bit words: for 10^6 choices the bias is at most 10^6 / 2^64.
    photo = words[:, 0] % np.uint64(len(photographs))
    longest = np.minimum(np.minimum(width, height), np.uint64(max(LARGEST, smallest)))[photo]
    side = np.uint64(smallest) + words[:, 1] % (longest - np.uint64(smallest) + np.uint64(1))
    x = words[:, 2] % (width[photo] - side + np.uint64(1))
    y = words[:, 3] % (height[photo] - side + np.uint64(1))
    return photo.astype(np.int64), np.stack([x, y, side], axis=1).astype(np.int64)


def _sift() -> cv2.SIFT:
    # OpenCV's defaults (Lowe 2004), which another version could change.
    return cv2.SIFT.create(0, 3, 0.04, 10, 1.6, enable_precise_upscale=False)


def key_points(crop: UInt8) -> Float32:
    """SIFT key points of an RGB crop: x, y and diameter in pixels, shape (k, 3)."""
    found = _sift().detect(cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY), None)
    return np.array([(*point.pt, point.size) for point in found], np.float32).reshape(-1, 3)


def grey_reader(photographs: Sequence[Photograph]) -> Callable[[int], UInt8]:
    """A function that decodes photograph i to grey, with about 512 MiB of them cached in memory."""
    largest = max(photo.width * photo.height for photo in photographs)

    @lru_cache(maxsize=_DECODED_BYTES // largest)
    def grey(index: int) -> UInt8:
        return np.asarray(cv2.cvtColor(photographs[index].read(), cv2.COLOR_RGB2GRAY), np.uint8)

    return grey


def count_key_points(grey: Callable[[int], UInt8], photo: Int64, box: Int64) -> Int64:
    """SIFT key points (m,) of crops from `draw_crops`, each at its own size; `grey` is from `grey_reader`."""
    counts = np.zeros(len(photo), np.int64)

    def count(index: int, rows: Int64) -> None:
        sift, image = _sift(), grey(index)
        for row in rows.tolist():
            x, y, side = box[row].tolist()
            counts[row] = len(sift.detect(image[y : y + side, x : x + side], None))

    # OpenCV's own threads do not help on small crops. SIFT releases the GIL, so ours run in parallel.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for_each_photograph(count, photo)
    finally:
        cv2.setNumThreads(threads)
    return counts


def for_each_photograph(work: Callable[[int, Int64], None], photo: Int64) -> None:
    """Run ``work(index, rows)`` on all processors for the rows of each photograph."""
    order = np.argsort(photo, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(photo[order])) + 1)
    with ThreadPoolExecutor(thread_count()) as pool:
        list(pool.map(lambda rows: work(int(photo[rows[0]]), rows), parts))


def kept_crops(
    photographs: Sequence[Photograph], n: int, min_keypoints: int, smallest: int, draw: int, source: str
) -> CropTable:
    """Draw crops until `n` have more than `min_keypoints` key points; counts are cached.

    Photographs with a side shorter than `smallest` are not used. An InputError that names `source` says that no
    photograph is large enough, or that fewer than 2 % of crops pass.
    """
    usable = [photo for photo in photographs if photo.side >= smallest]
    if not usable:
        raise InputError(
            f"public_source {source!r}: no photograph is {smallest} px or more on each side "
            f"({len(photographs)} checked); choose larger photographs"
        )
    key, grey, folder = _key(usable, draw, smallest), grey_reader(usable), cache_folder() / "crops"
    carried = _read_counts(_COUNTED, key)
    counts = np.concatenate([carried, _read_counts(folder, key)[len(carried) :]])
    with progress(total=n, desc="SIFT filter", unit="patch") as bar:
        while (needed := _crops_needed(counts, n, min_keypoints, source)) is None:
            bar.update(int((counts > min_keypoints).sum()) - bar.n)
            photo, box = draw_crops(usable, len(counts), len(counts) + _BLOCK, draw=draw, smallest=smallest)
            counts = np.concatenate([counts, count_key_points(grey, photo, box)])
            _write_counts(folder, key, counts)
    photo, box = draw_crops(usable, 0, needed, draw=draw, smallest=smallest)
    return CropTable(tuple(usable), photo, box, counts[:needed], min_keypoints)


def _crops_needed(counts: Int64, n: int, min_keypoints: int, source: str) -> int | None:
    """The number of crops up to the n-th kept one, at least 2 % after each 1,024; None if more must be counted."""
    passed = np.cumsum(counts > min_keypoints)
    needed = int(np.searchsorted(passed, n)) + 1
    for look in range(_LOOK, min(len(counts), needed - 1) + 1, _LOOK):
        if passed[look - 1] < _RATE * look:
            raise InputError(
                f"public_source {source!r}: only {passed[look - 1]} of {look} random crops have more than "
                f"{min_keypoints} SIFT key points (min_keypoints); lower it or choose photographs with more detail"
            )
    return needed if needed <= len(counts) else None


def _key(photographs: Sequence[Photograph], draw: int = 0, smallest: int = SMALLEST) -> str:
    """A hash of everything that the counts depend on."""
    files = {path: sha256_file(path) for path in dict.fromkeys(photo.path for photo in photographs)}
    lines = [f"{files[p.path]} {p.corner} {p.width} {p.height} {p.name}\n" for p in photographs]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    text = f"crops {STREAM} {digest} {draw} {smallest} {LARGEST}\n"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read_counts(folder: Path, key: str) -> Int64:
    """The counts saved under a key, shape (m,); empty if no file has the content that its name says."""
    for file in sorted(folder.glob(f"{key}-*.npy")):
        with suppress(InputError):
            counts = load_array(file, dtype=np.uint16, shape=(None,))
            if file.stem == f"{key}-{sha256_array(counts)[:32]}":
                return counts.astype(np.int64)
    return np.zeros(0, np.int64)


def _write_counts(folder: Path, key: str, counts: Int64) -> None:
    """Replace the counts saved under a key; only warn if they cannot be written."""
    short = counts.astype(np.uint16)
    file = folder / f"{key}-{sha256_array(short)[:32]}.npy"
    try:
        make_folder(folder)
        save_array(file, short)
        for other in set(folder.glob(f"{key}-*.npy")) - {file}:
            other.unlink(missing_ok=True)
    except (InputError, OSError) as error:
        warnings.warn(f"SIFT counts could not be saved for the next run: {error}", stacklevel=3)
