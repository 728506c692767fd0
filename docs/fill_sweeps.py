"""Fills the findings of docs/sweeps.md from the tables in docs/sweeps/, between the markers.

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
PAGE, TABLES = ROOT / "docs" / "sweeps.md", ROOT / "docs" / "sweeps"
START, END = "<!-- findings: start -->", "<!-- findings: end -->"

Table = list[dict[str, str]]


def mean(table: Table, column: str = "max_ssim", **wanted: object) -> float:
    """Mean over the runs of a table that have these parameters."""
    values = [
        float(row[column])
        for row in table
        if row[column] and all(row[name] == str(value) for name, value in wanted.items())
    ]
    return sum(values) / len(values) if values else float("nan")


def k_finding(table: Table) -> str:
    """Of params/sweeps/k.yaml."""
    parts = []
    for epochs in (50, 20, 10):
        at = [f"{mean(table, k=k, encryptions_per_image=epochs):.2f} at k = {k}" for k in (2, 4, 6, 8)]
        parts.append(f"{epochs} encryptions an image give Max_SSIM {', '.join(at[:-1])} and {at[-1]}")
    return "Few encryptions protect better than many mixed images: " + "; ".join(parts) + "."


def scheme_finding(table: Table) -> str:
    """Of params/sweeps/scheme.yaml."""
    cross = ", ".join(f"{mean(table, scheme='cross', k=k):.3f}" for k in (2, 4, 6))
    inside = ", ".join(f"{mean(table, scheme='inside', k=k):.3f}" for k in (2, 4, 6))
    return (
        f"Once the seed is known, public images are all that still hides anything: Max_SSIM is {cross} for k = 2, 4, 6 "
        f"across datasets and {inside} inside one, where every image that was mixed is asked for."
    )


def rng_finding(table: Table) -> str:
    """Of params/sweeps/rng.yaml."""
    methods = list(dict.fromkeys(row["method"] for row in table))
    parts = [
        f"`{m}` {mean(table, method=m, rng='mt19937'):.2f} and {mean(table, method=m, rng='chacha20'):.2f}"
        for m in methods
    ]
    return "Max_SSIM with mt19937 and with chacha20: " + ", ".join(parts) + "."


FINDINGS: dict[str, Callable[[Table], str]] = {"k": k_finding, "scheme": scheme_finding, "rng": rng_finding}


def section(name: str) -> str:
    """A sweep's question, finding, figure and files."""
    path = ROOT / "params" / "sweeps" / f"{name}.yaml"
    question = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    with open(TABLES / f"{name}.csv", encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    figure = load_sweep(path).figure
    assert figure is not None
    return (
        f"**{question}** {FINDINGS[name](table)}\n\n![{figure.y} against {figure.x}](sweeps/{name}.png)\n\n"
        f"{len(table)} runs: [table](sweeps/{name}.csv), [times](sweeps/{name}-times.csv), made by "
        f"`instahide-nb sweep params/sweeps/{name}.yaml`.\n"
    )


def main() -> None:
    """Copy what was asked for, then fill the page."""
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
    known = [name for name in FINDINGS if (TABLES / f"{name}.csv").exists()]
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    text = "\n".join(section(name) for name in known)
    PAGE.write_text(f"{before}{START}\n\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
