"""A run's folder: one run at a time, a log of each, and what notebooks cost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from instahide_nb.core.errors import InputError
from instahide_nb.core.runs import Usage, locked, logged, logger, note_usage, read_usage, remove_leftovers, usage_of

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux keeps a process's peak")
ONE = Usage(seconds=2.5, processor_seconds=3.25, peak_mib=400, machine="2 x Some Processor, 24 GiB")


@LINUX
def test_the_peak_is_kept_after_the_memory_was_given_back() -> None:
    code = "b = bytearray(300 << 20); b[::4096] = b'1' * len(b[::4096]); del b; print('done', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        seconds, peak = usage_of(process.pid)
        now = int(re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1024
        process.communicate(b"\n")
    assert peak is not None
    assert now < 100 < 300 <= peak < 400
    assert seconds is not None
    assert 0 < seconds < 60
    assert usage_of(process.pid) == (None, None), "the process is gone"


def test_a_damaged_file_stops_nobody(tmp_path: Path) -> None:
    negative = json.dumps({"a": ONE.as_dict() | {"seconds": -1}})
    for stages in ("", "[]", '{"a": 1}', '{"a": {"seconds": 1}}', negative):
        (tmp_path / "resources.json").write_text(f'{{"stages": {stages}}}')
        assert read_usage(tmp_path / "resources.json") == {}
        note_usage(tmp_path, "gen_data", ONE, ["gen_data"])
        assert read_usage(tmp_path / "resources.json") == {"gen_data": ONE}


def test_a_second_run_in_the_folder_is_refused_or_waits(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another run is at work"), locked(tmp_path):
        pass
    with locked(tmp_path), locked(tmp_path, ".other", wait=True):
        pass
    with pytest.raises(InputError, match="cannot be written"), locked(tmp_path / "missing"):
        pass


def test_only_temporary_files_in_the_runs_own_folders_are_removed(tmp_path: Path) -> None:
    ours = [".a.npy.x.part", "attack/unmask/.b.npy.y.part"]
    others = ["a.part", "mine/.c.npy.z.part", "attack/unmask/b.npy"]
    for name in ours + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert remove_leftovers(tmp_path) == ours
    assert all((tmp_path / name).exists() for name in others)


def test_each_run_has_a_log_of_its_own_for_its_owner_only(tmp_path: Path) -> None:
    for number in range(3):
        with logged(tmp_path) as path:
            logger.info("run %d", number)
        assert path.read_text().endswith(f"Z INFO run {number}\n")
        assert path.stat().st_mode & 0o777 == 0o600
    assert len(list((tmp_path / "log").iterdir())) == 3
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
