"""Whole runs: through papermill, and (where only files matter) with the notebooks' cells in this process."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest
from forked_runs import small, small_plan, start
from papermill import PapermillExecutionError, execute_notebook, inspect_notebook

import instahide_nb
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, read_json, sha256_file
from instahide_nb.core.params import NOTEBOOKS, read_yaml
from instahide_nb.evaluate.leaderboard import to_text
from instahide_nb.run import pipeline

ROOT = Path(__file__).parents[2]
SEED = 3141592653  # its digits occur nowhere by chance
ATTACK, EVALUATE = "attack/forked_runs-attack", "evaluate/forked_runs-attack"
BROKEN = 'def attack(release, public):\n    raise RuntimeError("out of\\nluck")\n'


def verify(run: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "instahide_nb.run.cli", "verify", *words, str(run)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run through papermill, with an attack from outside the package."""
    folder = tmp_path_factory.mktemp("real")
    process = start(folder, folder, "forked_runs:attack")
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    return folder / "run"


def again(run: Path, *methods: str, **changes: object) -> list[str]:
    """What a run says of its stages when it is asked for once more."""
    said: list[str] = []
    pipeline.reproduce(small_plan(run, *methods, **changes), said.append)
    return ["there" if "already there" in line else "made" for line in said]


def test_files_and_costs_of_a_run_are_those_of_the_contract(real_run: Path) -> None:
    files = {path.relative_to(real_run).as_posix() for path in real_run.rglob("*") if path.is_file()}
    expected = {
        "release": "encryption.npy label.npy release.json",
        "secret": "private.npy private_label.npy pair.npy coefficient.npy public.npy public_index.npy mask.npy "
        "secret.json gen_data.ipynb",
        ATTACK: "decryption.npy recovered.npy assignment.npy attack.json attack.ipynb",
        EVALUATE: "metrics.json per_encryption.npy comparison_grid.png overview.png row.json evaluate.ipynb",
        ".": "leaderboard.md leaderboard.json manifest.json resources.json",
    }
    assert files >= {(Path(f) / name).as_posix() for f, names in expected.items() for name in names.split()}
    assert not [name for name in files if name.endswith(".part") or (name.startswith("log/") and ".ipynb" in name)]

    stages = read_json(real_run / "resources.json")["stages"]
    assert set(stages) == {"gen_data", ATTACK, EVALUATE}
    for stage in stages.values():
        assert 0 < stage["seconds"] < 600
        assert stage["peak_mib"] is None or 50 < stage["peak_mib"] < 4000
    if Path("/proc/self/status").exists():
        assert all(stage["peak_mib"] and stage["processor_seconds"] for stage in stages.values())
    assert "resources" not in (real_run / "manifest.json").read_text()


def test_nothing_published_tells_a_secret(real_run: Path) -> None:
    private = load_array(real_run / "secret/private.npy")
    needles = [str(SEED).encode(), hex(SEED)[2:].encode(), SEED.to_bytes(4, "little")]
    needles += [str(real_run.parent).encode(), str(Path.home()).encode() + b"/", str(ROOT).encode()]
    needles += [image.tobytes() for image in private]
    published = [p for part in ("release", "attack") for p in (real_run / part).rglob("*") if p.is_file()]
    assert len(published) >= 8
    for path in published:
        data = path.read_bytes()
        assert not [needle for needle in needles if needle in data], path
    assert str(SEED).encode() in (real_run / "secret/gen_data.ipynb").read_bytes()
    assert str(SEED) not in (real_run / "manifest.json").read_text()
    for path in (real_run / "secret").rglob("*"):
        assert path.is_dir() or not path.stat().st_mode & 0o077 or path.parent.name == "figures", path
    assert not (real_run / "secret").stat().st_mode & 0o077


def test_only_what_is_damaged_is_run_again(copied: Path, in_process: object) -> None:
    before = (copied / "manifest.json").read_bytes()
    assert again(copied) == ["there"] * 3
    decryption = copied / ATTACK / "decryption.npy"
    decryption.write_bytes(decryption.read_bytes()[:-1])
    (copied / EVALUATE / "metrics.json").unlink()
    assert again(copied) == ["there", "made", "made"]
    assert (copied / "manifest.json").read_bytes() == before
    encryption = sha256_file(copied / "release/encryption.npy")
    assert again(copied, seed=SEED - 1) == ["made"] * 3
    assert sha256_file(copied / "release/encryption.npy") != encryption


def test_a_failing_cell_is_one_line_and_a_partial_notebook(copied: Path) -> None:
    folder = copied.parent
    (folder / "broken.py").write_text(BROKEN)
    process = start(folder, folder, "broken:attack", copied.name)
    _, err = process.communicate()
    assert process.returncode == 1
    (line,) = err.strip().splitlines()
    assert "attack: cell" in line
    assert "RuntimeError: out of luck" in line
    partial = line.rpartition("partial notebook: ")[2].rstrip(")")
    assert "RuntimeError" in (folder / partial).read_text()
    assert not (copied / "attack/broken-attack/attack.json").exists()


def test_an_attack_that_does_not_find_the_generator_is_unranked(tmp_path: Path, in_process: pytest.MonkeyPatch) -> None:
    run, methods = tmp_path / "run", ("forked_runs:lost", "forked_runs:attack")
    assert again(run, *methods) == ["made"] * 5
    assert not (run / "attack/forked_runs-lost/decryption.npy").exists()
    assert {path.name for path in (run / "evaluate/forked_runs-lost").iterdir()} == {"row.json"}
    rows = {row.attack: row for row in pipeline.leaderboard_rows(run)}
    assert rows["forked_runs-lost"].max_ssim is None
    assert rows["forked_runs-attack"].max_ssim is not None
    assert "nothing there" in (run / "leaderboard.md").read_text()
    (line,) = [line for line in to_text(list(rows.values())).splitlines() if "lost" in line]
    assert not line[:3].strip(), "no rank"
    assert verify(run).returncode == 0
    assert again(run, *methods) == ["there"] * 4
    # Found after all, and lost again: nothing of the scored answer stays.
    (run / "attack/forked_runs-lost/attack.json").unlink()
    in_process.setenv("FOUND", "1")
    assert again(run, *methods) == ["there", "made", "made", "there", "there"]
    assert (run / "evaluate/forked_runs-lost/comparison_grid.png").exists()
    (run / "attack/forked_runs-lost/attack.json").unlink()
    in_process.delenv("FOUND")
    assert again(run, *methods) == ["there", "made", "made", "there", "there"]
    assert {path.name for path in (run / "evaluate/forked_runs-lost").iterdir()} == {"row.json"}


def test_methods_that_cannot_attack_the_scheme_are_named_and_the_others_run(tmp_path: Path, in_process: object) -> None:
    methods = ("prng-seed", "carlini-v2", "forked_runs:attack")
    plan = small_plan(tmp_path / "run", *methods, scheme="inside", labels="none")
    assert list(plan.left_out()) == ["prng-seed", "carlini-v2"]
    said: list[str] = []
    pipeline.reproduce(plan, said.append)
    assert "left out: prng-seed needs labels with coefficients; the labels of this release are" in said[1]
    assert "left out: carlini-v2 attacks encryptions of the scheme cross with two private images" in said[2]
    assert (tmp_path / "run" / EVALUATE / "metrics.json").exists()
    with pytest.raises(InputError, match="carlini-v1 needs labels"):
        pipeline.reproduce(small_plan(tmp_path / "none", "carlini-v1", labels="none"))
    assert not (tmp_path / "none").exists()


def test_a_file_that_an_option_names_is_found_from_the_run_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "optioned.py").write_text("def attack(release, public, *, weights): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    method = "optioned:attack:weights=weights.npy"
    with pytest.raises(InputError, match=r"^method: weights: no file weights\.npy"):
        pipeline.make_plan("tiny", [method], "runs/a")
    (tmp_path / "weights.npy").touch()
    attack, evaluate = pipeline.make_plan("tiny", [method], "runs/a").attacks[0]
    assert attack.method == "optioned:attack:weights=../../weights.npy"
    assert attack.out_dir == "attack/optioned-attack-weights-weights.npy"
    assert evaluate.decryption == f"{attack.out_dir}/decryption.npy"


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_presets_name_each_parameter_and_tiny_is_the_notebooks_default(notebook: str) -> None:
    for preset in pipeline.presets():
        content = read_yaml(ROOT / "params" / preset / f"{notebook}.yaml")
        assert tuple(content) == NOTEBOOKS[notebook].names()
        NOTEBOOKS[notebook](**content)
    book = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", 4)
    (cell,) = [c for c in book.cells if "parameters" in c.metadata.get("tags", [])]
    values: dict[str, object] = {}
    exec(cell.source, values)
    own = {name: value for name, value in values.items() if not name.startswith("__")}
    tiny = read_yaml(ROOT / "params" / "tiny" / f"{notebook}.yaml")
    assert own == tiny == NOTEBOOKS[notebook](**{}).as_dict()


def papermill(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    words = (sys.executable, "-m", "papermill", "--no-progress-bar", *words)
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


def test_plain_papermill_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(ROOT / "notebooks/gen_data.ipynb"), "out.ipynb", "-f", str(ROOT / "params/tiny/gen_data.yaml")]
    for name, value in (small(tmp_path) | {"out_dir": "here"}).items():
        words += ["-p", name, str(value)]
    done = papermill(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "unknown parameter" not in done.stderr.lower()
    assert "without encryption" not in done.stderr
    assert (tmp_path / "here/release/release.json").exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PapermillExecutionError, match="did you mean seed"):
        execute_notebook(words[0], "typo.ipynb", {"out_dir": "no", "sead": 1}, progress_bar=False)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_papermill_s_help_knows_each_parameter(notebook: str) -> None:
    found = inspect_notebook(str(ROOT / "notebooks" / f"{notebook}.ipynb"))
    assert tuple(found) == NOTEBOOKS[notebook].names()
    assert [entry["inferred_type_name"] for entry in found.values()].count("None") == 0, "Unknown type"
    assert all(entry["help"] for entry in found.values())


def make(*words: str) -> str:
    """What make would do."""
    words = ("make", "-n", "-o", ".venv/ready", *words)
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_make_quotes_the_folder_and_lets_root_open_jupyterlab() -> None:
    assert '--out "runs/with space"' in make("reproduce", "OUT=runs/with space")
    assert 'figures "runs/with space"' in make("figures", "OUT=runs/with space")
    assert ("--allow-root" in make("lab")) == (os.getuid() == 0)


def test_numba_gets_a_cache_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    instahide_nb._provide_numba_cache()
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setattr(instahide_nb, "_writable", lambda folder: False)
    instahide_nb._provide_numba_cache()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).is_dir()
    monkeypatch.undo()
    assert not instahide_nb._writable(str(Path(__file__) / "below a file")) or os.getuid() == 0
    assert not instahide_nb._writable("~/no home")


def test_an_installed_package_has_its_notebooks_and_presets(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "from instahide_nb.run import notebooks, pipeline; print(notebooks.home(), *pipeline.presets())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "site/instahide_nb"), "challenge", "demo", "tiny", "training"]
    assert (tmp_path / "site/instahide_nb/notebooks/attack.ipynb").is_file()
    assert list(tmp_path.glob("site/*.data/data/etc/ipython/ipython_kernel_config.py"))


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment_reproduces_tiny(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    # The libraries are those of this environment, behind the wheel's own files.
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    words = [python.with_name("instahide-nb"), "reproduce", "--preset", "tiny", "--out", "run"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(ROOT) not in "".join(path.read_text() for path in (tmp_path / "run").rglob("*.ipynb"))
