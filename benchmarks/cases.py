"""Single steps of the package, against what one would use instead and against a floor.

A case returns the times of its candidates, this package's own first, in each of several rounds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

Case = dict[str, Any]


def rounds(
    candidates: Mapping[str, Callable[[], object]], runs: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time of each candidate in each round; a first call of each is not counted."""
    for run in candidates.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(runs):
        for name, run in candidates.items():
            begin = clock()
            run()
            seconds[name].append(clock() - begin)
    return seconds


def _case(what: str, seconds: dict[str, list[float]], note: str = "") -> Case:
    return {"what": what, "seconds": seconds} | ({"note": note} if note else {})


def start_up(quick: bool, runs: int) -> Case:
    """The command's help and the package's import, against an interpreter that does nothing."""

    words = {
        "instahide-nb --help": ("-m", "instahide_nb.run.cli", "--help"),
        "import instahide_nb": ("-c", "import instahide_nb"),
        "python alone": ("-c", "pass"),
    }
    calls = {name: partial(subprocess.check_output, [sys.executable, *each]) for name, each in words.items()}
    return _case("start-up", rounds(calls, runs))


def encryption(quick: bool, runs: int) -> Case:
    """The scheme in exact integers, against the same in plain numpy floats, and against copying the result."""
    from instahide_nb.core.params import ChallengeParams
    from instahide_nb.scheme.encryption import encrypt
    from instahide_nb.scheme.streams import Mt19937Stream

    n_private, epochs, k = (20, 20, 6) if quick else (100, 50, 6)
    draw = np.random.default_rng(0)
    private = draw.integers(0, 256, (n_private, 32, 32, 3), np.uint8)
    public = draw.integers(0, 256, (4000, 32, 32, 3), np.uint8)

    params = ChallengeParams(n_private=n_private, k=k, encryptions_per_image=epochs)

    def exact() -> Any:
        return encrypt(private, public, Mt19937Stream(1), params).encryption

    result = exact()
    candidates = {
        "ours": exact,
        "plain numpy": lambda: floats_encrypt(private, public, np.random.RandomState(1), k, epochs),
        "copy of the result": result.copy,
    }
    return _case(f"encrypt, {len(result):,} of 32x32, k = {k}", rounds(candidates, runs))


def floats_encrypt(private: Any, public: Any, random: Any, k: int, epochs: int) -> Any:
    """Cross-dataset InstaHide as one writes it in numpy with floats: the same steps, no promise of the same bits."""
    own, other = private.astype(np.float32) / 127.5 - 1, public.astype(np.float32) / 127.5 - 1
    n = len(own)
    out = np.empty((epochs, *own.shape), np.float32)
    for epoch in range(epochs):
        coefficient, poor = np.empty((n, k)), np.ones(n, bool)
        while poor.any():
            coefficient[poor] = np.abs(random.normal(size=(int(poor.sum()), k)))
            coefficient /= coefficient.sum(axis=1, keepdims=True)
            poor = (coefficient.max(axis=1) > 0.65) | (coefficient[:, :2].sum(axis=1) < 0.3)
        weight = coefficient.astype(np.float32)[:, :, None, None, None]
        mixed = weight[:, 0] * own[random.permutation(n)] + weight[:, 1] * own[random.permutation(n)]
        pool = random.choice(len(other), n, replace=False)
        for j in range(2, k):
            mixed += weight[:, j] * other[random.permutation(pool)]
        out[epoch] = mixed * (random.randint(0, 2, mixed.shape) * 2 - 1)
    return out.reshape(-1, *own.shape[1:])


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
    return _case(f"evaluate, {n:,} decryptions", seconds, f"scikit-image was timed on {sample} encryptions")


def seed_scan(quick: bool, runs: int) -> Case:
    """Testing seeds by the labels' ratios, against numpy's RandomState, one seed at a time."""
    from instahide_nb.attacks.registry import run_attack

    count, sample = 2**20 if quick else 2**24, 2**10
    release, images = _challenge(seed=2**31, encryptions_per_image=1).release, np.zeros((1, 32, 32, 3), np.uint8)

    def scan() -> None:
        if run_attack("prng-seed", release, images, seed_stop=count).recovered_generator:
            raise AssertionError("a seed was found that is not there")

    def one_by_one() -> None:
        for seed in range(sample):
            np.random.RandomState(seed).standard_normal(6)

    seconds = rounds({"ours": scan, "RandomState per seed": one_by_one}, runs)
    seconds["RandomState per seed"] = [s * count / sample for s in seconds["RandomState per seed"]]
    what = f"seed scan, 2^{count.bit_length() - 1} seeds"
    return _case(what, seconds, f"RandomState was timed on {sample} seeds")


_ATTACK = """
import sys
from instahide_nb.attacks.registry import run_attack
from instahide_nb.challenge.release import load_release
from instahide_nb.data.sources import public_patches
run_attack("unmask", load_release(sys.argv[1]), public_patches("embedded:attacker", int(sys.argv[2])))
"""


def first_run(quick: bool, runs: int) -> Case:
    """Unmask in a new process, with kernels that were compiled before and with an empty cache."""
    from instahide_nb.challenge.build import save_challenge

    challenge = _challenge(**_SMALL if quick else _DEMO)
    with tempfile.TemporaryDirectory() as place:
        save_challenge(place, challenge)
        words = [sys.executable, "-c", _ATTACK, f"{place}/release", "100" if quick else "2000"]

        def compiled() -> None:
            subprocess.run(words, check=True)

        def empty() -> None:
            with tempfile.TemporaryDirectory() as cache:
                subprocess.run(words, check=True, env=os.environ | {"NUMBA_CACHE_DIR": cache})

        seconds = rounds({"ours": compiled, "ours, nothing compiled": empty}, min(runs, 2))
    return _case(f"unmask, {len(challenge.release.encryption):,}, whole process", seconds)


def busy(quick: bool, runs: int) -> Case:
    """Processor seconds of unmask on a quiet machine, and beside a loop that keeps one processor busy."""
    from instahide_nb.attacks.registry import run_attack
    from instahide_nb.data.sources import public_patches

    release = _challenge(**_SMALL if quick else _DEMO).release
    public = public_patches("embedded:attacker", 100 if quick else 2000)

    def quiet() -> None:
        run_attack("unmask", release, public)

    def beside() -> None:
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as loop:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(loop.pid, {min(os.sched_getaffinity(0))})
            try:
                quiet()
            finally:
                loop.kill()

    candidates = {"ours, quiet": quiet, "ours, beside a busy loop": beside}
    seconds = rounds(candidates, 1 if quick else min(runs, 3), time.process_time)
    return _case(f"unmask, {len(release.encryption):,}, processor seconds", seconds)


_SMALL = {"n_private": 20, "encryptions_per_image": 20, "k": 4}
_DEMO = {"n_public": 4000}  # as in the preset


def _challenge(**parameters: Any) -> Any:
    """A challenge on embedded photographs, with few public images, which are quickly found."""
    from instahide_nb.challenge.build import build_challenge
    from instahide_nb.core.params import GenDataParams

    wanted = {"n_private": 100, "encryptions_per_image": 50, "k": 6, "n_public": 100}
    return build_challenge(GenDataParams(**wanted | parameters))


CASES: dict[str, Callable[[bool, int], Case]] = {
    "start-up": start_up,
    "encryption": encryption,
    "evaluation": evaluation,
    "seed-scan": seed_scan,
    "first-run": first_run,
    "busy": busy,
}
