"""The commands that look at a finished run: what they print, and their exit codes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from forked_runs import run_cells, small_plan
from typer.testing import CliRunner, Result

from instahide_nb.core.files import load_array
from instahide_nb.evaluate.report import about_attack
from instahide_nb.run import pipeline
from instahide_nb.run.cli import app

FOLDER = "forked_runs-attack"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 400 encryptions, decrypted as the mean public image."""
    run = tmp_path_factory.mktemp("finished") / "run"
    here = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "execute", run_cells)
        pipeline.reproduce(small_plan(run), lambda line: None)
    os.chdir(here)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def call(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def test_verify_counts_what_is_as_it_was(run: Path) -> None:
    result = call("verify", run)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "verified: 17 artefacts are as the run's manifest says\n"


def test_verify_names_each_file_that_is_not(run: Path) -> None:
    image = load_array(run / f"attack/{FOLDER}/recovered.npy")
    np.save(run / f"attack/{FOLDER}/recovered.npy", -image)
    (run / f"evaluate/{FOLDER}/overview.png").write_bytes(b"no picture")
    (run / "release/label.npy").unlink()
    result = call("verify", run)
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("differs: ") for line in lines)
    for name, what in (("recovered.npy", "expected"), ("overview.png", "picture"), ("label.npy", "missing")):
        assert any(name in line and what in line for line in lines), lines


def test_only_a_preset_can_be_recorded(run: Path) -> None:
    result = call("verify", run, "--record")
    assert "not those of a preset" in str(result.exception)


def test_score_gives_the_rank(run: Path) -> None:
    halves = ("--release", run / "release", "--secret", run / "secret")
    result = call("score", run / f"attack/{FOLDER}/decryption.npy", *halves)
    assert result.exit_code == 0, result.output
    assert "Rank       4 of 4, below Carlini et al. ver.2" in result.stdout
    perfect = load_array(run / "secret/private.npy")[load_array(run / "secret/pair.npy")[:, 0]]
    np.save(run / "perfect.npy", (2 * perfect.astype(np.float64) / 255 - 1).astype(np.float32))
    result = call("score", run / "perfect.npy", *halves)
    assert "Max_SSIM   1.0000" in result.stdout
    assert "Rank       1 of 4" in result.stdout


@pytest.mark.parametrize("damage", ["deleted", "damaged"])
def test_a_decryption_is_known_by_what_lies_beside_it_and_may_come_alone(run: Path, damage: str) -> None:
    folder = run / f"attack/{FOLDER}"
    known = about_attack(folder / "decryption.npy")
    assert known.details["method"] == "forked_runs:attack"
    assert known.recovered is not None
    for name in ("attack.json", "recovered.npy"):
        if damage == "deleted":
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(b"{")
    alone = about_attack(folder / "decryption.npy")
    assert (alone.details, alone.recovered) == ({}, None)


def test_submit_names_the_zip(run: Path) -> None:
    result = call("submit", run / f"attack/{FOLDER}")
    assert result.exit_code == 0, result.output
    assert Path(result.stdout.strip()).is_file()
