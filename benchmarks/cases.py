"""What is measured: each case in a process of its own, against what one would use instead and against a floor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import rounds

__all__ = ["CASES"]

Case = dict[str, Any]
_HERE = Path(__file__).resolve().parent


def _case(what: str, count: float, unit: str, seconds: dict[str, list[float]], **more: Any) -> Case:
    return {"what": what, "count": count, "unit": unit, "seconds": seconds, **more}


def encryption(quick: bool, runs: int) -> Case:
    """The scheme in exact integers, against the same in plain numpy floats, and against copying the result."""
    from instahide_nb.scheme.encryption import encrypt
    from instahide_nb.scheme.streams import open_stream

    n_private, epochs, k = (20, 20, 6) if quick else (100, 50, 6)
    draw = np.random.default_rng(0)
    private = draw.integers(0, 256, (n_private, 32, 32, 3), np.uint8)
    public = draw.integers(0, 256, (4000, 32, 32, 3), np.uint8)
    stream = open_stream("mt19937", seed=1, key="", states=None)
    result = encrypt(private, public, stream, k=k, encryptions_per_image=epochs).encryption

    def exact() -> None:
        stream = open_stream("mt19937", seed=1, key="", states=None)
        encrypt(private, public, stream, k=k, encryptions_per_image=epochs)

    def plain() -> None:
        floats_encrypt(private, public, np.random.RandomState(1), k, epochs)

    seconds = rounds({"ours": exact, "plain numpy": plain, "copy of the result": result.copy}, runs)
    return _case(f"encrypt, {len(result):,} of 32x32, k = {k}", len(result), "encryptions/s", seconds)


def floats_encrypt(private: Any, public: Any, random: Any, k: int, epochs: int) -> Any:
    """Cross-dataset InstaHide as one writes it in numpy with floats: the same steps, no promise of the same bits."""
    own, other = private.astype(np.float32) / 127.5 - 1, public.astype(np.float32) / 127.5 - 1
    n = len(own)
    out = np.empty((epochs, *own.shape), np.float32)
    for epoch in range(epochs):
        coefficient = np.abs(random.normal(size=(n, k)))
        coefficient /= coefficient.sum(axis=1, keepdims=True)
        while True:
            poor = (coefficient.max(axis=1) > 0.65) | (coefficient[:, :2].sum(axis=1) < 0.3)
            if not poor.any():
                break
            again = np.abs(random.normal(size=(int(poor.sum()), k)))
            coefficient[poor] = again / again.sum(axis=1, keepdims=True)
        weight = coefficient.astype(np.float32)[:, :, None, None, None]
        mixed = weight[:, 0] * own[random.permutation(n)] + weight[:, 1] * own[random.permutation(n)]
        pool = random.choice(len(other), n, replace=False)
        for j in range(2, k):
            mixed += weight[:, j] * other[random.permutation(pool)]
        out[epoch] = mixed * (random.randint(0, 2, mixed.shape) * 2 - 1)
    return out.reshape(-1, *own.shape[1:])


def sift_filter(quick: bool, runs: int) -> Case:
    """Counting key points of random crops, against a plain loop over OpenCV's SIFT on the same crops."""
    import cv2

    from instahide_nb.data.crops import KeyPointCounter, draw_crops
    from instahide_nb.data.sources import source_photographs

    photographs = source_photographs("embedded")
    count = 100 if quick else 600
    photo, box = draw_crops(photographs, 0, count)
    counter = KeyPointCounter(photographs)
    crops = []
    for index, (x, y, side) in zip(photo.tolist(), box.tolist(), strict=True):
        pixels = photographs[index].read()[y : y + side, x : x + side]
        crops.append(np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)))
    sift = cv2.SIFT_create()

    def alone() -> list[int]:
        return [len(sift.detect(crop, None)) for crop in crops]

    same = int((counter.count(photo, box) == np.array(alone())).sum())
    seconds = rounds({"ours": lambda: counter.count(photo, box), "OpenCV alone": alone}, runs)
    return _case(
        f"SIFT filter, {count} crops", count, "crops/s", seconds, equal=f"{same} of {count} counts equal"
    )


def gf2_solve(quick: bool, runs: int) -> Case:
    """Factorising a dense system over GF(2), against elimination on packed rows in numpy."""
    from instahide_nb.attacks.generator.gf2 import factorise

    size = 1024 if quick else 4096
    rows = np.random.default_rng(1).integers(0, 2**64, (size + 64, size // 64), np.uint64)
    ranks = factorise(rows.copy()).rank, numpy_rank(rows.copy())
    if ranks[0] != ranks[1]:
        raise AssertionError(f"ranks differ: {ranks}")
    candidates = {"ours": lambda: factorise(rows.copy()), "plain numpy": lambda: numpy_rank(rows.copy())}
    return _case(f"GF(2), {size + 64} x {size}", size**3, "bit operations/s", rounds(candidates, runs))


def numpy_rank(rows: Any) -> int:
    """Schoolbook elimination on rows packed to 64 bits a word."""
    rank = 0
    for column in range(64 * rows.shape[1]):
        word, bit = column // 64, np.uint64(column % 64)
        found = np.flatnonzero((rows[rank:, word] >> bit) & np.uint64(1))
        if len(found):
            first = rank + found[0]
            rows[[rank, first]] = rows[[first, rank]]
            below = rank + found[1:]
            rows[below] ^= rows[rank]
            rank += 1
            if rank == len(rows):
                break
    return rank


def generator_state(quick: bool, runs: int) -> Case:
    """From 20,400 scattered mask bits, three of them wrong, to the generator's whole state, proved on others."""
    import tracemalloc

    from instahide_nb.attacks.generator.state_search import EQUATIONS, find_state
    from instahide_nb.scheme.mersenne import low_bit_equations, low_bits, seeded_window

    if quick:
        runs = 1
    words = np.random.default_rng(2).permutation(15_360_000)[: 3 * EQUATIONS]
    bits = low_bits(seeded_window(3), 0, 15_360_000)[words]
    bits[[0, 100, 20_000]] ^= 1

    def whole() -> None:
        state = find_state(words, bits, attempts=range(1))
        if state is None or state.corrected != 3:
            raise AssertionError("the state was not found")

    positions = np.sort(words[:EQUATIONS])
    seconds = rounds({"ours": whole, "writing the equations": lambda: low_bit_equations(positions)}, runs)
    tracemalloc.start()
    whole()
    memory = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    note = f"the state's arrays took {memory:.0f} MiB at most"
    return _case("state from 20,400 bits", 1, "states/s", seconds, note=note)


def evaluation(quick: bool, runs: int) -> Case:
    """Scoring decryptions that are all different, against calling scikit-image for each pair of images."""
    from skimage.metrics import structural_similarity

    from instahide_nb.evaluate.metrics import score

    draw = np.random.default_rng(3)
    n, sample = (200, 50) if quick else (5000, 200)
    private = draw.integers(0, 256, (100, 32, 32, 3), np.uint8)
    decryption = (2 * draw.integers(0, 256, (n, 32, 32, 3)) / 255 - 1).astype(np.float32)
    pair = draw.integers(0, 100, (n, 2))
    few = decryption[draw.integers(0, 100, n)]  # as attacks write them: 100 images, many times each
    truth = 2 * private / 255 - 1

    def one_by_one() -> None:
        for i in range(sample):
            for p in pair[i]:
                image = decryption[i].astype(np.float64)
                for a, b, span in ((image, truth[p], 2.0), ((image + 1) / 2, (truth[p] + 1) / 2, 1.0)):
                    structural_similarity(a, b, data_range=span, channel_axis=-1)
                np.mean((image - truth[p]) ** 2)

    candidates = {
        "ours, all different": lambda: score(decryption, private, pair),
        "ours, 100 images": lambda: score(few, private, pair),
        "scikit-image per pair": one_by_one,
    }
    seconds = rounds(candidates, runs)
    seconds["scikit-image per pair"] = [s * n / sample for s in seconds["scikit-image per pair"]]
    note = f"scikit-image was timed on {sample} encryptions"
    return _case(f"evaluate, {n:,} decryptions", n, "decryptions/s", seconds, note=note)


def start_up(quick: bool, runs: int) -> Case:
    """The command's help and the package's import, against an interpreter that does nothing."""

    def call(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    candidates = {
        "instahide-nb --help": call("-m", "instahide_nb.run.cli", "--help"),
        "import instahide_nb": call("-c", "import instahide_nb"),
        "python alone": call("-c", "pass"),
    }
    return _case("start-up", 1, "starts/s", rounds(candidates, runs))


def seed_scan(quick: bool, runs: int) -> Case:
    """Testing seeds by the labels' ratios, against numpy's RandomState, and against the seeding recurrence alone."""
    from seed_floor import scan_of, seeding_alone

    count = 2**20 if quick else 2**24
    own = scan_of(count)
    sample = 2**10

    def one_by_one() -> None:
        for seed in range(sample):
            np.random.RandomState(seed).standard_normal(6)

    candidates = {
        "ours": own,
        "seeding alone": lambda: seeding_alone(count),
        "RandomState per seed": one_by_one,
    }
    seconds = rounds(candidates, runs)
    seconds["RandomState per seed"] = [s * count / sample for s in seconds["RandomState per seed"]]
    note = f"RandomState was timed on {sample} seeds"
    return _case(f"seed scan, 2^{count.bit_length() - 1} seeds", count, "seeds/s", seconds, note=note)


CASES: dict[str, Callable[[bool, int], Case]] = {
    "start-up": start_up,
    "encryption": encryption,
    "sift-filter": sift_filter,
    "evaluation": evaluation,
    "gf2-solve": gf2_solve,
    "generator-state": generator_state,
    "seed-scan": seed_scan,
}
