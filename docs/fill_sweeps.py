"""Fills the findings of docs/sweeps.md, docs/defences.md and README.md from the tables in docs/sweeps/.

``python docs/fill_sweeps.py --keep runs/sweeps/k`` first copies a sweep's table, times and figure there.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas
from pandas import DataFrame, Series

from instahide_nb.evaluate.leaderboard import markdown_table
from instahide_nb.run.sweep import load_sweep
from instahide_nb.show.plots import score_table

ROOT = Path(__file__).resolve().parents[1]
PAGE, README, TABLES = ROOT / "docs" / "sweeps.md", ROOT / "README.md", ROOT / "docs" / "sweeps"
DEFENCES = ROOT / "docs" / "defences.md"
RECOGNISED = 0.8
"""The first release of the challenge counted an image as recovered from here on."""
START, END = "<!-- findings: start -->", "<!-- findings: end -->"


class Finding(NamedTuple):
    """A sweep's finding in one sentence, and the scores behind it."""

    sentence: str
    scores: str


def k_finding(table: DataFrame) -> Finding:
    """Of params/sweeps/k.yaml: the mean effect of each of the two axes, and all scores."""
    at = table.pivot_table("max_ssim", "encryptions_per_image", "k")
    fewer = (at.loc[10] - at.loc[50])[[4, 6, 8]].mean()
    more = (at[8] - at[4]).mean()
    pairs = f"{math.floor(1000 * at[2].min()) / 1000:.3f} or more"
    parts = [f"{', '.join(f'{s:.3f}' for s in at.loc[e])} with {e} encryptions per image" for e in (50, 20, 10)]
    return Finding(
        f"With 10 instead of 50 encryptions per image, `unmask` {_change(fewer)} in Max_SSIM. With 8 instead of 4 "
        f"mixed images, it {_change(more)}. Without public images (k = 2) it reaches {pairs}",
        f"for k = {', '.join(map(str, at))} it reaches {'; '.join(parts)}",
    )


def _change(difference: float) -> str:
    return f"{'gains' if difference > 0 else 'loses'} {abs(difference):.2f}"


def scheme_finding(table: DataFrame) -> Finding:
    """Of params/sweeps/scheme.yaml: where a known seed leaves something hidden."""
    scores = table.pivot_table("max_ssim", "scheme", "k")
    hidden = [scheme for scheme in ("cross", "inside") if not scores.loc[scheme].min() > 0.99]
    lead = {
        0: "no image remains hidden, neither in cross-dataset InstaHide (with public images) nor in inside-dataset "
        "InstaHide (without)",
        1: f"images remain hidden in {' '.join(hidden)}-dataset InstaHide only",
        2: "images remain hidden in cross-dataset and inside-dataset InstaHide",
    }
    cross, inside = (", ".join(f"{score:.3f}" for score in scores.loc[scheme]) for scheme in ("cross", "inside"))
    return Finding(
        f"Once the seed is known, {lead[len(hidden)]}",
        f"for k = {', '.join(map(str, scores))} `prng-seed` reaches Max_SSIM {cross} in the first "
        f"and {inside} in the second",
    )


def rng_finding(table: DataFrame) -> Finding:
    """Of params/sweeps/rng.yaml: which attacks find only the old generator, and all scores."""
    stopped, others, scores = [], [], []
    for method, runs in table.groupby("method", sort=False):
        by_rng = runs.groupby("rng")
        old, new = (by_rng["max_ssim"].mean()[rng] for rng in ("mt19937", "chacha20"))
        found = {rng: (part["recovered_generator"] == True).all() for rng, part in by_rng}  # noqa: E712
        lost = (runs.loc[runs["rng"] == "chacha20", "recovered_generator"] == False).all()  # noqa: E712
        scores.append(f"`{method}` {old:.2f} and " + ("not found" if lost else f"{new:.2f}"))
        (stopped if found["mt19937"] and not found["chacha20"] else others).append(f"`{method}`")
    return Finding(
        f"The generator `chacha20` stops {' and '.join(stopped) or 'no attack'}, which break `mt19937`. It does not "
        f"affect {' or '.join([', '.join(others[:-1]), *others[-1:]]).removeprefix(' or ') or 'any other'}",
        f"Max_SSIM with `mt19937` and with `chacha20` is {', '.join(scores)}",
    )


def defences_findings(table: DataFrame) -> list[str]:
    """Of params/sweeps/defences.yaml: what `unmask` does, what generators do, and the best defence."""

    def listed(scores: Series) -> str:
        return " and ".join(f"*{name}* ({score:.2f})" for name, score in scores.items())

    def named(variants: Iterable[str]) -> str:
        return ", ".join(f"*{name}*" for name in variants)

    by_method = {name: runs.set_index("variant")["max_ssim"] for name, runs in table.groupby("method")}
    unmask, state = by_method["unmask"], by_method["prng-state"]
    weak = unmask[unmask < RECOGNISED].sort_values()
    best = table.groupby("variant", sort=False)["max_ssim"].max()
    found = state.dropna()
    shut = [name for name in state.index if name not in found.index]
    return [
        f"`unmask` reaches Max_SSIM {unmask['as published']:.2f} on the challenge as published, and {RECOGNISED} or "
        f"more on {len(unmask) - len(weak)} of {len(unmask)} variants of the scheme (T: encryptions per image). "
        + (f"The exceptions are {listed(weak)}." if len(weak) else "There is no exception."),
        f"`prng-state` finds the random generator of the variants {named(found.index)} (Max_SSIM "
        f"{math.floor(100 * found.min()) / 100:.2f} or more), but not of {named(shut)}.",
        f"The strongest defence in the table is *{best.idxmin()}*: the best attack reaches {best.min():.2f}.",
    ]


FINDINGS = {"k": k_finding, "scheme": scheme_finding, "rng": rng_finding}


def read_table(name: str) -> DataFrame:
    """A sweep's table as it is kept in docs/sweeps."""
    return pandas.read_csv(TABLES / f"{name}.csv")


def section(name: str) -> str:
    """A sweep's question, finding, figure and files."""
    file = ROOT / "params" / "sweeps" / f"{name}.yaml"
    question = file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    table, times = read_table(name), pandas.read_csv(TABLES / f"{name}-times.csv")
    minutes = times[["gen_data_s", "attack_s", "evaluate_s"]].sum().sum() / 60
    finding, figure = FINDINGS[name](table), load_sweep(file)[1]
    assert figure is not None
    return (
        f"**{question}** {finding.sentence}: {finding.scores}.\n\n"
        f"![{figure.y} against {figure.x}](sweeps/{name}.png)\n\n"
        f"{len(table)} runs ({minutes:.0f} min of one busy core, {int(times['peak_mib'].max()):,} MiB at most): "
        f"[table](sweeps/{name}.csv), [times](sweeps/{name}-times.csv), made by "
        f"`instahide-nb sweep params/sweeps/{name}.yaml`.\n"
    )


def page_part() -> str:
    """All findings with their figures, for docs/sweeps.md."""
    return "\n".join(section(name) for name in FINDINGS)


def readme_part() -> str:
    """The findings on defences, for README.md."""
    return "\n".join(f"- {sentence}" for sentence in defences_findings(read_table("defences"))) + "\n"


def defences_part() -> str:
    """Findings, figure and table, for docs/defences.md."""
    table, times = read_table("defences"), pandas.read_csv(TABLES / "defences-times.csv")
    texts = score_table(table)
    body = [[f"{variant}", *row] for variant, row in zip(texts.index, texts.to_numpy().tolist(), strict=True)]
    minutes = times[["gen_data_s", "attack_s", "evaluate_s"]].sum().sum() / 60
    lines = markdown_table(("variant", *texts.columns), body, right=tuple(texts.columns))
    return (
        f"{readme_part()}\n![Max_SSIM of variants and attacks](sweeps/defences.png)\n\n{lines}\n\n"
        f"{len(table)} runs ({minutes:.0f} min of one core): [table](sweeps/defences.csv), "
        "[times](sweeps/defences-times.csv).\n"
    )


def filled(page: str, part: str) -> str:
    """A page with its findings made anew."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"docs/fill_sweeps.py: the page has no {START} ... {END}")
    return f"{before}{START}\n\n{part}\n{END}{after}"


PARTS = ((PAGE, page_part), (DEFENCES, defences_part), (README, readme_part))

if __name__ == "__main__":
    if sys.argv[1:2] == ["--keep"]:
        for folder in map(Path, sys.argv[2:]):
            for name in ("table.csv", "times.csv", "figure.png"):
                kept = folder.name + {"table.csv": ".csv", "times.csv": "-times.csv", "figure.png": ".png"}[name]
                shutil.copyfile(folder / name, TABLES / kept)
    for path, make in PARTS:
        path.write_text(filled(path.read_text(encoding="utf-8"), make()), encoding="utf-8")
