"""What each part of `unmask` adds, and how it fares with other k and other numbers of encryptions.

Run it on sources of your own, for example
``python benchmarks/ablation.py --private cifar10 --public imagenette --attacker embedded:attacker``; every row makes
a challenge, attacks it with some part switched off, and scores the images. A table in Markdown goes to standard output,
the figures to ``--out`` as JSON when it is given.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from instahide_nb.attacks.unmask.attack import Settings, UnmaskResult, decrypt, solve
from instahide_nb.challenge.build import Challenge, build_challenge
from instahide_nb.core.params import GenDataParams
from instahide_nb.data.sources import private_images, public_patches
from instahide_nb.evaluate.metrics import ssim_pairs
from instahide_nb.scheme.encryption import pixel_values

PARTS: dict[str, Settings] = {
    "first images, independent signs": Settings(rounds=0, companion_rounds=0, repair=False),
    "+ sign repair": Settings(rounds=0, companion_rounds=0),
    "+ 4 rounds, independent signs": Settings(rounds=4, companion_rounds=0, coupled=False),
    "+ 4 rounds, coupled signs": Settings(rounds=4, companion_rounds=0),
    "whole, without sign repair": Settings(repair=False),
    "whole, independent signs": Settings(coupled=False),
    "whole, energies not whitened": Settings(whitened=False),
    "whole, images fitted to the encryption too": Settings(left_out=False),
    "whole, without epochs": Settings(epochs=False),
}

HARD: dict[str, Settings] = {
    "energies not whitened": Settings(whitened=False),
    "images fitted to the encryption too": Settings(left_out=False),
    "neither": Settings(whitened=False, left_out=False),
}
"""What matters where classes are large."""

CLASSES: dict[str, list[int]] = {
    "2 classes of 50": [50, 50],
    "100 classes of 1": [1] * 100,
    "classes of 35, 20, 15, 10, 8, 5, 3, 2, 1, 1": [35, 20, 15, 10, 8, 5, 3, 2, 1, 1],
}
"""Other labels for the same private images, at random."""


def relabelled(base: dict[str, Any], sizes: list[int], folder: Path) -> str:
    """A source of the private images of `base` with classes of other sizes."""
    generator = np.random.Generator(np.random.PCG64(base["seed"]))
    chosen = private_images(base["private_source"], base["n_private"], generator=generator)
    labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    path = folder / f"classes-{len(sizes)}.npz"
    np.savez(path, images=chosen.images, labels=labels)
    return str(path)


def shuffled(challenge: Challenge) -> Challenge:
    """The same challenge with its rows in another order, so that no epochs are left."""
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(challenge.release.label))
    release, secret = challenge.release, challenge.secret
    return replace(
        challenge,
        release=replace(release, encryption=release.encryption[order], label=release.label[order]),
        secret=replace(secret, pair=secret.pair[order]),
    )


def rounded(challenge: Challenge) -> Challenge:
    """The same challenge with labels of four decimals."""
    label = np.round(challenge.release.label.astype(np.float64), 4).astype(np.float32)
    return replace(challenge, release=replace(challenge.release, label=label))


def score(challenge: Challenge, result: UnmaskResult) -> dict[str, float]:
    """max_ssim over encryptions; SSIM over images; share of slots with the right image."""
    secret = challenge.secret
    private = pixel_values(secret.private)
    n_images = len(private)
    every = np.stack(np.meshgrid(np.arange(n_images), np.arange(n_images), indexing="ij"), axis=-1).reshape(
        -1, 2
    )
    match = ssim_pairs(result.recovered, private, every).reshape(n_images, n_images)
    found, true = linear_sum_assignment(match, maximize=True)
    name = np.empty(n_images, np.int64)
    name[found] = true
    decryption = decrypt(result)
    rows = np.arange(len(decryption))
    both = [
        ssim_pairs(decryption, private, np.stack([rows, secret.pair[:, side]], axis=1)) for side in range(2)
    ]
    guess, pair = name[result.assignment], secret.pair
    right = np.maximum((guess == pair).mean(axis=1), (guess == pair[:, ::-1]).mean(axis=1))
    image = match[found, true]
    return {
        "max_ssim": float(np.maximum(*both).mean()),
        "mean_image_ssim": float(image.mean()),
        "worst_image_ssim": float(image.min()),
        "slots_right": float(right.mean()),
    }


def measure(
    name: str,
    parameters: dict[str, Any],
    settings: Settings,
    attacker: npt.NDArray[np.uint8],
    change: Callable[[Challenge], Challenge] | None = None,
) -> dict[str, Any]:
    """Make one challenge, attack it, score it."""
    challenge = build_challenge(GenDataParams.from_mapping(parameters))
    challenge = change(challenge) if change else challenge
    begin = time.perf_counter()
    result = solve(challenge.release, attacker, settings=settings)
    seconds = time.perf_counter() - begin
    row = {"name": name, **score(challenge, result), "seconds": seconds}
    row["estimated_slots_right"] = result.details["estimated_slot_accuracy"]
    row["second_opinion"] = result.details["agreement_with_textures"]
    row["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"| {name} | {row['max_ssim']:.3f} | {row['mean_image_ssim']:.3f} | {row['worst_image_ssim']:.3f} "
        f"| {row['slots_right']:.3f} | {row['estimated_slots_right']:.3f} | {row['second_opinion']:.3f} "
        f"| {seconds:.0f} |",
        flush=True,
    )
    return row


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--private", default="embedded", help="source of private images")
    parser.add_argument("--public", default="embedded", help="source of public images")
    parser.add_argument("--attacker", default="embedded:attacker", help="the attacker's own public images")
    parser.add_argument("--n-public", type=int, default=4000)
    parser.add_argument("--n-attacker", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--k", type=int, nargs="*", default=[4, 8])
    parser.add_argument("--encryptions", type=int, nargs="*", default=[10, 20, 100])
    parser.add_argument("--no-parts", action="store_true", help="the whole attack only")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    options = parser.parse_args(arguments)
    attacker = public_patches(options.attacker, options.n_attacker)
    base: dict[str, Any] = {
        "out_dir": "runs/ablation",
        "n_private": 100,
        "k": 6,
        "n_public": options.n_public,
        "private_source": options.private,
        "public_source": options.public,
    }
    whole = Settings()
    cases = [(f"whole, seed {seed}", {"seed": seed}, whole) for seed in options.seeds]
    first = {"seed": options.seeds[0]}
    if not options.no_parts:
        cases += [(name, first, settings) for name, settings in PARTS.items()]
    cases += [(f"k = {k}", first | {"k": k}, whole) for k in options.k]
    cases += [
        (f"{count} encryptions an image", first | {"encryptions_per_image": count}, whole)
        for count in options.encryptions
    ]
    print("| | max_ssim | image SSIM | worst | slots right | its own estimate | second opinion | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    rows = [measure(name, base | change, settings, attacker) for name, change, settings in cases]
    if not options.no_parts:
        rows.append(measure("rows shuffled", base | first, whole, attacker, shuffled))
        rows.append(measure("labels of four decimals", base | first, whole, attacker, rounded))
        with TemporaryDirectory() as folder:
            for name, sizes in CLASSES.items():
                source = {"private_source": relabelled(base | first, sizes, Path(folder))}
                rows.append(measure(name, base | first | source, whole, attacker))
                if len(sizes) == 2:
                    for part, settings in HARD.items():
                        rows.append(measure(f"{name}, {part}", base | first | source, settings, attacker))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
