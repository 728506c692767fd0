"""The tables of unmask.md, unmask_more.md and augmentation.md in docs: what the attack and each of its parts reach.

``python benchmarks/unmask_tables.py reach --private FILE.npz --public FOLDER --attacker FOLDER --seeds 1 2 3`` makes a
challenge for each row and seed, attacks it, and scores it. Results are kept in docs/unmask.json, so that a run can be
continued (``--again`` measures anew), and every table and the figure of the pages are made from them.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas
from bench import DOCS, in_a_process
from matplotlib.figure import Figure

from instahide_nb.attacks.carlini.attack import run_v1, run_v2
from instahide_nb.attacks.mixtures import Mixtures
from instahide_nb.attacks.result import AttackResult
from instahide_nb.attacks.unmask import crops, edges
from instahide_nb.attacks.unmask.attack import Settings, Unmask, decrypt, prior_scale, solve
from instahide_nb.attacks.unmask.codes import Codes
from instahide_nb.attacks.unmask.windows import view_table
from instahide_nb.challenge.build import Challenge, build_challenge
from instahide_nb.core.arrays import Float32, Int64, UInt8
from instahide_nb.core.params import GenDataParams
from instahide_nb.core.runs import machine_line
from instahide_nb.core.threads import one_blas_thread
from instahide_nb.data.sources import public_patches
from instahide_nb.evaluate.metrics import identified, match_images, score
from instahide_nb.scheme.encryption import pixel_bytes, pixel_values
from instahide_nb.scheme.views import PAD, apply_views

KEPT, PAGES = DOCS / "unmask.json", [DOCS / name for name in ("unmask.md", "unmask_more.md", "augmentation.md")]
FIGURE = DOCS / "unmask_few.png"
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


class Answer(NamedTuple):
    """What an attack says; without `assignment` it names no private images."""

    decryption: Float32
    recovered: Float32
    assignment: Int64 | None = None
    own: float | None = None  # its own estimate of the share that it identifies


def _unmask(challenge: Challenge, public: UInt8, **settings: Any) -> Answer:
    found = solve(challenge.release, public, settings=Settings(**settings))
    own = found.details["estimated_slot_accuracy"]
    return Answer(decrypt(found), found.recovered, found.assignment, own)


def _carlini(run: Callable[..., AttackResult], challenge: Challenge, public: UInt8) -> Answer:
    found = run(challenge.release, public)
    return Answer(found.decryption, found.recovered, found.assignment)


def _true_codes(challenge: Challenge) -> Mixtures:
    """The private images of each row, in their views, the largest coefficient first."""
    secret, p = challenge.secret, challenge.secret.pair.shape[1]
    order = np.argsort(-secret.coefficient[:, :p], axis=1, kind="stable")
    number, views = secret.pair, 1
    if secret.view is not None:
        table = view_table(secret.augment)
        same = (secret.view[:, :, None] == table).all(axis=3)
        number, views = same.argmax(axis=2) * len(secret.private) + number, len(table)
    number, share = (np.take_along_axis(part, order, axis=1) for part in (number, secret.coefficient[:, :p]))
    return Mixtures(number, share, len(secret.private) * views)


def _signed(challenge: Challenge) -> Float32:
    """The encryptions without their masks, planar."""
    secret, (n, p) = challenge.secret, challenge.secret.pair.shape
    view = np.zeros((n, p, 3), np.int8) + np.array([PAD, PAD, 0], np.int8) if secret.view is None else secret.view
    parts = [apply_views(secret.private[secret.pair[:, s]], view[:, s]) for s in range(p)]
    parts += [secret.public[index] for index in secret.public_index.T]
    by = secret.coefficient.T[:, :, None, None, None]
    whole = sum(share * pixel_values(part) for share, part in zip(by, parts, strict=True))
    return np.ascontiguousarray(whole.transpose(0, 3, 1, 2), np.float32)


def _oracle(challenge: Challenge, public: UInt8, given: str, shared: bool = True) -> Answer:
    """`unmask` with the truth in place of a stage: the true codes ("codes"), or the true signs too ("signs")."""
    secret, true = challenge.secret, _true_codes(challenge)
    n, number_of = len(true.assignment), len(secret.private)
    attack = Unmask(challenge.release, public, settings=Settings(second_opinion=False, restarts=False))
    known = attack.find_edges().known.with_epochs(true.assignment)
    codes = Codes(true, np.zeros(n), np.zeros((*true.assignment.shape, number_of), np.float32))
    first = codes, replace(attack.energies, known=known)
    with (
        mock.patch.object(edges, "first_codes", return_value=first),
        mock.patch.object(crops, "first_codes", return_value=first),
    ):
        now = attack.find_first_codes()
    now.mixtures, now.scale = true, prior_scale(true, now.n_public)
    now.find_codes = lambda: codes  # type: ignore[method-assign]
    if given == "codes":
        attack.find_first_images()
        attack.refine()
        attack.share_public_images()
    else:
        now.signed = _signed(challenge)
        now.fit_images()
        for _ in range(3 * shared):
            now.learn_shared_public(number_of, [slice(0, n)])
            now.fit_images()
    recovered = np.ascontiguousarray(now.image[:number_of].transpose(0, 2, 3, 1))
    largest, view = true.assignment[:, 0] % number_of, true.assignment[:, 0] // number_of
    views = view_table(challenge.release.info.augment)
    return Answer(pixel_values(apply_views(pixel_bytes(recovered)[largest], views[view])), recovered)


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    parameters: Parameters = field(default_factory=dict)  # of gen_data
    settings: dict[str, Any] = field(default_factory=dict)  # of the attack
    change: Callable[[Challenge], Challenge] | None = None
    attack: Callable[..., Answer] = _unmask


_FEW = ((5, "coefficients"), (10, "coefficients"), (20, "coefficients"), (10, "none"), (20, "none"))

TABLES: dict[str, dict[str, Row]] = {
    "reach": {
        "cross, k = 6, labels with coefficients": Row(),
        "cross, k = 6, labels with classes": Row({"labels": "classes"}),
        "cross, k = 6, no labels": Row({"labels": "none"}),
        "cross, k = 4, no labels": Row({"labels": "none", "k": 4}),
        "cross, k = 8, no labels": Row({"labels": "none", "k": 8}),
        "inside, k = 4, coefficients, chacha20": Row({"scheme": "inside", "k": 4, "rng": "chacha20"}),
        "inside, k = 6, coefficients, chacha20": Row({"scheme": "inside", "rng": "chacha20"}),
        "inside, k = 4, no labels": Row({"scheme": "inside", "k": 4, "labels": "none"}),
        "inside, k = 6, no labels": Row({"scheme": "inside", "labels": "none"}),
        "mixup, labels with coefficients": Row({"scheme": "mixup", "k": 2}),
        "mixup, no labels": Row({"scheme": "mixup", "k": 2, "labels": "none"}),
        "cross, three private images of six, coefficients": Row({"private_per_mix": 3}),
    },
    "few": {
        f"T = {t}, {given.replace('none', 'no labels')}{', without cleaning' * (not cleaning)}": Row(
            {"encryptions_per_image": t, "labels": given}, {} if cleaning else {"cleaning": False}
        )
        for cleaning in (True, False)
        for t, given in _FEW + ((100, "coefficients"),) * cleaning
    },
    "oracles": {
        f"T = {t}, {name}": Row({"encryptions_per_image": t}, settings, None, attack)
        for name, attack, settings in (
            ("codes known", _oracle, {"given": "codes"}),
            ("codes and signs known, no shared public images", _oracle, {"given": "signs", "shared": False}),
            ("codes and signs known", _oracle, {"given": "signs"}),
            ("`carlini-v2`", partial(_carlini, run_v2), {}),
        )
        for t in (5, 10, 20, 50)
    },
    "releases": {
        "rows shuffled": Row(change=_shuffled),
        "rows shuffled, no labels": Row({"labels": "none"}, change=_shuffled),
        "labels of four decimals": Row(change=_rounded),
        "2 classes of 50": Row(change=partial(_relabelled, [50, 50])),
        "100 classes of 1": Row(change=partial(_relabelled, [1] * 100)),
        "classes of 35 to 1": Row(change=partial(_relabelled, [35, 20, 15, 10, 8, 5, 3, 2, 1, 1])),
    },
    "views": {
        f"{views}, {given}": Row({"augment": augment, "labels": labels})
        for augment, views in [("flip", "flips"), ("crop", "crops"), ("crop_flip", "crops and flips")]
        for labels, given in [("coefficients", "labels with coefficients"), ("none", "no labels")]
    },
    "more_views": {
        f"crops and flips, {name}": Row({"augment": "crop_flip"} | parameters, settings, change, attack)
        for name, parameters, settings, change, attack in (
            ("T = 20", {"encryptions_per_image": 20}, {}, None, _unmask),
            ("T = 100", {"encryptions_per_image": 100}, {}, None, _unmask),
            ("private images and coefficients known", {}, {}, partial(_relabelled, [1] * 100), _unmask),
            ("codes known, views with them", {}, {"given": "codes"}, None, _oracle),
            ("codes and signs known", {}, {"given": "signs"}, None, _oracle),
            ("`carlini-v2`", {}, {}, None, partial(_carlini, run_v2)),
            ("`carlini-v1`", {}, {}, None, partial(_carlini, run_v1)),
        )
    },
    "parts": {
        "the whole attack": Row(),
        "first images only": Row(settings={"rounds": 0, "shared_rounds": 0}),
        "no shared public images": Row(settings={"shared_rounds": 0}),
        "no coupled signs": Row(settings={"coupled": False}),
        "no sign repair": Row(settings={"repair": False}),
        "no second opinion": Row(settings={"second_opinion": False}),
        "no restarts": Row(settings={"restarts": False}),
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
    parser.add_argument("--only", default="", help="rows whose name matches this expression")
    parser.add_argument("--again", action="store_true", help="measure rows that docs/unmask.json has already")
    options = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    base = {"n_private": 100, "n_public": 4000, "k": 6, "encryptions_per_image": 50}
    base |= {"private_source": options.private, "public_source": options.public}
    for table, seed in [(table, seed) for table in options.tables for seed in options.seeds]:
        for name in [name for name in TABLES[table] if re.search(options.only, name)]:
            key = f"{table}/{name}/{seed}"
            if key in kept and not options.again:
                continue
            found = in_a_process(key, _measure, table, name, base | {"seed": seed}, options.attacker)
            kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}  # another process may have added a row
            kept[key] = found
            KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8"), kept), encoding="utf-8")
    draw(kept)


def filled(page: str, kept: dict[str, dict[str, Any]]) -> str:
    """The page with its tables, each between two markers."""
    for table in TABLES:
        before, start, rest = page.partition(f"<!-- {table}: start -->\n")
        _, end, after = rest.partition(f"<!-- {table}: end -->")
        page = f"{before}{start}\n{markdown(kept, table)}\n{end}{after}" if start and end else page
    return page


def _measure(table: str, name: str, base: Parameters, attacker: str) -> dict[str, Any]:
    """Attack one challenge and compare with its secret."""
    row = TABLES[table][name]
    seed = {"key": f"{base['seed']:064x}"} if row.parameters.get("rng") == "chacha20" else {}
    challenge = build_challenge(GenDataParams(**base | row.parameters | seed))
    challenge = row.change(challenge) if row.change else challenge
    public, secret = public_patches(attacker, 2000), challenge.secret
    begin, before = time.perf_counter(), time.process_time()
    with one_blas_thread():
        answer = row.attack(challenge, public, **row.settings)
    seconds, processor = time.perf_counter() - begin, time.process_time() - before
    place, image, _ = match_images(answer.recovered, secret.private, secret.augment)
    measured = {
        "max_ssim": score(answer.decryption, *secret.mixed()).metrics()["max_ssim"],
        "image_ssim": float(image.mean()),
        "worst": float(image.min()),
        "seconds": seconds,
        "processor_seconds": processor,
        "machine": machine_line(),
    }
    if answer.assignment is not None:
        number = np.empty(len(place), np.int64)
        number[place] = np.arange(len(place))
        measured["right"] = float(identified(number[answer.assignment], secret.pair).sum() / secret.pair.size)
    return measured | ({} if answer.own is None else {"own": answer.own})


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
        cells += [f"{found[c].mean():.3f}" if c in found else "" for c in ("right", "own")]
        cells += [f"{found['processor_seconds'].mean():.0f}"]
        lines.append(f"| {name} | {seeds} | {' | '.join(cells)} |\n")
    return "".join(lines) if len(lines) > 1 else ""


def draw(kept: dict[str, dict[str, Any]]) -> None:
    """Max_SSIM against the number of encryptions per image: attacks, and what is possible with the truth."""
    lines = {"unmask": ("few", "coefficients"), "unmask, no labels": ("few", "no labels")}
    lines |= {"unmask without cleaning": ("few", "coefficients, without cleaning")}
    lines |= {
        name.replace("`", ""): ("oracles", name) for name in ("codes known", "codes and signs known", "`carlini-v2`")
    }
    at_50 = {"coefficients": "labels with coefficients", "no labels": "no labels"}
    at_50["coefficients, without cleaning"] = at_50["coefficients"]  # at T = 50 nothing is cleaned
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for label, (table, name) in lines.items():
        found = {}
        for t in (5, 10, 20, 50):
            key = f"reach/cross, k = 6, {at_50[name]}/" if t == 50 and name in at_50 else f"{table}/T = {t}, {name}/"
            if seeds := [about["max_ssim"] for own, about in kept.items() if own.startswith(key)]:
                found[t] = np.mean(seeds)
        axes.plot(found.keys(), found.values(), ":" if "known" in label else "-", marker="o", label=label)
    axes.set(xscale="log", xticks=[5, 10, 20, 50], xlabel="encryptions per image", ylabel="Max_SSIM", ylim=(0, 1))
    axes.set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    figure.savefig(FIGURE, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
