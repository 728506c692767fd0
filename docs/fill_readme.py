"""Fills the parts of README.md and docs/ that come from runs, between their markers: ``make readme``.

Read are the expected hashes in the package, the results and costs of the demo kept in ``docs/demo/`` (copied there by
``python docs/fill_readme.py --keep runs/demo``) and the parameters' own descriptions.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from instahide_nb.core.params import NOTEBOOKS, read_yaml
from instahide_nb.core.progress import duration
from instahide_nb.core.runs import RESOURCES, Usage, read_usage
from instahide_nb.evaluate.leaderboard import (
    Row,
    load_published,
    load_rows,
    markdown_table,
    sort_rows,
    to_markdown,
)
from instahide_nb.run.manifest import expected

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "docs" / "demo"


def hashes(preset: str) -> str:
    """The hashes that a preset gives, as sha256sum prints them."""
    known = expected(preset) or {}
    shown = [name for name in known if name in ("release/encryption.npy", "release/label.npy")]
    shown += [name for name in known if name.endswith("unmask/decryption.npy")]
    return "\n".join(["```", *(f"{known[name]}  runs/{preset}/{name}" for name in shown), "```"])


def leaderboard() -> str:
    """The published rows and those of the demo."""
    return to_markdown(_rows(), costs=False).strip()


def _rows() -> list[Row]:
    return load_published() + load_rows(sorted(DEMO.glob("*/row.json")))


def times() -> str:
    """What each notebook of the demo cost, as its run noted it, and the times that were reported in 2020."""
    usage = read_usage(DEMO / RESOURCES)
    rows = sort_rows(_rows())
    measured = [row for row in rows if row.kind == "measured"]
    body = []
    if "gen_data" in usage:
        body.append(("`gen_data`", "", *_cost(usage["gen_data"]), "below"))
    for row in measured:
        own = usage.get(f"attack/{row.attack}")
        # A run from before costs were noted has the attack's own time only.
        cost = (*_cost(own), "below") if own else (row.time, "–", "–", row.hardware)
        body.append((f"`attack`, {row.attack}", row.complexity, *cost))
    scored = [usage[f"evaluate/{row.attack}"] for row in measured if f"evaluate/{row.attack}" in usage]
    if scored:
        slowest = max(scored, key=lambda entry: entry.seconds)
        body.append(("`evaluate`, the slowest", "", *_cost(slowest), "below"))
    for row in rows:
        if row.kind == "reported":
            body.append((f"{row.attack}, reported", row.complexity, row.time, "–", "–", row.hardware))
    headings = ("notebook", "complexity", "time", "processor time", "peak memory", "hardware")
    table = markdown_table(headings, body, right=headings[2:5])
    machines = sorted({entry.machine for entry in usage.values()})
    return "\n".join([table, *(f"\nHardware: {machine}." for machine in machines)])


def _cost(entry: Usage) -> tuple[str, str, str]:
    processor = "–" if entry.processor_seconds is None else duration(entry.processor_seconds)
    memory = "–" if entry.peak_mib is None else f"{entry.peak_mib / 1024:.2f} GiB"
    return duration(entry.seconds), processor, memory


def headline() -> str:
    """What attacks reached: measured on the demo (bold), and reported in 2020."""
    rows = [row for row in sort_rows(_rows()) if row.max_ssim is not None]
    body = [
        (f"**{row.attack}**", f"{row.max_ssim:.3f}", row.time, "this package, demo")
        if row.kind == "measured"
        else (row.attack, f"{row.max_ssim:.2f}", row.time, "reported, challenge of 2020")
        for row in rows
    ]
    return markdown_table(("attack", "Max_SSIM", "time", ""), body, right=("Max_SSIM",))


def parameters() -> str:
    """All parameters with the values of the presets."""
    lines = ["| notebook | parameter | tiny | demo | what it is |", "| --- | --- | --- | --- | --- |"]
    for notebook, kind in NOTEBOOKS.items():
        demo = read_yaml(ROOT / "params" / "demo" / f"{notebook}.yaml")
        for name, field in kind.model_fields.items():
            same = "" if demo[name] == field.default else f"`{demo[name]}`"
            text = str(field.description).replace("|", "\\|")
            lines.append(f"| {notebook} | `{name}` | `{json.dumps(field.default)}` | {same} | {text} |")
    return "\n".join(lines)


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"headline": headline, "hashes": partial(hashes, "demo")},
    "docs/benchmarks.md": {"leaderboard": leaderboard, "times": times},
    "docs/parameters.md": {"parameters": parameters},
}


def filled(page: str, text: str) -> str:
    """A page with each marked part made anew."""
    for name, make in PAGES[page].items():
        pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        text, count = re.subn(pattern, lambda m, make=make: m[1] + make() + "\n" + m[2], text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{page}: {count} parts are marked {name}; one is expected")
    return text


def keep(run: Path) -> None:
    """Copy a demo run's metrics, rows, costs and picture into ``docs/demo/``."""
    shutil.copy(run / RESOURCES, DEMO / RESOURCES)
    for row in DEMO.glob("*/row.json"):
        shutil.rmtree(row.parent)  # of an attack that the run may no longer hold
    for folder in sorted((run / "evaluate").iterdir()):
        target = DEMO / folder.name
        target.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.json", "row.json"):
            shutil.copy(folder / name, target / name)
    shutil.copy(run / "evaluate" / "unmask" / "comparison_grid.png", DEMO / "comparison_grid.png")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--keep"]:
        keep(Path(sys.argv[2]))
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        (ROOT / page).write_text(filled(page, text), encoding="utf-8")
