"""What notebooks cost: read from the process itself, kept beside a run, never in the way of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from instahide_nb.core.files import Usage, machine_line, note_usage, read_usage, usage_of

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux keeps a process's peak")
ONE = Usage(2.5, 3.25, 400, "2 x Some Processor, 24 GiB")


@LINUX
def test_the_peak_is_kept_after_the_memory_was_given_back() -> None:
    code = "b = bytearray(300 << 20); b[::4096] = b'1' * len(b[::4096]); del b; print('done', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        seconds, peak = usage_of(process.pid)
        now = int(re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1024
        process.communicate(b"\n")
    assert peak is not None
    assert 300 <= peak < 400
    assert now < 100
    assert seconds is not None
    assert 0 < seconds < 60


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert usage_of(process.pid) == (None, None)


def test_stages_are_kept_until_they_are_known_no_more(tmp_path: Path) -> None:
    note_usage(tmp_path, "gen_data", ONE, ["gen_data"])
    note_usage(tmp_path, "attack/a", ONE, ["gen_data", "attack/a"])
    other = Usage(1.0, None, None, "elsewhere")
    note_usage(tmp_path, "gen_data", other, ["gen_data"])
    assert read_usage(tmp_path / "resources.json") == {"gen_data": other}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"stages": []}',
        '{"stages": {"a": 1}}',
        '{"stages": {"a": {"seconds": 1}}}',
        '{"stages": {"a": {"seconds": "1", "processor_seconds": 1, "peak_mib": 1, "machine": "x"}}}',
        '{"stages": {"a": {"seconds": -1, "processor_seconds": 1, "peak_mib": 1, "machine": "x"}}}',
    ],
)
def test_a_damaged_file_stops_nobody(content: str, tmp_path: Path) -> None:
    (tmp_path / "resources.json").write_text(content)
    assert read_usage(tmp_path / "resources.json") == {}
    note_usage(tmp_path, "gen_data", ONE, ["gen_data"])
    assert read_usage(tmp_path / "resources.json") == {"gen_data": ONE}


def test_the_machine_in_one_line() -> None:
    line = machine_line()
    assert re.fullmatch(r"\d+ x .+, \d+ GiB, \w+ \w+, Python 3\.[\d.]+\S*, numpy [\d.]+\S*", line)
    assert os.uname().nodename not in line
