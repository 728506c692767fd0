"""README's numbers are those of runs: generated parts as the generator makes them, rows as the run hashed them."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instahide_nb.attacks.registry import run_attack
from instahide_nb.challenge.build import Challenge
from instahide_nb.core.files import sha256_file
from instahide_nb.run.manifest import artefact_digest, expected

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO = ROOT / "docs" / "demo"
KEPT = sorted(path.parent.name for path in DEMO.glob("*/metrics.json"))


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Any:
    """docs/fill_readme.py."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("fill_readme")


def test_generated_parts_are_up_to_date(generator: Any) -> None:
    for page in generator.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert generator.filled(page, text) == text, "run `make readme`"


@pytest.mark.parametrize("method", KEPT)
def test_kept_figures_are_the_expected_ones(method: str) -> None:
    known = expected("demo")
    assert known is not None
    assert sha256_file(DEMO / method / "metrics.json") == known[f"evaluate/{method}/metrics.json"]
    assert artefact_digest(DEMO / "comparison_grid.png") == known["evaluate/unmask/comparison_grid.png"]
    metrics = json.loads((DEMO / method / "metrics.json").read_text())
    row = json.loads((DEMO / method / "row.json").read_text())
    shared = metrics.keys() & row.keys()
    assert {name: row[name] for name in shared} == {name: metrics[name] for name in shared}


def test_pages_are_short_and_the_opening_has_the_two_commands_and_the_picture() -> None:
    assert len(README.splitlines()) <= 200
    for page in (ROOT / "docs").glob("*.md"):
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 120, page.name
    opening = README[:3000]
    for word in ("make reproduce", "make test", "docs/demo/comparison_grid.png", "Max_SSIM"):
        assert word in opening


def test_the_example_of_a_new_attack_runs(
    challenge: Challenge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = re.search(r"<!-- example: begin -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    (tmp_path / "mine.py").write_text(found[1])
    monkeypatch.syspath_prepend(tmp_path)
    public = np.zeros((4, *challenge.release.encryption.shape[1:]), np.uint8)
    result = run_attack("mine:attack", challenge.release, public)
    assert result.decryption.shape == challenge.release.encryption.shape
    assert found[1].split("def attack")[1].count("\n") <= 10, "it is said to take ten lines"


def test_every_local_link_and_target_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
