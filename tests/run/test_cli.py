"""The command line: what it refuses, how it says so, and that nothing is written then."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from instahide_nb.attacks.result import AttackResult, save_result
from instahide_nb.challenge.build import build_challenge, save_challenge
from instahide_nb.challenge.release import load_release
from instahide_nb.challenge.secret import check_halves
from instahide_nb.core.params import GenDataParams
from instahide_nb.run import cli


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["instahide-nb", *words])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--preset", "nosuch"], "preset"),
        (["--method", "nosuch"], "method"),
        (["--method", "no.such:attack"], "method"),
        (["-p", "nosuch=1"], "nosuch"),
        (["-p", "sede=1"], "did you mean seed"),
        (["-p", "gen_data.nosuch=1"], "nosuch"),
        (["-p", "nosuch.k=4"], "nosuch.k"),
        (["-p", "k"], "name=value"),
        (["-p", "k=four"], "k"),
        (["-p", "k=1"], "k"),
        (["-p", "k=17"], "k"),
        (["-p", "k=4.0"], "k"),
        (["-p", "k=true"], "k"),
        (["-p", "seed=-1"], "seed"),
        (["-p", "seed=4294967296"], "seed"),
        (["-p", "seed=random"], "seed"),
        (["-p", "rng=xorshift"], "rng"),
        (["-p", "key=abc"], "key"),
        (["-p", "rng=chacha20", "-p", "key=abc"], "key"),
        (["-p", "scheme=outside"], "scheme"),
        (["-p", "scheme=mixup"], "k"),
        (["-p", "max_coefficient=0.25"], "max_coefficient"),
        (["-p", "max_coefficient=1.5"], "max_coefficient"),
        (["-p", "max_coefficient=1e-3"], "0.001"),
        (["-p", "max_coefficient=.nan"], "max_coefficient"),
        (["-p", "min_private_sum=1.1"], "min_private_sum"),
        (["-p", "max_coefficient=0.3", "-p", "min_private_sum=0.6"], "min_private_sum"),
        (["-p", "n_private=1"], "n_private"),
        (["-p", "gen_data.n_public=10"], "n_public"),
        (["-p", "attack.n_public=0"], "n_public"),
        (["-p", "seed_start=5", "-p", "seed_stop=5"], "seed_start"),
        (["-p", "out_dir=elsewhere"], "out_dir"),
        (["-p", "method=unmask"], "method"),
        (["-p", "attack.release_dir=elsewhere"], "release_dir"),
        (["-p", "private_source=nosuch.npz"], "nosuch.npz"),
        (["-p", "private_source=nosuch"], "nosuch"),
        (["-p", "public_source=nosuch"], "nosuch"),
        (["-p", "attack.public_source=nosuch.npz"], "nosuch.npz"),
        (["--record", "-p", "k=3"], "--record"),
    ],
)
def test_reproduce_refuses(
    words: list[str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "reproduce", "--preset", "tiny", "--out", str(out), *words) == 2
    said = capsys.readouterr()
    lines = said.err.strip().splitlines()
    assert len(lines) == 1, said.err
    assert named in lines[0]
    assert "Traceback" not in said.out + said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "nowhere"],
        ["verify", "--regenerate", "nowhere"],
        ["verify", "--record", "nowhere"],
        ["score", "nothing.npy", "--release", "nowhere", "--secret", "nowhere"],
        ["submit", "nowhere"],
    ],
)
def test_commands_refuse_missing_input(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 2
    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1
    assert "nowhere" in said.err
    assert list(tmp_path.iterdir()) == []


def test_out_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert run(monkeypatch, "reproduce", "--preset", "tiny", "--out", str(tmp_path / "file" / "run")) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "not a folder"


def test_unknown_option_is_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "instahide_nb.run.cli", "--nosuch"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help_and_version_name_what_there_is() -> None:
    command = [sys.executable, "-m", "instahide_nb.run.cli"]
    text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    for word in ("reproduce", "verify", "score", "submit", "sweep"):
        assert word in text
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("instahide-nb ")


def test_a_secret_of_another_challenge_is_refused(
    saved_run: Path,
    gen_data_params: GenDataParams,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = build_challenge(gen_data_params.changed(seed=1))
    save_challenge(tmp_path / "other", other)
    fewer = build_challenge(gen_data_params.changed(encryptions_per_image=4))
    save_challenge(tmp_path / "fewer", fewer)
    np.save(tmp_path / "d.npy", np.zeros_like(other.release.encryption))
    words = ["score", str(tmp_path / "d.npy"), "--release", str(saved_run / "release"), "--secret"]
    for run_of, named in (
        ("other", r"labels fit \d+ of 35 rows"),
        ("fewer", "28 encryptions .* the release of 35"),
    ):
        assert run(monkeypatch, *words, str(tmp_path / run_of / "secret")) == 2
        said = capsys.readouterr().err
        assert re.search(named, said), said
    assert run(monkeypatch, *words, str(saved_run / "secret")) == 0
    assert "Rank" in capsys.readouterr().out


@pytest.mark.parametrize("scheme", ["cross", "inside", "mixup"])
def test_both_halves_of_a_challenge_fit_with_rounded_labels(
    scheme: str, gen_data_params: GenDataParams
) -> None:
    made = build_challenge(gen_data_params.changed(scheme=scheme, k=2 if scheme == "mixup" else 4))
    check_halves(made.release, made.secret)
    check_halves(replace(made.release, label=made.release.label.round(2)), made.secret)


def test_a_submission_takes_its_source_from_where_it_is_said_to_be(
    saved_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = load_release(saved_run / "release")
    n = len(release.encryption)
    answer = np.zeros((n, *release.encryption.shape[1:]), np.float32)
    save_result(
        tmp_path / "attack",
        AttackResult("far_away:attack", answer, np.zeros((n, 2), np.int64), answer, "O(1)"),
    )
    assert run(monkeypatch, "submit", str(tmp_path / "attack")) == 2
    assert "--source" in capsys.readouterr().err
    (tmp_path / "far_away.py").write_text("def attack(release, public): ...\n")
    assert (
        run(monkeypatch, "submit", str(tmp_path / "attack"), "--source", str(tmp_path / "far_away.py")) == 0
    )
    with zipfile.ZipFile(tmp_path / "attack-submission.zip") as archive:
        assert archive.read("source/far_away.py").startswith(b"def attack")
        assert b"not stated of wall time" not in archive.read("description.md")
