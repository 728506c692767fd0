"""How time and memory grow with the number of encryptions: gen_data, unmask and evaluate at several sizes.

Each size is a process of its own, so that its peak memory is its own. Private images are crops of photographs, as the
package embeds no more than 100 squares.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import peak_mib

__all__ = ["BOUNDS", "PUBLISHED", "SIZES", "make_challenge", "prng_state", "score_attack", "unmask"]

SIZES = (1250, 2500, 5000, 10_000)
PUBLISHED = 5000
"""Encryptions of the challenge of 2020."""

BOUNDS = {"gen_data": 1.0, "unmask": 3.0, "prng-state": 1.0, "evaluate": 1.0}
"""GB (10^9 bytes) that the process of a stage may hold at the published scale."""

_EPOCHS = 50


def _sources(folder: Path, n_private: int) -> tuple[Path, Path]:
    from instahide_nb.data.sources import public_patches

    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / f"private-{n_private}.npz", folder / "public.npz"
    if not private.exists():
        images = public_patches("embedded", n_private, draw=7)
        np.savez(private, images=images, labels=np.arange(n_private) % 10)
    if not public.exists():
        np.savez(public, images=public_patches("embedded", 4000))
    return private, public


def make_challenge(folder: Path, n: int, runs: int) -> dict[str, Any]:
    """Build and save a challenge of n encryptions, fifty a private image, without the search for public crops."""
    from instahide_nb.challenge.build import build_challenge, save_challenge
    from instahide_nb.core.params import GenDataParams

    private, public = _sources(folder / "sources", n // _EPOCHS)
    params = GenDataParams.from_mapping(
        {
            "n_private": n // _EPOCHS,
            "encryptions_per_image": _EPOCHS,
            "k": 6,
            "n_public": 4000,
            "private_source": str(private),
            "public_source": str(public),
        }
    )
    small = params.as_dict() | {"n_private": 5, "encryptions_per_image": 2}
    build_challenge(GenDataParams.from_mapping(small))  # compiles
    seconds, processor = [], []
    for _ in range(runs):
        start, spent = time.perf_counter(), time.process_time()
        save_challenge(folder / str(n), build_challenge(params))
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - spent)
    return {"seconds": {"total": seconds}, "processor_seconds": processor, "peak_mib": peak_mib()}


def unmask(folder: Path, n: int, runs: int, most_seconds: float = 120) -> dict[str, Any]:
    """Attack a challenge that was made before; rounds stop once `most_seconds` are spent."""
    from instahide_nb.core.files import save_array

    found, decryption = _attack("unmask", folder, n, runs, most_seconds)
    save_array(folder / str(n) / "decryption.npy", decryption)
    return found


def prng_state(folder: Path, n: int, runs: int) -> dict[str, Any]:
    """Find the whole state of the generator, once: most of it is unmask."""
    return _attack("prng-state", folder, n, 1, 0.0)[0]


def _attack(method: str, folder: Path, n: int, runs: int, most_seconds: float) -> tuple[dict[str, Any], Any]:
    from instahide_nb.attacks.registry import run_attack
    from instahide_nb.challenge.release import load_release
    from instahide_nb.data.sources import public_patches

    public = public_patches("embedded:attacker", 2000)
    _compile(folder, public)
    release = load_release(folder / str(n) / "release")
    seconds: dict[str, list[float]] = {"total": []}
    processor = []
    begin = time.perf_counter()
    while True:
        start, spent = time.perf_counter(), time.process_time()
        result = run_attack(method, release, public)
        seconds["total"].append(time.perf_counter() - start)
        processor.append(time.process_time() - spent)
        for stage, value in result.seconds.items():
            seconds.setdefault(stage, []).append(value)
        if len(processor) == runs or time.perf_counter() - begin > most_seconds:
            break
    found = {"seconds": seconds, "processor_seconds": processor, "peak_mib": peak_mib()}
    return found, result.decryption


def _compile(folder: Path, public: Any) -> None:
    """Run the attack on a challenge of 400, with both ways to find companions, so that no size pays for compiling."""
    from instahide_nb.attacks.registry import run_attack
    from instahide_nb.attacks.unmask.attack import Settings, solve
    from instahide_nb.challenge.build import build_challenge
    from instahide_nb.core.params import GenDataParams

    private, crops = _sources(folder / "sources", 20)
    params = {"n_private": 20, "encryptions_per_image": 20, "n_public": 200, "k": 4}
    params |= {"private_source": str(private), "public_source": str(crops)}
    release = build_challenge(GenDataParams.from_mapping(params)).release
    run_attack("unmask", release, public)
    solve(release, public, settings=Settings(epochs=False))


def score_attack(folder: Path, n: int, runs: int) -> dict[str, Any]:
    """Score what `unmask` left."""
    from instahide_nb.challenge.secret import load_secret
    from instahide_nb.core.files import load_array
    from instahide_nb.evaluate.metrics import score

    secret = load_secret(folder / str(n) / "secret")
    decryption = load_array(folder / str(n) / "decryption.npy", dtype=np.float32)
    seconds, processor, figures = [], [], {}
    for _ in range(runs):
        start, spent = time.perf_counter(), time.process_time()
        figures = score(decryption, secret.private, secret.pair).metrics()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - spent)
    found = {"seconds": {"total": seconds}, "processor_seconds": processor, "peak_mib": peak_mib()}
    return found | {"max_ssim": figures["max_ssim"]}
