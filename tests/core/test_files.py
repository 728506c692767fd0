"""Files are whole or absent, say what is wrong with them in one line, and never run what they hold."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instahide_nb.core import files
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import (
    load_array,
    make_folder,
    read_json,
    save_array,
    sha256_array,
    sha256_file,
    write_bytes,
    write_json,
)

plain_arrays = hnp.arrays(
    st.sampled_from(["u1", "i4", "<i8", ">i8", "<f4", ">f4", "f8", "?", "u2"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


def refusal(read: Any, path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def with_header(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    width = 2 if version == b"\x01\x00" else 4
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text + data


@given(plain_arrays)
def test_arrays_come_back_as_they_were(array: np.ndarray[Any, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npy"
        save_array(path, array)
        back = load_array(path)
        assert np.load(path).shape == array.shape  # numpy reads the same
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("=")
    assert back.tobytes() == array.astype(array.dtype.newbyteorder("=")).tobytes()
    assert back.flags.c_contiguous
    assert back.flags.writeable
    little = array.astype(array.dtype.newbyteorder("<"))
    text = f"{little.dtype.str} {tuple(array.shape)}\n".encode()
    assert sha256_array(array) == hashlib.sha256(text + little.tobytes()).hexdigest()


@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_bytes_depend_on_values_alone_and_other_writers_are_read(
    dtype: str, order: Any, tmp_path: Path
) -> None:
    values = np.arange(12, dtype="f4").reshape(3, 4)
    other = np.asarray(values, dtype=dtype, order=order)
    save_array(tmp_path / "a.npy", other)
    assert (tmp_path / "a.npy").read_bytes() == npy(values)
    assert sha256_array(other) == sha256_array(values)
    (tmp_path / "a.npy").write_bytes(npy(other))
    back = load_array(tmp_path / "a.npy", dtype="f4", shape=(3, None))
    assert (back == values).all()
    assert back.dtype.isnative
    assert back.flags.c_contiguous


@pytest.mark.filterwarnings("error")
def test_older_and_newer_headers_are_read_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    python_2 = "{'descr': '<i4', 'fortran_order': False, 'shape': (2L, 1L), }"
    for header, version in ((python_2, b"\x01\x00"), (python_2.replace("L", ""), b"\x02\x00")):
        path.write_bytes(with_header(header, np.array([5, 6], "<i4").tobytes(), version))
        assert load_array(path).tolist() == [[5], [6]]


def test_another_shape_or_dtype_is_refused(tmp_path: Path) -> None:
    save_array(tmp_path / "a.npy", np.zeros((3, 4), np.float32))
    for shape in ((3, 4, 1), (None, 5), (None, None, None)):
        assert "has shape (3, 4); (" in refusal(load_array, tmp_path / "a.npy", shape=shape)
    for dtype in ("float64", "int32"):
        assert f"holds float32; {dtype} is expected" in refusal(load_array, tmp_path / "a.npy", dtype=dtype)


class Trap:
    """Unpickling this would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_is_ever_pickled_or_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    with pytest.raises(ValueError, match="allow_pickle"):
        save_array(tmp_path / "a.npy", np.array([None]))
    assert not list(tmp_path.iterdir())
    for content in (
        npy(np.array([Trap(trap)], dtype=object), allow_pickle=True),
        __import__("pickle").dumps(Trap(trap)),
        npy(np.array([(1, Trap(trap))], dtype=[("a", "i4"), ("b", "O")]), allow_pickle=True),
    ):
        (tmp_path / "a.npy").write_bytes(content)
        refusal(load_array, tmp_path / "a.npy")
    assert not trap.exists()


GOOD = npy(np.arange(6, dtype="<f4").reshape(2, 3))
FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}"
DAMAGED = {
    "empty": b"",
    "web page": b"\n<!DOCTYPE html><html>",
    "header cut": GOOD[:40],
    "one byte short": GOOD[:-1],
    "one byte long": GOOD + b"\0",
    "version 3": with_header(FLOATS % "1,", bytes(4), b"\x03\x00"),
    "header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
    "header of 60 kB": with_header(" " * 60_000),
    "huge shape": with_header(FLOATS % "100000, 100000", bytes(4)),
    "huge shape of none": with_header(FLOATS % f"0, {10**30}"),
    "overflowing shape": with_header(FLOATS % f"{2**62}, 0, 4"),
    "negative shape": with_header(FLOATS % "-1, -1", bytes(4)),
    "items of no size": with_header("{'descr': '<U0', 'fortran_order': False, 'shape': (3,)}"),
    "structured": npy(np.zeros(3, [("a", "<f4"), ("b", "<i4")])),
    "code in the header": with_header("__import__('os').system('false')"),
    "deep": with_header("(" * 5000),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_arrays_are_refused_in_one_line_and_little_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(DAMAGED[name])
    tracemalloc.start()
    try:
        message = refusal(load_array, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(message) < len(str(path)) + 500
    assert peak < 2**22
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("read", [load_array, read_json, sha256_file])
@pytest.mark.parametrize("name", ["missing", "folder", "folder/file/below", "x" * 300, "nul\0"])
def test_what_is_no_file_is_refused(read: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    refusal(read, tmp_path / name)


@pytest.mark.parametrize("text", [b"", b"[1]", b"\xff\xfe", b'{"a": 1} x', b"[" * 100_000, b"9" * 5000])
def test_damaged_json_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text)
    refusal(read_json, tmp_path / "a.json")


def test_json_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.json", "wb") as stream:
        stream.truncate(65 * 2**20)  # sparse
    assert "larger than 64 MiB" in refusal(read_json, tmp_path / "a.json")


def test_json_is_written_in_one_way_and_only_if_it_can_be(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5], "a": {"é": None}})
    expected = '{\n  "a": {\n    "é": null\n  },\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    for content in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, content)
    assert path.read_bytes() == expected.encode()
    assert list(tmp_path.iterdir()) == [path]
    assert read_json(path) == {"a": {"é": None}, "b": [1, 2.5]}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_whole(
    error: BaseException, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npy"
    save_array(path, np.zeros(5))

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(files.os, stage, fail)
    with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        save_array(path, np.ones(5))
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"{path}: cannot be written (No space left on device)")
    monkeypatch.undo()
    assert (load_array(path) == 0).all()
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_is_killed_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    code = (
        "import sys, numpy as np\n"
        "from instahide_nb.core.files import save_array\n"
        "while True:\n"
        "    for value in (1, 2): save_array(sys.argv[1], np.full((value, 2**19), value, np.float64))\n"
    )
    for delay in (0.0, 0.003, 0.007, 0.013, 0.021):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", code, str(path)])
        try:
            deadline = time.monotonic() + 60
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(delay)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        array = load_array(path)
        assert array.shape in ((1, 2**19), (2, 2**19))
        assert (array == len(array)).all()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_secrets_are_for_their_owner_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        folder = make_folder(tmp_path / "a" / "secret", secret=True)
        for secret, name in ((True, "hidden"), (False, "public")):
            save_array(folder / f"{name}.npy", np.zeros(2), secret=secret)
            write_json(folder / f"{name}.json", {}, secret=secret)
            write_bytes(folder / f"{name}.bin", b"x", secret=secret)
    finally:
        os.umask(before)
    modes = {path.stem: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"secret": 0o700, "hidden": 0o600, "public": 0o644}


@pytest.mark.parametrize("name", ["file/below", "x" * 300, "nul\0"])
def test_what_cannot_be_written_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refusal(make_folder, tmp_path / name)
    refusal(lambda path: write_json(path, {}), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_hashes_of_files_are_sha256sums(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
