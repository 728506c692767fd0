"""Fills the findings of docs/sweeps.md and README.md from the tables in docs/sweeps/, between their markers.

``python docs/fill_sweeps.py --keep runs/sweeps/k`` first copies a sweep's table, times and figure there.
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from instahide_nb.run.sweep import load_sweep

ROOT = Path(__file__).resolve().parents[1]
PAGE, README, TABLES = ROOT / "docs" / "sweeps.md", ROOT / "README.md", ROOT / "docs" / "sweeps"
START, END = "<!-- findings: start -->", "<!-- findings: end -->"

Table = list[dict[str, str]]


class Finding(NamedTuple):
    """A sweep's finding in one sentence, and the scores behind it."""

    sentence: str
    scores: str


def mean(table: Table, column: str = "max_ssim", **wanted: object) -> float:
    """Mean over the runs of a table that have these parameters; not a number where none of them has a score."""
    values = [
        float(row[column])
        for row in table
        if row[column] and all(row[name] == str(value) for name, value in wanted.items())
    ]
    return sum(values) / len(values) if values else float("nan")


def k_finding(table: Table) -> Finding:
    """Of params/sweeps/k.yaml: what each of the two axes does on average, and all scores."""
    counts, mixed = (50, 20, 10), (2, 4, 6, 8)
    at = {(e, k): mean(table, k=k, encryptions_per_image=e) for e in counts for k in mixed}
    fewer = sum(at[10, k] - at[50, k] for k in mixed[1:]) / len(mixed[1:])
    more = sum(at[e, 8] - at[e, 4] for e in counts) / len(counts)
    parts = [f"{', '.join(f'{at[e, k]:.3f}' for k in mixed)} with {e} encryptions an image" for e in counts]
    return Finding(
        f"From 50 to 10 encryptions an image `unmask` {_change(fewer)} of Max_SSIM, from 4 to 8 mixed images it "
        f"{_change(more)}; at k = 2, without public images, it reaches {min(at[e, 2] for e in counts):.3f} or more",
        f"for k = {', '.join(map(str, mixed))} it reaches {'; '.join(parts)}",
    )


def _change(difference: float) -> str:
    return f"{'gains' if difference > 0 else 'loses'} {abs(difference):.2f}"


def scheme_finding(table: Table) -> Finding:
    """Of params/sweeps/scheme.yaml: where a known seed leaves something hidden."""
    scores = {scheme: [mean(table, scheme=scheme, k=k) for k in (2, 4, 6)] for scheme in ("cross", "inside")}
    cross, inside = (", ".join(f"{score:.3f}" for score in scores[scheme]) for scheme in ("cross", "inside"))
    hidden = [scheme for scheme, found in scores.items() if not min(found) > 0.99]
    lead = {
        0: "Neither scheme hides anything",
        1: f"Only {' '.join(hidden)} hides anything",
        2: "Both hide something",
    }
    return Finding(
        f"{lead[len(hidden)]} once the seed is known, whether the images mixed in are public (cross) or private "
        "(inside)",
        f"for k = 2, 4, 6 `prng-seed` reaches Max_SSIM {cross} and {inside}",
    )


def rng_finding(table: Table) -> Finding:
    """Of params/sweeps/rng.yaml: which attacks find the generator only where it is the old one, and all scores."""
    stopped, others, scores = [], [], []
    for method in dict.fromkeys(row["method"] for row in table):
        found = {row["rng"]: row["recovered_generator"] == "true" for row in table if row["method"] == method}
        old, new = (mean(table, method=method, rng=rng) for rng in ("mt19937", "chacha20"))
        scores.append(f"`{method}` {old:.2f} and {new:.2f}")
        (stopped if found["mt19937"] and not found["chacha20"] else others).append(f"`{method}`")
    return Finding(
        f"`chacha20` hides the generator from {' and '.join(stopped) or 'no attack'}, which find it in `mt19937`, and "
        f"is nothing to {', '.join(others) or 'any other'}",
        f"Max_SSIM with `mt19937` and with `chacha20` is {', '.join(scores)} (an attack that does not find the "
        "generator answers with the images that it has without)",
    )


FINDINGS: dict[str, Callable[[Table], Finding]] = {
    "k": k_finding,
    "scheme": scheme_finding,
    "rng": rng_finding,
}


def read_table(name: str) -> Table:
    """A sweep's table as it is kept in docs/sweeps."""
    with open(TABLES / f"{name}.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def question(name: str) -> str:
    """What a sweep file asks, in its first line."""
    path = ROOT / "params" / "sweeps" / f"{name}.yaml"
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def cost(name: str) -> str:
    """What the runs of a sweep took, from its table of times."""
    with open(TABLES / f"{name}-times.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    spent = sum(float(row[f"{stage}_s"] or 0) for row in rows for stage in ("gen_data", "attack", "evaluate"))
    return f"{spent / 60:.0f} min of one busy core, {max(int(row['peak_mib'] or 0) for row in rows):,} MiB at most"


def section(name: str) -> str:
    """A sweep's question, finding, figure and files."""
    table = read_table(name)
    finding = FINDINGS[name](table)
    figure = load_sweep(ROOT / "params" / "sweeps" / f"{name}.yaml").figure
    assert figure is not None
    return (
        f"**{question(name)}** {finding.sentence}: {finding.scores}.\n\n"
        f"![{figure.y} against {figure.x}](sweeps/{name}.png)\n\n"
        f"{len(table)} runs ({cost(name)}): [table](sweeps/{name}.csv), [times](sweeps/{name}-times.csv), made by "
        f"`instahide-nb sweep params/sweeps/{name}.yaml`.\n"
    )


def page_part() -> str:
    """All findings with their figures, for docs/sweeps.md."""
    return "\n".join(section(name) for name in FINDINGS)


def readme_part() -> str:
    """A line a finding, for README.md."""
    return "\n".join(f"- {FINDINGS[name](read_table(name)).sentence}." for name in FINDINGS) + "\n"


def filled(page: str, part: str) -> str:
    """A page with its findings made anew."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"docs/fill_sweeps.py: the page has no {START} ... {END}")
    return f"{before}{START}\n\n{part}\n{END}{after}"


def main() -> None:
    """Copy what was asked for, then fill both pages."""
    words = sys.argv[1:]
    if words[:1] == ["--keep"]:
        for folder in map(Path, words[1:]):
            TABLES.mkdir(exist_ok=True)
            for source, suffix in (
                ("table.csv", ".csv"),
                ("times.csv", "-times.csv"),
                ("figure.png", ".png"),
            ):
                shutil.copyfile(folder / source, TABLES / f"{folder.name}{suffix}")
    elif words:
        raise SystemExit("docs/fill_sweeps.py: takes --keep FOLDER..., or nothing")
    for path, make in ((PAGE, page_part), (README, readme_part)):
        path.write_text(filled(path.read_text(encoding="utf-8"), make()), encoding="utf-8")


if __name__ == "__main__":
    main()
