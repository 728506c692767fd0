"""Files are whole or absent, say what is wrong with them in one line, and never run what they hold."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import stat
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
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


def refusal(read: Any, path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def with_header(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    width = 2 if version == b"\x01\x00" else 4
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text + data


@settings(max_examples=60)
@given(
    hnp.arrays(
        st.sampled_from(["u1", "i4", "<i8", ">i8", "<f4", ">f4", "f8", "?", "u2"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
    st.sampled_from("CF"),
)
def test_arrays_come_back_and_bytes_depend_on_values_alone(array: np.ndarray, order: Any) -> None:
    array = np.asarray(array, order=order)
    little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npy"
        save_array(path, array)
        assert path.read_bytes() == npy(little)
        assert sha256_file(path) == hashlib.sha256(npy(little)).hexdigest()
        path.write_bytes(npy(array))  # as another program may write it
        back = load_array(path, dtype=little.dtype.newbyteorder("="), shape=(None,) * array.ndim)
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("=")
    assert back.tobytes() == array.astype(back.dtype).tobytes()
    assert back.flags.c_contiguous
    assert back.flags.writeable
    text = f"{little.dtype.str} {array.shape}\n".encode()
    assert sha256_array(array) == hashlib.sha256(text + little.tobytes()).hexdigest()


class Trap:
    """Unpickling this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_is_ever_pickled_or_unpickled(tmp_path: Path) -> None:
    path, trap = tmp_path / "a.npy", Trap(tmp_path / "sprung")
    with pytest.raises(ValueError, match="allow_pickle"):
        save_array(path, np.array([None]))
    for content in (
        npy(np.array([trap], dtype=object), allow_pickle=True),
        pickle.dumps(trap),
        npy(np.array([(1, trap)], dtype=[("a", "i4"), ("b", "O")]), allow_pickle=True),
    ):
        path.write_bytes(content)
        refusal(load_array, path)
    assert list(tmp_path.iterdir()) == [path]


GOOD = npy(np.arange(6, dtype="<f4").reshape(2, 3))
FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}"
DAMAGED = {
    "empty": b"",
    "web page": b"\n<!DOCTYPE html><html>",
    "header cut": GOOD[:40],
    "one byte short": GOOD[:-1],
    "header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
    "header of 60 kB": with_header(" " * 60_000),
    "huge shape": with_header(FLOATS % "100000, 100000", bytes(4)),
    "overflowing shape": with_header(FLOATS % f"{2**62}, 0, 4"),
    "negative shape": with_header(FLOATS % "-1, -1", bytes(4)),
    "items of no size": with_header("{'descr': '<U0', 'fortran_order': False, 'shape': (3,)}"),
    "structured": npy(np.zeros(3, [("a", "<f4"), ("b", "<i4")])),
    "code in the header": with_header("__import__('os').system('false')"),
    "deep": with_header("(" * 5000),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_arrays_are_refused_in_little_memory(name: str, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("act", [load_array, read_json, sha256_file, make_folder, lambda path: write_bytes(path, b"")])
def test_what_is_no_file_can_be_neither_read_nor_written(act: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file/below", "x" * 300, "nul\0"):
        refusal(act, tmp_path / name)
    if act in (load_array, read_json, sha256_file):
        refusal(act, tmp_path)
        assert refusal(act, tmp_path / "missing").endswith("missing: no such file; check the path")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_damaged_and_huge_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in (b"", b"[1]", b"\xff\xfe", b'{"a": 1} x', b"[" * 100_000, b"9" * 5000):
        path.write_bytes(text)
        assert "is not a JSON object" in refusal(read_json, path)
    with open(path, "wb") as stream:
        stream.truncate(65 * 2**20)  # sparse
    assert "larger than 64 MiB" in refusal(read_json, path)


def test_json_has_one_form_and_is_written_only_if_it_can_be(tmp_path: Path) -> None:
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
