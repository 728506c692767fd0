"""Random square crops of photographs, and their SIFT key points.

Crop number a is drawn from block a of a counter-based generator (Philox-4x64-10, Salmon et al. 2011) whose key is
the draw's number and a hash of the photographs' names. So it does not depend on how many crops are wanted, on the
number of threads, or on which crops were kept before it. Its four words give the photograph, the side, x and y.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from instahide_nb.images.photographs import Photograph

__all__ = ["LARGEST", "SMALLEST", "STREAM", "KeyPointCounter", "draw_crops", "key_points", "workers"]

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


def workers() -> int:
    """How many threads to use: one for each processor that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        pool = ThreadPoolExecutor(workers())
        try:
            for done in pool.map(work, tasks):
                advance(done)
        finally:
            pool.shutdown(cancel_futures=True)
            cv2.setNumThreads(threads)
        return counts
