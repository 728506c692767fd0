"""The tables of docs/unmask.md and docs/unmask_more.md: what the attack reaches, and what each of its parts adds.

``python benchmarks/unmask_tables.py reach --private FILE.npz --public FOLDER --attacker FOLDER --seeds 1 2 3`` makes a
challenge for each row and seed, attacks it, and scores it. Results are kept in docs/unmask.json, so that a run can be
continued (``--again`` measures anew), and every table of the pages is written from them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas
from bench import DOCS, in_a_process

from instahide_nb.challenge.build import Challenge, build_challenge
from instahide_nb.core.params import GenDataParams
from instahide_nb.core.runs import machine_line
from instahide_nb.data.sources import public_patches
from instahide_nb.evaluate.metrics import match_images, score

KEPT, PAGES = DOCS / "unmask.json", (DOCS / "unmask.md", DOCS / "unmask_more.md")
Parameters = dict[str, Any]


def _shuffled(challenge: Challenge) -> Challenge:
    """The same challenge with its rows in another order, so that no epochs are left."""
    order = np.random.default_rng(0).permutation(len(challenge.release.encryption))
    release, secret = challenge.release, challenge.secret
    label = None if release.label is None else release.label[order]
    release = replace(release, encryption=release.encryption[order], label=label)
    return replace(challenge, release=release, secret=replace(secret, pair=secret.pair[order]))


def _rounded(challenge: Challenge) -> Challenge:
    """The same challenge with labels of four decimals."""
    label = np.round(challenge.release.shown.astype(np.float64), 4).astype(np.float32)
    return replace(challenge, release=replace(challenge.release, label=label))


def _relabelled(sizes: list[int], challenge: Challenge) -> Challenge:
    """The same challenge with its private images in classes of other sizes, at random."""
    secret = challenge.secret
    name = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    label = np.zeros((len(secret.pair), len(sizes)), np.float32)
    rows = np.arange(len(label))[:, None]
    np.add.at(label, (rows, name[secret.pair]), secret.coefficient[:, : secret.pair.shape[1]])
    info = challenge.release.info.changed(class_names=())
    return replace(challenge, release=replace(challenge.release, label=label, info=info))


Row = tuple[Parameters, dict[str, Any], Callable[[Challenge], Challenge] | None]
"""Parameters of gen_data, settings of unmask, and a change of the challenge."""

TABLES: dict[str, dict[str, Row]] = {
    "reach": {
        "cross, k = 6, labels with coefficients": ({}, {}, None),
        "cross, k = 6, labels with classes": ({"labels": "classes"}, {}, None),
        "cross, k = 6, no labels": ({"labels": "none"}, {}, None),
        "cross, k = 4, no labels": ({"labels": "none", "k": 4}, {}, None),
        "cross, k = 8, no labels": ({"labels": "none", "k": 8}, {}, None),
        "inside, k = 4, coefficients, chacha20": ({"scheme": "inside", "k": 4, "rng": "chacha20"}, {}, None),
        "inside, k = 6, coefficients, chacha20": ({"scheme": "inside", "rng": "chacha20"}, {}, None),
        "inside, k = 4, no labels": ({"scheme": "inside", "k": 4, "labels": "none"}, {}, None),
        "inside, k = 6, no labels": ({"scheme": "inside", "labels": "none"}, {}, None),
        "mixup, labels with coefficients": ({"scheme": "mixup", "k": 2}, {}, None),
        "mixup, no labels": ({"scheme": "mixup", "k": 2, "labels": "none"}, {}, None),
        "cross, three private images of six, coefficients": ({"private_per_mix": 3}, {}, None),
    },
    "few": {
        f"T = {t}, {given}": ({"encryptions_per_image": t, "labels": labels}, {}, None)
        for t, labels, given in [
            (5, "coefficients", "coefficients"),
            (10, "coefficients", "coefficients"),
            (20, "coefficients", "coefficients"),
            (100, "coefficients", "coefficients"),
            (10, "none", "no labels"),
            (20, "none", "no labels"),
        ]
    },
    "releases": {
        "rows shuffled": ({}, {}, _shuffled),
        "rows shuffled, no labels": ({"labels": "none"}, {}, _shuffled),
        "labels of four decimals": ({}, {}, _rounded),
        "2 classes of 50": ({}, {}, partial(_relabelled, [50, 50])),
        "100 classes of 1": ({}, {}, partial(_relabelled, [1] * 100)),
        "classes of 35 to 1": ({}, {}, partial(_relabelled, [35, 20, 15, 10, 8, 5, 3, 2, 1, 1])),
    },
    "views": {
        f"flips, {given}": ({"augment": "flip", "labels": labels}, {}, None)
        for labels, given in [("coefficients", "labels with coefficients"), ("none", "no labels")]
    },
    "parts": {
        "the whole attack": ({}, {}, None),
        "first images only": ({}, {"rounds": 0, "shared_rounds": 0}, None),
        "no shared public images": ({}, {"shared_rounds": 0}, None),
        "no coupled signs": ({}, {"coupled": False}, None),
        "no sign repair": ({}, {"repair": False}, None),
        "no second opinion": ({}, {"second_opinion": False}, None),
        "no restarts": ({}, {"restarts": False}, None),
    },
}


def main() -> None:
    """Read the command line, measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], help="none: only write the page")
    parser.add_argument("--private", default="embedded", help="source of private images")
    parser.add_argument("--public", default="embedded", help="source of public images")
    parser.add_argument("--attacker", default="embedded:attacker", help="the attacker's own public images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--again", action="store_true", help="measure rows that docs/unmask.json has already")
    options = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    base = {"n_private": 100, "n_public": 4000, "k": 6, "encryptions_per_image": 50}
    base |= {"private_source": options.private, "public_source": options.public}
    for table, seed in [(table, seed) for table in options.tables for seed in options.seeds]:
        for name in [name for name in TABLES[table] if options.only in name]:
            key = f"{table}/{name}/{seed}"
            if key in kept and not options.again:
                continue
            found = in_a_process(key, _measure, table, name, base | {"seed": seed}, options.attacker)
            kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}  # another process may have added a row
            kept[key] = found
            KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8"), kept), encoding="utf-8")


def filled(page: str, kept: dict[str, dict[str, Any]]) -> str:
    """The page with its tables, each between two markers."""
    for table in TABLES:
        before, start, rest = page.partition(f"<!-- {table}: start -->\n")
        _, end, after = rest.partition(f"<!-- {table}: end -->")
        page = f"{before}{start}\n{markdown(kept, table)}\n{end}{after}" if start and end else page
    return page


def _measure(table: str, name: str, base: Parameters, attacker: str) -> dict[str, Any]:
    """Attack one challenge and compare with its secret."""
    from instahide_nb.attacks.unmask.attack import Settings, decrypt, solve
    from instahide_nb.attacks.unmask.edges import overlap
    from instahide_nb.core.threads import one_blas_thread

    parameters, settings, change = TABLES[table][name]
    seed = {"key": f"{base['seed']:064x}"} if parameters.get("rng") == "chacha20" else {}
    challenge = build_challenge(GenDataParams(**base | parameters | seed))
    challenge = change(challenge) if change else challenge
    public, secret = public_patches(attacker, 2000), challenge.secret
    begin, before = time.perf_counter(), time.process_time()
    with one_blas_thread():
        result = solve(challenge.release, public, settings=Settings(**settings))
    seconds, processor = time.perf_counter() - begin, time.process_time() - before
    place, image, _ = match_images(result.recovered, secret.private, secret.augment)
    number = np.empty(len(place), np.int64)
    number[place] = np.arange(len(place))
    right = overlap(number[result.assignment], secret.pair) / secret.pair.shape[1]
    return {
        "max_ssim": score(decrypt(result), *secret.mixed()).metrics()["max_ssim"],
        "image_ssim": float(image.mean()),
        "worst": float(image.min()),
        "right": float(right.mean()),
        "own": result.details["estimated_slot_accuracy"],
        "seconds": seconds,
        "processor_seconds": processor,
        "machine": machine_line(),
    }


def markdown(kept: dict[str, dict[str, Any]], table: str) -> str:
    """A table, one line per release: every seed's Max_SSIM, and means over the seeds."""
    rows = [[*key.split("/"), kept[key]] for key in sorted(kept) if key.startswith(f"{table}/")]
    head = "| | max_ssim per seed | image SSIM | worst image | identified | its own estimate | processor seconds |\n"
    lines = [head + "| --- | --- | --- | --- | --- | --- | --- |\n"]
    for name in TABLES[table]:
        found = pandas.DataFrame([about for _, own, _, about in rows if own == name])
        if not len(found):
            continue
        if "max_ssim" not in found:
            lines.append(f"| {name} | failed: {found['failed'].iloc[0]} | | | | | |\n")
            continue
        seeds = ", ".join(f"{value:.3f}" for value in found["max_ssim"])
        cells = [f"{found['image_ssim'].mean():.3f}", f"{found['worst'].min():.2f}"]
        cells += [f"{found[c].mean():.3f}" for c in ("right", "own")] + [f"{found['processor_seconds'].mean():.0f}"]
        lines.append(f"| {name} | {seeds} | {' | '.join(cells)} |\n")
    return "".join(lines) if len(lines) > 1 else ""


if __name__ == "__main__":
    main()
