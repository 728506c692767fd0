"""One stage of a run at one size. Private images are crops, because the package embeds no more than 100 squares."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

SIZES = (1250, 2500, 5000, 10_000)
PUBLISHED = 5000
"""Encryptions of the challenge of 2020."""

EPOCHS = 50
_MOST_SECONDS = 120  # no further round begins after this


def _parameters(folder: Path, n_private: int, **more: Any) -> Any:
    """Parameters of a challenge whose images are files in `folder`, made once."""
    import numpy as np

    from instahide_nb.core.params import GenDataParams
    from instahide_nb.data.sources import public_patches

    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / f"private-{n_private}.npz", folder / "public.npz"
    if not private.exists():
        images = public_patches("embedded", n_private, draw=7)
        np.savez(private, images=images, labels=np.arange(n_private) % 10)
    if not public.exists():
        np.savez(public, images=public_patches("embedded", 4000))
    wanted = {"n_private": n_private, "private_source": str(private), "public_source": str(public)}
    wanted |= {"encryptions_per_image": EPOCHS, "k": 6, "n_public": 4000}
    return GenDataParams(**wanted | more)


def _timed(run: Callable[[], Any], runs: int) -> tuple[dict[str, Any], Any]:
    """Wall and processor seconds of several calls, and what the last returned; all would count as memory."""
    found: dict[str, Any] = {"seconds": {"total": []}, "processor_seconds": []}
    total = found["seconds"]["total"]
    while len(total) < runs and sum(total) <= _MOST_SECONDS:
        result = None
        start, spent = time.perf_counter(), time.process_time()
        result = run()
        total.append(time.perf_counter() - start)
        found["processor_seconds"].append(time.process_time() - spent)
        for stage, taken in getattr(result, "seconds", {}).items():
            found["seconds"].setdefault(stage, []).append(taken)
    return found, result


def gen_data(folder: Path, n: int, runs: int) -> dict[str, Any]:
    """Build and save a challenge of n encryptions, without the search for public crops."""
    from instahide_nb.challenge.build import build_challenge, save_challenge

    build_challenge(_parameters(folder / "sources", 5, encryptions_per_image=2))  # compiles
    parameters = _parameters(folder / "sources", n // EPOCHS)
    return _timed(lambda: save_challenge(folder / str(n), build_challenge(parameters)), runs)[0]


def attack(method: str, folder: Path, n: int, runs: int) -> dict[str, Any]:
    """Attack the challenge that `gen_data` left; the time of every stage."""
    import numpy as np

    from instahide_nb.attacks.registry import run_attack
    from instahide_nb.challenge.build import build_challenge
    from instahide_nb.challenge.release import load_release
    from instahide_nb.data.sources import public_patches

    public = public_patches("embedded:attacker", 2000)
    small = build_challenge(_parameters(folder / "sources", 20, encryptions_per_image=20, k=4)).release
    order = np.random.default_rng(0).permutation(len(small.encryption))
    shuffled = replace(small, encryption=small.encryption[order], label=small.label[order])
    for each in (small, shuffled):  # compiles what is used with epochs and without
        run_attack(method, each, public)
    release = load_release(folder / str(n) / "release")
    found, result = _timed(lambda: run_attack(method, release, public), runs)
    np.save(folder / str(n) / f"{method}.npy", result.decryption)
    return found


def evaluate(folder: Path, n: int, runs: int) -> dict[str, Any]:
    """Score what `unmask` found."""
    import numpy as np

    from instahide_nb.challenge.secret import load_secret
    from instahide_nb.evaluate.metrics import score

    secret, decryption = load_secret(folder / str(n) / "secret"), np.load(folder / str(n) / "unmask.npy")
    found, metrics = _timed(lambda: score(decryption, secret.private, secret.pair).metrics(), runs)
    return found | {"max_ssim": metrics["max_ssim"]}


STAGES: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "gen_data": gen_data,
    "unmask": partial(attack, "unmask"),
    "evaluate": evaluate,
    "prng-state": partial(attack, "prng-state"),
}
