"""Attacks get on without the secret half: none of its files is opened, wherever it lies, and none need be there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import write_sources
from watched_attacks import METHODS, SECRET_NAMES

from instahide_nb.attacks.registry import method_names
from instahide_nb.core.files import read_json
from instahide_nb.run.manifest import digests

HERE = Path(__file__).parents[1]


def test_no_secret_file_is_opened_and_none_is_needed(saved_run: Path, tmp_path: Path) -> None:
    public = write_sources(tmp_path, 2, 50).public_path
    assert set(METHODS) == set(method_names())
    run, alone = tmp_path / "runs/run", tmp_path / "runs/alone"
    shutil.copytree(saved_run, run)
    shutil.copytree(run / "release", alone / "release")
    # One run has its secret half, and the secret files once more among the published arrays; one has neither.
    (run / "secret/gen_data.ipynb").write_text("{}")
    assert {path.name for path in (run / "secret").iterdir()} == SECRET_NAMES
    shutil.copytree(run / "secret", run / "release", dirs_exist_ok=True)
    done = subprocess.run(
        [sys.executable, str(HERE / "watched_attacks.py"), str(public), str(run), str(alone)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]

    opened = set(json.loads(done.stdout))
    for name in ("run", "alone"):
        released = {f"{name}/release/{file}" for file in ("encryption.npy", "label.npy", "release.json")}
        assert {path for path in opened if path.startswith(f"{name}/release")} == released
    own = ("run/attack", "alone/attack", "run/release", "alone/release")
    assert [path for path in opened if not path.startswith(own)] == []
    for method in METHODS:
        found = digests(run, f"attack/{method}")
        missed = read_json(run / "attack" / method / "attack.json").get("recovered") is False
        assert len(found) == (0 if missed else 4 if method == "unmask" else 3), (
            "an attack that finds no generator writes no arrays"
        )
        assert digests(alone, f"attack/{method}") == found, "the secret half made a difference"
