"""Runs of whole notebooks through papermill, into temporary folders."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array
from instahide_nb.core.params import NOTEBOOKS, read_yaml
from instahide_nb.run import manifest, pipeline

ROOT = Path(__file__).parents[2]
SEED = 3141592653  # its digits occur nowhere by chance

GREY = """
import numpy as np
from instahide_nb.attacks.result import AttackResult, on_the_grid

def attack(release, public):
    image = on_the_grid(public.mean(axis=0) / 127.5 - 1)
    n = len(release.encryption)
    recovered = np.repeat(image[None], release.info.n_private, axis=0)
    return AttackResult("grey", recovered, np.full((n, 2), -1), np.repeat(image[None], n, axis=0), "O(1)")

def broken(release, public):
    raise RuntimeError("out of\\nluck")
"""


@pytest.fixture(scope="module")
def grey_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with an attack from outside the package, and a seed that can be searched for."""
    folder = tmp_path_factory.mktemp("grey")
    (folder / "grey.py").write_text(GREY)
    before = Path.cwd()
    os.chdir(folder)
    sys.modules.pop("grey", None)
    try:
        plan = pipeline.make_plan("tiny", ["grey:attack"], folder / "run", SMALL)
        pipeline.reproduce(plan, lambda line: None)
    finally:
        os.chdir(before)
    return folder / "run"


SMALL = {"seed": SEED, "encryptions_per_image": 3}


def again(run: Path, **changes: object) -> list[str]:
    """Reproduce the grey run once more; the lines it says."""
    said: list[str] = []
    before = Path.cwd()
    os.chdir(run.parent)
    try:
        pipeline.reproduce(pipeline.make_plan("tiny", ["grey:attack"], run, SMALL | changes), said.append)
    finally:
        os.chdir(before)
    return said


def test_a_file_that_an_option_names_is_found_from_the_run_s_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "learned.py").write_text("def attack(release, public, *, depth, weights): ...\n")
    with pytest.raises(InputError, match=r"^method: weights: no file weights\.npy"):
        pipeline.make_plan("tiny", ["learned:attack:weights=weights.npy"], "runs/a")
    (tmp_path / "weights.npy").touch()
    plan = pipeline.make_plan("tiny", ["learned:attack:depth=3,weights=weights.npy"], "runs/a")
    attack, evaluate = plan.attacks[0]
    assert attack.method == "learned:attack:depth=3,weights=../../weights.npy"
    assert attack.out_dir == "attack/learned-attack-depth-3-weights-weights.npy"
    assert evaluate.decryption == f"{attack.out_dir}/decryption.npy"


@pytest.fixture
def copied_run(grey_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(grey_run.parent, tmp_path / "copy")
    return tmp_path / "copy" / "run"


def test_files_of_a_run_are_those_of_the_contract(grey_run: Path) -> None:
    files = {path.relative_to(grey_run).as_posix() for path in grey_run.rglob("*") if path.is_file()}
    attack, evaluate = "attack/grey-attack", "evaluate/grey-attack"
    assert files >= {
        *(f"release/{name}" for name in ("encryption.npy", "label.npy", "release.json")),
        *(f"secret/{name}.npy" for name in ("private", "private_label", "pair", "coefficient")),
        *(f"secret/{name}" for name in ("public.npy", "public_index.npy", "mask.npy", "secret.json")),
        "secret/gen_data.ipynb",
        *(f"{attack}/{name}.npy" for name in ("decryption", "recovered", "assignment")),
        *(f"{attack}/{name}" for name in ("attack.json", "attack.ipynb")),
        *(f"{evaluate}/{name}" for name in ("metrics.json", "per_encryption.npy", "comparison_grid.png")),
        *(f"{evaluate}/{name}" for name in ("overview.png", "row.json", "evaluate.ipynb")),
        *("leaderboard.md", "leaderboard.json", "manifest.json", "resources.json"),
    }
    assert not [name for name in files if name.endswith(".part")]
    metrics = json.loads((grey_run / evaluate / "metrics.json").read_text())
    five = {"max_ssim", "mean_ssim", "min_l2", "max_l2", "mean_l2"}
    assert set(metrics) == five | {f"{name}_signed" for name in five}


def test_each_notebook_leaves_what_it_cost(grey_run: Path) -> None:
    content = json.loads((grey_run / "resources.json").read_text())["stages"]
    assert set(content) == {"gen_data", "attack/grey-attack", "evaluate/grey-attack"}
    for stage in content.values():
        assert 0 < stage["seconds"] < 600
        assert stage["peak_mib"] is None or 50 < stage["peak_mib"] < 4000
    if Path("/proc/self/status").exists():
        assert all(stage["peak_mib"] and stage["processor_seconds"] for stage in content.values())
    stages = json.loads((grey_run / "manifest.json").read_text())["stages"].values()
    assert not [name for stage in stages for name in stage["files"] if "resources" in name]


def test_nothing_published_tells_a_secret(grey_run: Path) -> None:
    private = load_array(grey_run / "secret/private.npy")
    needles = [
        str(SEED).encode(),
        hex(SEED)[2:].encode(),
        SEED.to_bytes(4, "little"),
        str(grey_run.parent).encode(),
    ]
    needles += [str(Path.home()).encode() + b"/", str(ROOT).encode(), *(image.tobytes() for image in private)]
    published = [p for part in ("release", "attack") for p in (grey_run / part).rglob("*") if p.is_file()]
    assert len(published) >= 8
    for path in published:
        data = path.read_bytes()
        assert not [needle for needle in needles if needle in data], path
    assert str(SEED).encode() in (grey_run / "secret/gen_data.ipynb").read_bytes()
    assert str(SEED) not in (grey_run / "manifest.json").read_text()
    for path in (grey_run / "secret").rglob("*"):
        assert path.is_dir() or not path.stat().st_mode & 0o077 or path.parent.name == "figures", path
    assert not (grey_run / "secret").stat().st_mode & 0o077


def test_a_finished_run_is_not_run_again(copied_run: Path) -> None:
    before = (copied_run / "manifest.json").read_bytes()
    assert all("already there" in line for line in again(copied_run))
    assert (copied_run / "manifest.json").read_bytes() == before


def test_a_damaged_stage_is_made_again(copied_run: Path) -> None:
    before = (copied_run / "manifest.json").read_bytes()
    decryption = copied_run / "attack/grey-attack/decryption.npy"
    decryption.write_bytes(decryption.read_bytes()[:-1])
    (copied_run / "evaluate/grey-attack/metrics.json").unlink()
    said = again(copied_run)
    assert ["already there" in line for line in said] == [True, False, False]
    assert (copied_run / "manifest.json").read_bytes() == before


def test_another_seed_makes_everything_again(copied_run: Path) -> None:
    before = json.loads((copied_run / "manifest.json").read_text())["stages"]
    said = again(copied_run, seed=SEED - 1)
    assert not any("already there" in line for line in said)
    after = json.loads((copied_run / "manifest.json").read_text())["stages"]
    assert (
        after["gen_data"]["files"]["release/encryption.npy"]
        != before["gen_data"]["files"]["release/encryption.npy"]
    )


def test_verify_names_what_differs(copied_run: Path) -> None:
    known = manifest.digests(copied_run, "gen_data")
    assert manifest.compare(copied_run, known) == []
    (copied_run / "secret/mask.npy").unlink()
    label = load_array(copied_run / "release/label.npy")
    label[3, 0] += 1
    np.save(copied_run / "release/label.npy", label)
    wrong = manifest.compare(copied_run, known)
    assert len(wrong) == 2
    assert "label.npy" in wrong[0]
    assert wrong[1] == "secret/mask.npy: missing"


def test_regenerate_names_the_first_row_that_differs(copied_run: Path) -> None:
    command = [sys.executable, "-m", "instahide_nb.run.cli", "verify", "--regenerate", str(copied_run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "every bit the same" in done.stdout) == (0, True), done.stderr
    secret = copied_run / "secret"
    private = load_array(secret / "private.npy")
    pair = load_array(secret / "pair.npy")
    private[pair[0, 0], 0, 0, 0] ^= 1
    np.save(secret / "private.npy", private)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "encryption.npy, row 0" in done.stderr


def test_a_second_run_in_the_same_folder_stops(copied_run: Path) -> None:
    with open(copied_run / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run"):
            again(copied_run)


def test_a_failing_cell_is_one_line_and_a_partial_notebook(copied_run: Path) -> None:
    folder = copied_run.parent
    command = [sys.executable, "-m", "instahide_nb.run.cli", "reproduce", "--preset", "tiny", "--out", "run"]
    command += ["--method", "grey:broken", "-p", f"seed={SEED}", "-p", "encryptions_per_image=3"]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    line = done.stderr.strip()
    assert len(line.splitlines()) == 1, done.stderr
    assert "attack: cell" in line
    assert "RuntimeError: out of luck" in line
    partial = line.rpartition("partial notebook: ")[2].rstrip(")")
    assert "RuntimeError" in (folder / partial).read_text()
    assert not (folder / "run/attack/grey-broken/attack.json").exists()


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_presets_hold_each_parameter_once(notebook: str) -> None:
    for preset in pipeline.presets():
        content = read_yaml(ROOT / "params" / preset / f"{notebook}.yaml")
        assert tuple(content) == NOTEBOOKS[notebook].names()
        NOTEBOOKS[notebook].from_mapping(content)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_tiny_is_the_notebooks_default(notebook: str) -> None:
    import nbformat

    book = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", 4)
    (cell,) = [c for c in book.cells if "parameters" in c.metadata.get("tags", [])]
    values: dict[str, object] = {}
    exec(cell.source, values)
    del values["__builtins__"]
    tiny = read_yaml(ROOT / "params" / "tiny" / f"{notebook}.yaml")
    assert values == tiny == NOTEBOOKS[notebook]().as_dict()


def papermill(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_plain_papermill_from_another_folder(tmp_path: Path) -> None:
    tiny = ROOT / "params" / "tiny" / "gen_data.yaml"
    notebook = str(ROOT / "notebooks" / "gen_data.ipynb")
    done = papermill(tmp_path, notebook, "out.ipynb", "-f", str(tiny), "-p", "out_dir", "here")
    assert done.returncode == 0, done.stderr
    assert "unknown parameter" not in done.stderr.lower()
    assert (tmp_path / "here/release/release.json").exists()
    done = papermill(
        tmp_path, notebook, "bad.ipynb", "-f", str(tiny), "-p", "out_dir", "no", "-p", "sead", "1"
    )
    assert done.returncode != 0
    assert "did you mean seed" in done.stderr
    assert not (tmp_path / "no").exists()
