"""`prng-seed` and `prng-state` on challenges whose seeds are hidden, with other public images and with the own ones.

Run it on sources of your own, for example
``python benchmarks/generator.py --private cifar10 --public imagenette --attacker embedded:attacker``. Every attack
runs in a process of its own, so that its peak memory is its own. `prng-seed` is given a part of all seeds
(``--bits``) with the hidden one in it. A table in Markdown goes to standard output, one row as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import peak_mib

from instahide_nb.attacks.registry import run_attack
from instahide_nb.challenge.build import build_challenge, save_challenge
from instahide_nb.challenge.release import load_release
from instahide_nb.challenge.secret import load_secret
from instahide_nb.core.params import GenDataParams
from instahide_nb.data.sources import public_patches
from instahide_nb.evaluate.metrics import score

SEED = 3_141_592_653
STARTS: dict[str, int | str] = {"seed": SEED, "entropy": "entropy"}
ATTACKS = [("seed", "prng-seed"), ("seed", "prng-state"), ("entropy", "prng-state")]


def main() -> int:
    """Make the challenges and attack each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--private", default="embedded", help="source of private images")
    parser.add_argument("--public", default="embedded", help="the challenge's source of public images")
    parser.add_argument("--attacker", default="embedded:attacker", help="other public images")
    parser.add_argument("--n-public", type=int, default=4000)
    parser.add_argument("--n-attacker", type=int, default=2000)
    parser.add_argument("--scheme", default="cross")
    parser.add_argument("--k", type=int, default=6)
    parser.add_argument("--bits", type=int, default=26, help="prng-seed scans 2^bits seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/generator"))
    parser.add_argument("--only", help="cases whose name holds this")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(_attack(options)))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "other.npy", public_patches(options.attacker, options.n_attacker))
    np.save(options.out / "own.npy", public_patches(options.public, options.n_public))
    print("| generator started from | attack | public images | max_ssim | min_l2 | images proved | s | MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    failed = 0
    for start, method in ATTACKS:
        run = options.out / start
        if not (run / "release").exists():
            save_challenge(run, build_challenge(_parameters(options, STARTS[start])))
        for images in ("other", "own"):
            case = f"{start}:{method}:{images}"
            if options.only and options.only not in case:
                continue
            words = [sys.executable, __file__, *sys.argv[1:], "--case", case]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
            failed += done.returncode != 0
            cells = [start, method, images]
            cells += json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else ["failed"] * 5
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return int(failed > 0)


def _parameters(options: argparse.Namespace, seed: int | str) -> GenDataParams:
    return GenDataParams.from_mapping(
        {
            "out_dir": str(options.out),
            "seed": seed,
            "scheme": options.scheme,
            "k": options.k,
            "n_private": 100,
            "n_public": options.n_public,
            "private_source": options.private,
            "public_source": options.public,
        }
    )


def _attack(options: argparse.Namespace) -> list[Any]:
    start, method, images = options.case.split(":")
    release = load_release(options.out / start / "release")
    part = 1 << options.bits
    first = SEED // part * part
    begin = time.perf_counter()
    result = run_attack(
        method,
        release,
        np.load(options.out / f"{images}.npy"),
        seed_start=first,
        seed_stop=min(first + part, 2**32),
    )
    seconds, memory = time.perf_counter() - begin, peak_mib()
    secret = load_secret(options.out / start / "secret")
    found = score(result.decryption, secret.private, secret.pair).metrics()
    print(json.dumps({"seconds": result.seconds, **result.details}), file=sys.stderr)
    return [
        f"{found['max_ssim']:.4f}",
        f"{found['min_l2']:.2g}",
        result.details.get("images_proved", "none: " + str(result.details.get("reason"))),
        round(seconds),
        round(memory),
    ]


if __name__ == "__main__":
    sys.exit(main())
