"""Fills the findings of docs/sweeps.md and README.md from the tables in docs/sweeps/, between their markers.

``python docs/fill_sweeps.py --keep runs/sweeps/k`` first copies a sweep's table, times and figure there.
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from instahide_nb.sweep_file import load_sweep

ROOT = Path(__file__).resolve().parents[1]
PAGE, README, TABLES = ROOT / "docs" / "sweeps.md", ROOT / "README.md", ROOT / "docs" / "sweeps"
START, END = "<!-- findings: start -->", "<!-- findings: end -->"

Table = list[dict[str, str]]


def mean(table: Table, column: str = "max_ssim", **wanted: object) -> float:
    """Mean over the runs of a table that have these parameters; not a number where none of them has a score."""
    values = [
        float(row[column])
        for row in table
        if row[column] and all(row[name] == str(value) for name, value in wanted.items())
    ]
    return sum(values) / len(values) if values else float("nan")


def k_finding(table: Table) -> str:
    """Of params/sweeps/k.yaml: what each of the two axes does on average, and all scores."""
    counts, mixed = (50, 20, 10), (2, 4, 6, 8)
    at = {(e, k): mean(table, k=k, encryptions_per_image=e) for e in counts for k in mixed}
    fewer = sum(at[10, k] - at[50, k] for k in mixed) / len(mixed)
    more = sum(at[e, 8] - at[e, 2] for e in counts) / len(counts)
    parts = [f"{', '.join(f'{at[e, k]:.2f}' for k in mixed)} with {e} encryptions an image" for e in counts]
    return (
        f"From 50 to 10 encryptions an image `unmask` {_change(fewer)} on average, from two mixed images to eight it "
        f"{_change(more)}: for k = {', '.join(map(str, mixed))} it reaches {'; '.join(parts)}."
    )


def _change(difference: float) -> str:
    return f"{'gains' if difference > 0 else 'loses'} {abs(difference):.2f} of Max_SSIM"


def scheme_finding(table: Table) -> str:
    """Of params/sweeps/scheme.yaml: where a known seed leaves something hidden."""
    scores = {scheme: [mean(table, scheme=scheme, k=k) for k in (2, 4, 6)] for scheme in ("cross", "inside")}
    cross, inside = (", ".join(f"{score:.3f}" for score in scores[scheme]) for scheme in ("cross", "inside"))
    hidden = [scheme for scheme, found in scores.items() if not min(found) > 0.99]
    lead = {
        0: "Neither scheme hides anything",
        1: f"Only {' '.join(hidden)} hides anything",
        2: "Both hide something",
    }
    return (
        f"{lead[len(hidden)]} once the seed is known: for k = 2, 4, 6 `prng-seed` reaches Max_SSIM {cross} across "
        f"datasets and {inside} inside one, where all k images are private."
    )


def rng_finding(table: Table) -> str:
    """Of params/sweeps/rng.yaml: which attacks find the generator only where it is the old one, and all scores."""
    stopped, others = [], []
    for method in dict.fromkeys(row["method"] for row in table):
        found = {row["rng"]: row["recovered_generator"] == "true" for row in table if row["method"] == method}
        old, new = (mean(table, method=method, rng=rng) for rng in ("mt19937", "chacha20"))
        # A failed attack on the generator answers with the best images that it has without it.
        text = f"`{method}` ({old:.2f} and {new:.2f})"
        (stopped if found["mt19937"] and not found["chacha20"] else others).append(text)
    return (
        f"`chacha20` stops {' and '.join(stopped) or 'no attack'}, to which it leaves the images found without the "
        f"generator, and not {', '.join(others) or 'any other'}; in brackets Max_SSIM with `mt19937` and `chacha20`."
    )


FINDINGS: dict[str, Callable[[Table], str]] = {"k": k_finding, "scheme": scheme_finding, "rng": rng_finding}


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
    figure = load_sweep(ROOT / "params" / "sweeps" / f"{name}.yaml").figure
    assert figure is not None
    return (
        f"**{question(name)}** {FINDINGS[name](table)}\n\n![{figure.y} against {figure.x}](sweeps/{name}.png)\n\n"
        f"{len(table)} runs ({cost(name)}): [table](sweeps/{name}.csv), [times](sweeps/{name}-times.csv), made by "
        f"`instahide-nb sweep params/sweeps/{name}.yaml`.\n"
    )


def page_part() -> str:
    """All findings with their figures, for docs/sweeps.md."""
    return "\n".join(section(name) for name in FINDINGS)


def readme_part() -> str:
    """A line a finding, for README.md."""
    return "\n".join(f"- {FINDINGS[name](read_table(name))}" for name in FINDINGS) + "\n"


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
