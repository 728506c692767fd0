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


@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_bytes_depend_on_values_alone(dtype: str, order: Any, tmp_path: Path) -> None:
    values = np.arange(12, dtype="f4").reshape(3, 4)
    save_array(tmp_path / "plain.npy", values)
    save_array(tmp_path / "other.npy", np.asarray(values, dtype=dtype, order=order))
    assert (tmp_path / "plain.npy").read_bytes() == (tmp_path / "other.npy").read_bytes() == npy(values)
    assert sha256_array(np.asarray(values, dtype=dtype, order=order)) == sha256_array(values)


@pytest.mark.parametrize("array", [np.array([None]), np.array([(1, "a")], dtype=object)])
def test_python_objects_are_never_saved(array: np.ndarray[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="never saved"):
        save_array(tmp_path / "a.npy", array)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<i4", ">i4", "<f8", ">f8"])
def test_files_of_other_writers_are_read(dtype: str, order: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    values = np.arange(24).reshape(2, 3, 4)
    path.write_bytes(npy(np.asarray(values, dtype=dtype, order=order)))
    back = load_array(path, dtype=dtype[1:], shape=(2, None, 4))
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


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((3, 4, 1), None, r"\(3, 4\); \(3, 4, 1\) is expected"),
        ((None, 5), None, r"\(3, 4\); \(any, 5\) is expected"),
        ((None, None, None), None, "an array of 3 axes is expected"),
        (None, np.float64, "holds float32; float64 is expected"),
        (None, np.int32, "holds float32; int32 is expected"),
    ],
)
def test_another_shape_or_dtype_is_refused(shape: Any, dtype: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    save_array(path, np.zeros((3, 4), np.float32))
    refusal(load_array, path, shape=shape, dtype=dtype)
    with pytest.raises(InputError, match=words):
        load_array(path, shape=shape, dtype=dtype)
    assert load_array(path, shape=(3, None), dtype=np.float32).shape == (3, 4)


class Trap:
    """Unpickling this would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    for name, content in (
        ("object.npy", npy(np.array([Trap(trap)], dtype=object), allow_pickle=True)),
        ("pickle.npy", __import__("pickle").dumps(Trap(trap))),
        ("field.npy", npy(np.array([(1, Trap(trap))], dtype=[("a", "i4"), ("b", "O")]), allow_pickle=True)),
    ):
        (tmp_path / name).write_bytes(content)
        refusal(load_array, tmp_path / name)
    assert "pickled" in refusal(load_array, tmp_path / "object.npy")
    assert not trap.exists()


GOOD = npy(np.arange(6, dtype="<f4").reshape(2, 3))
DAMAGED = {
    "empty": b"",
    "text": b"not an array",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "web page": b"\n<!DOCTYPE html><html>",
    "header cut": GOOD[:40],
    "one byte short": GOOD[:-1],
    "one byte long": GOOD + b"\0",
    "version 3": with_header(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", bytes(4), b"\x03\x00"
    ),
    "header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
    "header of 60 kB": with_header(" " * 60_000),
    "huge shape": with_header(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 100000)}", bytes(4)
    ),
    "huge shape of none": with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0, {10**30})}}"),
    "overflowing shape": with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**62}, 0, 4)}}"),
    "negative shape": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}", bytes(4)),
    "items of no size": with_header("{'descr': '<U0', 'fortran_order': False, 'shape': (3,)}"),
    "structured": npy(np.zeros(3, [("a", "<f4"), ("b", "<i4")])),
    "complex": npy(np.zeros(3, complex)),
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


def test_the_message_says_what_came_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, words in (("Git LFS pointer", "git lfs pull"), ("web page", "download the file itself")):
        (tmp_path / "a.npy").write_bytes(DAMAGED[name])
        assert words in refusal(load_array, tmp_path / "a.npy")
    monkeypatch.chdir(tmp_path)
    assert f"relative to {tmp_path}" in refusal(load_array, Path("missing.npy"))


@pytest.mark.parametrize("read", [load_array, read_json, sha256_file])
@pytest.mark.parametrize("name", ["missing", "folder", "folder/file/below", "x" * 300, "nul\0"])
def test_what_is_no_file_is_refused(read: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    refusal(read, tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"{'a': 1}", b'{"a": 1} x', b"[" * 100_000, b"9" * 5000],
    ids=lambda text: repr(text[:8]),
)
def test_damaged_json_is_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    refusal(read_json, path)


def test_json_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with open(path, "wb") as stream:
        stream.truncate(65 * 2**20)  # sparse
    assert "larger than 64 MiB" in refusal(read_json, path)


def test_json_is_written_in_one_way(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5], "a": {"é": None}})
    expected = '{\n  "a": {\n    "é": null\n  },\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    assert path.read_bytes() == expected.encode()
    assert read_json(path) == {"a": {"é": None}, "b": [1, 2.5]}


@pytest.mark.parametrize("content", [{"a": float("nan")}, {"a": object()}])
def test_what_json_cannot_hold_leaves_the_old_file(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, content)
    assert read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_whole(
    error: BaseException, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npy"
    save_array(path, np.zeros(5))

    def fail(*arguments: Any, **options: Any) -> None:
        if stage == "write":
            arguments[0].write(b"half of it")
        raise error

    place = {
        "write": (files.np, "save"),
        "fsync": (files.os, "fsync"),
        "replace": (files.os, "replace"),
    }
    monkeypatch.setattr(*place[stage], fail)
    expected = InputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        save_array(path, np.ones(5))
    if expected is InputError:
        assert str(caught.value).startswith(f"{path}: cannot be written (No space left on device)")
    monkeypatch.undo()
    assert (load_array(path) == 0).all()
    assert list(tmp_path.iterdir()) == [path]


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command)


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
        process = child(code, path)
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


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


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
    assert mode(folder) == 0o700
    for suffix in ("npy", "json", "bin"):
        assert mode(folder / f"hidden.{suffix}") == 0o600
        assert mode(folder / f"public.{suffix}") == 0o644


@pytest.mark.parametrize("name", ["file/below", "file", "nul\0"])
def test_folders_that_cannot_be_made_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refusal(make_folder, tmp_path / name)


@pytest.mark.parametrize("name", ["missing/a.json", "file/a.json", "x" * 300, "folder", "nul\0"])
def test_files_that_cannot_be_written_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    refusal(lambda path: write_json(path, {}), tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The superuser may write anywhere, so the system's answer is given here.
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    assert "permission denied" in refusal(make_folder, tmp_path)


@given(plain_arrays)
def test_hashes_are_of_dtype_shape_and_values(array: np.ndarray[Any, Any]) -> None:
    little = array.astype(array.dtype.newbyteorder("<"))
    text = f"{little.dtype.str} {tuple(array.shape)}\n".encode()
    assert sha256_array(array) == hashlib.sha256(text + little.tobytes()).hexdigest()


def test_hashes_of_files_are_sha256sums(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
