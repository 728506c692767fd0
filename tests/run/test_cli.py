"""The command line: what it prints, its exit codes, and that refused input leaves nothing written."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from forked_runs import small
from typer.testing import CliRunner, Result

from instahide_nb.core.files import load_array
from instahide_nb.run import cli
from instahide_nb.run.cli import app


def call(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command in an empty folder; the one line that it says, with exit code 2 and nothing written."""

    def refuse(*words: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["instahide-nb", *words])
        before = sorted(tmp_path.iterdir())
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        (line,) = said.err.strip().splitlines()
        assert (stop.value.code, said.out, sorted(tmp_path.iterdir())) == (2, "", before)
        return str(line)

    return refuse


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--preset nosuch", "preset"),
        ("--method no.such:attack", "method"),
        ("-p sede=1", "did you mean seed"),
        ("-p nosuch.k=4", "nosuch.k"),
        ("-p k=four", "k: 'four' is not accepted; it should be a valid integer"),
        ("-p seed=2e3", "seed: '2e3' is not a seed; give 0 .. 4294967295"),
        ("-p max_coefficient=1e-3", "0.001"),
        ("-p seed_start=5 -p seed_stop=5", "seed_start"),
        ("-p out_dir=elsewhere", "out_dir"),
        ("-p attack.release_dir=elsewhere", "release_dir"),
        ("-p private_source=nosuch.npz", "nosuch.npz"),
        ("-p attack.public_source=nosuch.npz", "nosuch.npz"),
        ("--record -p k=3", "--record"),
    ],
)
def test_reproduce_refuses(words: str, named: str, refused: Callable[..., str]) -> None:
    assert named in refused("reproduce", "--preset", "tiny", "--out", "run", *words.split())


@pytest.mark.parametrize(
    "words",
    [
        "verify nowhere",
        "verify --regenerate nowhere",
        "verify --record nowhere",
        "score nothing.npy --release nowhere --secret nowhere",
        "submit nowhere",
    ],
)
def test_commands_refuse_missing_input(words: str, refused: Callable[..., str]) -> None:
    assert "nowhere" in refused(*words.split())


def test_out_that_cannot_be_written(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "file" in refused("reproduce", "--preset", "tiny", "--out", "file/run")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_help_and_version_name_what_there_is_and_other_options_are_wrong_input() -> None:
    for word in ("reproduce", "verify", "score", "submit", "figures", "sweep"):
        assert word in call("--help").stdout
    assert call("--version").stdout.startswith("instahide-nb ")
    assert call("--nosuch").exit_code == call().exit_code == 2


# Of a finished run

FOLDER = "forked_runs-attack"


def test_verify_counts_what_is_as_it_was(copied: Path) -> None:
    result = call("verify", copied)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "verified: 17 artefacts are as the run's manifest says\n"


def test_verify_names_each_file_that_is_not(copied: Path) -> None:
    image = load_array(copied / f"attack/{FOLDER}/recovered.npy")
    np.save(copied / f"attack/{FOLDER}/recovered.npy", -image)
    (copied / f"evaluate/{FOLDER}/overview.png").write_bytes(b"no picture")
    (copied / "release/label.npy").unlink()
    result = call("verify", copied)
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("differs: ") for line in lines)
    for name, what in (("recovered.npy", "expected"), ("overview.png", "picture"), ("label.npy", "missing")):
        assert any(name in line and what in line for line in lines), lines


def test_score_gives_the_rank(copied: Path) -> None:
    halves = ("--release", copied / "release", "--secret", copied / "secret")
    result = call("score", copied / f"attack/{FOLDER}/decryption.npy", *halves)
    assert result.exit_code == 0, result.output
    assert "Rank       4 of 4, below Carlini et al. ver.2" in result.stdout
    perfect = load_array(copied / "secret/private.npy")[load_array(copied / "secret/pair.npy")[:, 0]]
    np.save(copied / "perfect.npy", (2 * perfect.astype(np.float64) / 255 - 1).astype(np.float32))
    result = call("score", copied / "perfect.npy", *halves)
    assert "Max_SSIM   1.0000" in result.stdout
    assert "Rank       1 of 4" in result.stdout


def test_submit_names_the_zip(copied: Path) -> None:
    result = call("submit", copied / f"attack/{FOLDER}")
    assert result.exit_code == 0, result.output
    assert Path(result.stdout.strip()).is_file()


def test_regenerate_names_the_first_row_that_differs(copied: Path) -> None:
    assert "every bit the same" in call("verify", copied, "--regenerate").stdout
    private, pair = (load_array(copied / "secret" / f"{name}.npy") for name in ("private", "pair"))
    private[pair[0, 0], 0, 0, 0] ^= 1
    np.save(copied / "secret" / "private.npy", private)
    result = call("verify", copied, "--regenerate")
    assert (result.exit_code, "encryption.npy, row 0" in result.stderr) == (1, True)


def test_quiet_and_verbose(copied: Path, in_process: object) -> None:
    parameters = small(copied.parent)
    words = ["reproduce", "--preset", "tiny", "--out", str(copied), "--method", "forked_runs:attack"]
    words += [f"-p{name}={value}" for name, value in parameters.items()]
    logs = list((copied / "log").glob("*.log"))

    def reproduce(*more: str) -> tuple[Result, str]:
        result = CliRunner().invoke(app, [*words, *more])
        assert result.exit_code == 0, result.output
        (log,) = set((copied / "log").glob("*.log")) - set(logs)
        logs.append(log)
        return result, log.read_text()

    quiet, _ = reproduce("-q")
    assert quiet.output == ""
    usual, text = reproduce()
    assert usual.stderr == ""
    stages = [line.split()[0].partition("/")[0] for line in usual.stdout.splitlines()[:3]]
    assert stages == ["gen_data", "attack", "evaluate"]
    verbose, text = reproduce("-v")
    assert verbose.stdout == usual.stdout
    lines = [re.sub(r"^\S+ [A-Z]+ ", "", line) for line in text.splitlines()]
    assert verbose.stderr.splitlines() == lines
    assert any(re.search("[0-9a-f]{16}", line) for line in lines), "hashes are shown"
    for log in logs:
        assert str(parameters["seed"]) not in log.read_text()
