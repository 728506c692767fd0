"""A run that is killed, stopped or out of space leaves each artefact whole or absent, and goes on afterwards."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from forked_runs import forked, run_cells, small, small_plan, start

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import read_json, sha256_file
from instahide_nb.run import pipeline
from instahide_nb.run.manifest import digests, read_manifest

METHOD = "forked_runs-attack"
STAGES = ("gen_data", f"attack/{METHOD}", f"evaluate/{METHOD}")
KILLS = 12


def assert_whole_or_absent(run: Path, finished: Path) -> None:
    """Every hashed artefact that is there is the reference's, and everything else can be read."""
    for stage in STAGES:
        known = digests(finished, stage)
        for name, digest in digests(run, stage).items():
            assert digest == known[name], name
    for path in run.rglob("*.json"):
        read_json(path)
    for path in run.rglob("*.ipynb"):
        nbformat.read(path, 4)
    read_manifest(run)


def assert_finished(run: Path, finished: Path) -> None:
    """The run has all that the reference has, and no more."""
    assert read_manifest(run).stages == read_manifest(finished).stages
    assert read_manifest(run).begun is None
    assert_whole_or_absent(run, finished)
    names = {path.relative_to(run) for path in run.rglob("*") if path.suffix != ".log"}
    assert names == {path.relative_to(finished) for path in finished.rglob("*") if path.suffix != ".log"}


def test_kills_at_random_times(finished: Path, tmp_path: Path) -> None:
    assert forked(tmp_path / "timed") == (0, "")
    assert_finished(tmp_path / "timed", finished)
    text = max((tmp_path / "timed").glob("log/*.log")).read_text()
    seconds = [float(re.search(rf"INFO {stage} +([0-9.]+) s", text)[1]) for stage in STAGES]  # type: ignore[index]
    chance = random.Random(2020)
    found = []
    for number in range(KILLS):
        # A folder is killed four times in a row, then brought to its end.
        run = tmp_path / f"run{number // 4}"
        whole = len(read_manifest(run).stages)
        code, _ = forked(run, kill_after=chance.uniform(0, sum(seconds[whole:])))
        assert code in (0, -signal.SIGKILL)
        assert_whole_or_absent(run, finished)
        found.append((code, len(read_manifest(run).stages)))
        if number % 4 == 3:
            assert forked(run) == (0, "")
            assert_finished(run, finished)
    print(f"exit code and whole stages after each kill: {found}")
    killed = [stages for code, stages in found if code]
    assert len(killed) >= KILLS // 2, "most kills came after the end and tested nothing"


def test_files_that_cannot_grow_as_on_a_full_disk(finished: Path, tmp_path: Path) -> None:
    limits = (300, 20_000, 200_000)  # bytes: the first file, a picture, the encryptions
    for limit in limits:
        run = tmp_path / f"run{limit}"
        code, line = forked(run, limit=limit)
        assert_whole_or_absent(run, finished)
        assert not list(run.rglob("*.part")), "a file that cannot be written is removed at once"
        assert code == 2, line
        assert re.search(r"^\S+: cannot be written \(.+\); free space or choose another folder$", line), line
    assert forked(run) == (0, "")
    assert_finished(run, finished)


def test_a_drawn_seed_that_was_never_announced_is_drawn_again(tmp_path: Path, in_process: pytest.MonkeyPatch) -> None:
    run, plan = tmp_path / "run", small_plan(tmp_path / "run", seed="entropy")

    def killed(*words: object) -> None:
        raise KeyboardInterrupt

    with in_process.context() as patch:
        patch.setattr(pipeline, "record_stage", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.reproduce(plan, lambda line: None)
    first = sha256_file(run / "secret/secret.json")
    pipeline.reproduce(plan, lambda line: None)
    announced = sha256_file(run / "secret/secret.json")
    assert announced != first
    # From here on it is kept: a damaged release is not replaced by another challenge, however often one tries.
    (run / "release/label.npy").unlink()
    for _ in range(2):
        with pytest.raises(InputError, match="random seed is stored nowhere else"):
            pipeline.reproduce(plan, lambda line: None)
        assert sha256_file(run / "secret/secret.json") == announced


def test_a_challenge_that_was_made_by_hand_is_not_given_up(tmp_path: Path, in_process: object) -> None:
    run, plan = tmp_path / "run", small_plan(tmp_path / "run", rng="chacha20")
    run.mkdir()
    run_cells("gen_data", plan.gen_data.as_dict(), tmp_path / "out.ipynb", cwd=run)
    kept = sha256_file(run / "secret/secret.json")
    for _ in range(2):
        with pytest.raises(InputError, match="random seed is stored nowhere else"):
            pipeline.reproduce(plan, lambda line: None)
    assert sha256_file(run / "secret/secret.json") == kept


# With papermill and real kernels.

SLEEPY = """
import os, time
from pathlib import Path
import forked_runs

def attack(release, public):
    flag = Path(os.environ["SLEEPY"])
    if not flag.exists():
        flag.write_text(str(os.getpid()))
        time.sleep(600)
    return forked_runs.attack(release, public)
"""


@pytest.fixture
def sleepy(finished: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that has its challenge, and whose attack sleeps for ten minutes, the first time."""
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("log"))
    process = start(tmp_path, finished.parent, "sleepy:attack", SLEEPY=str(tmp_path / "asleep"))
    yield process
    process.kill()
    process.communicate()


def wait_until_asleep(process: subprocess.Popen[str], folder: Path) -> int:
    end = time.monotonic() + 120
    while not (folder / "asleep").exists() or not (folder / "asleep").read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the attack never began"
        time.sleep(0.05)
    return int((folder / "asleep").read_text())


def ended(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_a_run_after_a_kill_waits_for_the_orphaned_kernel(
    sleepy: subprocess.Popen[str], finished: Path, tmp_path: Path, in_process: pytest.MonkeyPatch
) -> None:
    run, kernel, lines = tmp_path / "run", wait_until_asleep(sleepy, tmp_path), list[str]()
    in_process.syspath_prepend(tmp_path)
    in_process.setenv("SLEEPY", str(tmp_path / "asleep"))
    plan = pipeline.make_plan("tiny", ["sleepy:attack"], run, small(finished.parent))
    with pytest.raises(InputError, match="another run is at work in this folder"):
        pipeline.reproduce(plan, lines.append)
    assert lines == []
    sleepy.kill()
    sleepy.wait()
    pipeline.reproduce(plan, lines.append)
    assert ended(kernel)
    assert lines[0].split() == ["gen_data", "already", "there"]
    assert "already there" not in lines[1] + lines[2]
    assert digests(run, "gen_data") == digests(finished, "gen_data")
    arrays = {Path(name).name: digest for name, digest in digests(run, "attack/sleepy-attack").items()}
    assert arrays == {Path(name).name: digest for name, digest in digests(finished, STAGES[1]).items()}
    assert not list(run.rglob("*.part"))


def test_control_c_ends_the_kernel_and_says_one_line(sleepy: subprocess.Popen[str], tmp_path: Path) -> None:
    kernel = wait_until_asleep(sleepy, tmp_path)
    sleepy.send_signal(signal.SIGINT)
    out, err = sleepy.communicate(timeout=60)
    assert sleepy.returncode == 1
    assert err == "instahide-nb: interrupted; run again to continue\n"
    assert out.split()[0] == "gen_data"
    assert ended(kernel)
    run = tmp_path / "run"
    assert "attack/sleepy-attack" not in read_manifest(run).stages
    assert not list(run.rglob("*.part"))
    (log,) = run.glob("log/*.log")
    assert "stopped: KeyboardInterrupt" in log.read_text()


@pytest.mark.slow
def test_a_kernel_that_is_killed_is_one_line(sleepy: subprocess.Popen[str], tmp_path: Path) -> None:
    os.kill(wait_until_asleep(sleepy, tmp_path), signal.SIGKILL)
    _, err = sleepy.communicate(timeout=60)
    assert sleepy.returncode == 1
    (line,) = err.splitlines()
    assert line.startswith("instahide-nb: attack: its process was killed, perhaps because memory ran out")
