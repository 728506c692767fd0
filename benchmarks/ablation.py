"""What each part of `unmask` adds, and how it fares on other challenges: the tables of docs/unmask.md.

``python benchmarks/ablation.py --private FILE.npz --public FOLDER --attacker FOLDER --seeds 1 2 3 --k 2 3 4 8`` makes
a challenge for each row, attacks it, scores it, and prints the row in Markdown.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from bench import in_a_process

from instahide_nb.challenge.build import Challenge, build_challenge
from instahide_nb.core.params import GenDataParams
from instahide_nb.data.sources import private_images, public_patches
from instahide_nb.evaluate.metrics import match_images, score

PARTS: dict[str, dict[str, Any]] = {
    "first images, independent signs": {"rounds": 0, "shared_rounds": 0, "repair": False},
    "+ sign repair": {"rounds": 0, "shared_rounds": 0},
    "+ 4 rounds, independent signs": {"rounds": 4, "shared_rounds": 0, "coupled": False},
    "+ 4 rounds, coupled signs": {"rounds": 4, "shared_rounds": 0},
    "whole, without sign repair": {"repair": False},
    "whole, independent signs": {"coupled": False},
    "whole, without second opinion": {"second_opinion": False},
    "whole, without restarts": {"restarts": False},
}
"""Settings of unmask."""

CLASSES = {
    "2 classes of 50": [50, 50],
    "100 classes of 1": [1] * 100,
    "classes of 35, 20, 15, 10, 8, 5, 3, 2, 1, 1": [35, 20, 15, 10, 8, 5, 3, 2, 1, 1],
}
"""Other labels for the same private images, at random."""


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--private", default="embedded", help="source of private images")
    parser.add_argument("--public", default="embedded", help="source of public images")
    parser.add_argument("--attacker", default="embedded:attacker", help="the attacker's own public images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--k", type=int, nargs="*", default=[4, 8])
    parser.add_argument("--encryptions", type=int, nargs="*", default=[10, 20, 100])
    options = parser.parse_args()
    base = {"n_private": 100, "n_public": 4000, "k": 6, "seed": options.seeds[0]}
    base |= {"private_source": options.private, "public_source": options.public}
    columns = ("max_ssim", "image SSIM", "worst", "slots right", "its own estimate", "second opinion")
    print("| | " + " | ".join([*columns, "seconds", "peak MiB"]) + " |\n" + "| --- " * 9 + "|", flush=True)
    with TemporaryDirectory() as folder:
        for name, parameters, settings, change in _cases(options, base, Path(folder)):
            found = in_a_process(name, _part, base | parameters, settings, options.attacker, change)
            cells = [f"{found.get(column, float('nan')):.3f}" for column in columns]
            cells += [f"{found.get(column, float('nan')):.0f}" for column in ("seconds", "peak_mib")]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _cases(options: argparse.Namespace, base: dict[str, Any], folder: Path) -> list[Any]:
    """Name, parameters, settings of unmask and change of the challenge for each row."""
    cases = [
        *((f"whole, seed {seed}", {"seed": seed}, {}, "") for seed in options.seeds),
        *((name, {}, settings, "") for name, settings in PARTS.items()),
        *((f"k = {k}", {"k": k}, {}, "") for k in options.k),
        *((f"{n} encryptions per image", {"encryptions_per_image": n}, {}, "") for n in options.encryptions),
        *((name, {}, {}, name) for name in CHANGES),
    ]
    for name, sizes in CLASSES.items():
        source = {"private_source": _relabelled(base, sizes, folder)}
        cases.append((name, source, {}, ""))
    return cases


def _part(
    parameters: dict[str, Any], settings: dict[str, Any], attacker: str, change: str
) -> dict[str, float]:
    from instahide_nb.attacks.unmask.attack import Settings, decrypt, solve
    from instahide_nb.attacks.unmask.edges import overlap

    challenge = build_challenge(GenDataParams(**parameters))
    challenge = CHANGES[change](challenge) if change else challenge
    public, secret = public_patches(attacker, 2000), challenge.secret
    begin = time.perf_counter()
    result = solve(challenge.release, public, settings=Settings(**settings))
    seconds = time.perf_counter() - begin
    place, image = match_images(result.recovered, secret.private)
    name = np.empty(len(place), np.int64)
    name[place] = np.arange(len(place))
    guess, pair = name[result.assignment], secret.pair
    right = overlap(guess, pair) / pair.shape[1]
    return {
        "max_ssim": score(decrypt(result), secret.private, pair).metrics()["max_ssim"],
        "image SSIM": float(image.mean()),
        "worst": float(image.min()),
        "slots right": float(right.mean()),
        "its own estimate": result.details["estimated_slot_accuracy"],
        "second opinion": result.details["agreement_with_edges"],
        "seconds": seconds,
    }


def _shuffled(challenge: Challenge) -> Challenge:
    """The same challenge with its rows in another order, so that no epochs are left."""
    order = np.random.default_rng(0).permutation(len(challenge.release.label))
    release, secret = challenge.release, challenge.secret
    release = replace(release, encryption=release.encryption[order], label=release.label[order])
    return replace(challenge, release=release, secret=replace(secret, pair=secret.pair[order]))


def _rounded(challenge: Challenge) -> Challenge:
    """The same challenge with labels of four decimals."""
    label = np.round(challenge.release.label.astype(np.float64), 4).astype(np.float32)
    return replace(challenge, release=replace(challenge.release, label=label))


CHANGES = {"rows shuffled": _shuffled, "labels of four decimals": _rounded}


def _relabelled(base: dict[str, Any], sizes: list[int], folder: Path) -> str:
    """A source of the private images of `base` in classes of other sizes, at random."""
    generator = np.random.default_rng(base["seed"])
    chosen = private_images(base["private_source"], base["n_private"], generator=generator)
    path = folder / f"classes-{len(sizes)}.npz"
    np.savez(
        path, images=chosen.images, labels=generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    )
    return str(path)


if __name__ == "__main__":
    main()
