"""Fills the parts of README.md that come from runs, between their markers: ``make readme``.

Read are the expected hashes in the package, the results of the demo kept in ``docs/demo/`` (copied there by
``python docs/fill_readme.py --keep runs/demo``) and the parameters' own descriptions.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from pathlib import Path

from instahide_nb.leaderboard import load_published, to_markdown
from instahide_nb.leaderboard_row import load_rows
from instahide_nb.manifest import expected
from instahide_nb.params import NOTEBOOKS, read_yaml
from instahide_nb.storage import read_json

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "docs" / "demo"


def hashes() -> str:
    """The hashes that the two presets give, as sha256sum prints them."""
    lines = ["```"]
    for preset in ("demo", "tiny"):
        known = expected(preset) or {}
        shown = [name for name in known if name in ("release/encryption.npy", "release/label.npy")]
        shown += [name for name in known if name.endswith("unmask/decryption.npy")]
        lines += [f"{known[name]}  runs/{preset}/{name}" for name in shown]
    return "\n".join([*lines, "```"])


def leaderboard() -> str:
    """The published rows and those of the demo."""
    return to_markdown(load_published() + load_rows(sorted(DEMO.glob("*/row.json")))).strip()


def headline() -> str:
    """What the attacks reach on the demo, in a sentence."""
    figures = {path.parent.name: read_json(path)["max_ssim"] for path in DEMO.glob("*/metrics.json")}
    best = sorted(figures.items(), key=lambda item: (-item[1], item[0]))
    return "Max_SSIM on the demo: " + ", ".join(f"`{name}` {value:.3f}" for name, value in best) + "."


def parameters() -> str:
    """All parameters with the values of the presets."""
    lines = ["| notebook | parameter | tiny | demo | what it is |", "| --- | --- | --- | --- | --- |"]
    for notebook, kind in NOTEBOOKS.items():
        demo = read_yaml(ROOT / "params" / "demo" / f"{notebook}.yaml")
        for f in dataclasses.fields(kind):
            same = "" if demo[f.name] == f.default else f"`{demo[f.name]}`"
            text = f.metadata["help"].replace("|", "\\|")
            lines.append(f"| {notebook} | `{f.name}` | `{f.default!r}` | {same} | {text} |".replace("'", '"'))
    return "\n".join(lines)


SECTIONS = {"hashes": hashes, "leaderboard": leaderboard, "headline": headline, "parameters": parameters}


def filled(text: str) -> str:
    """README with each marked part made anew."""
    for name, make in SECTIONS.items():
        pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        text, count = re.subn(
            pattern, lambda m, make=make: m[1] + make() + "\n" + m[2], text, flags=re.DOTALL
        )
        if count != 1:
            raise SystemExit(f"README.md: {count} parts are marked {name}; one is expected")
    return text


def keep(run: Path) -> None:
    """Copy a demo run's figures, rows and picture into ``docs/demo/``."""
    for folder in sorted((run / "evaluate").iterdir()):
        target = DEMO / folder.name
        target.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.json", "row.json"):
            shutil.copy(folder / name, target / name)
    shutil.copy(run / "evaluate" / "unmask" / "comparison_grid.png", DEMO / "comparison_grid.png")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--keep"]:
        keep(Path(sys.argv[2]))
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
