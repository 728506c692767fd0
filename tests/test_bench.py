"""The benchmark's own arithmetic, and that it runs; nothing here depends on how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "bench.py"), "--quick", "--out", str(tmp_path)]
    for only in ("encryption", "start-up"):
        done = subprocess.run([*command, "--only", only], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    assert set(result["cases"]) == {"encryption", "start-up"}
    case = result["cases"]["encryption"]
    assert set(case["seconds"]) == {"ours", "plain numpy", "copy of the result"}
    assert all(len(values) == 2 and min(values) > 0 for values in case["seconds"].values())
    assert 50 < case["peak_mib"] < 2000
    table = (tmp_path / "bench.md").read_text()
    assert "plain numpy" in table
    assert result["machine"]["machine"] in table


def test_the_page_is_as_its_measurements_make_it() -> None:
    from tables import between_markers, markdown

    bench = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert between_markers(page, markdown(bench)) == page, "run `python benchmarks/bench.py --docs`"
    assert not bench["quick"]


def test_what_is_said_of_unmask_is_what_was_measured() -> None:
    from unmask_tables import KEPT, PAGES, filled

    kept = json.loads(KEPT.read_text())
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        assert filled(page, kept) == page, "run `python benchmarks/unmask_tables.py`"

    def mean(*words: str) -> str:
        found = [about["max_ssim"] for name, about in kept.items() if all(word in name for word in words)]
        return f"{np.mean(found):.2f}"

    labels, alone = mean("reach/cross, k = 6, labels"), mean("reach/cross", "no labels")
    said = (
        f"`unmask` reaches {labels} with labels, {alone} from `encryption.npy` alone, {mean('reach/inside')} inside the"
    )
    few = f"{mean('few/T = 10, coefficients/')} from ten encryptions per image instead of fifty"
    views = f"and {mean('views/crops and flips, labels')} if images are cropped and mirrored anew in each epoch"
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert said in readme
    assert few in readme
    assert views in readme
