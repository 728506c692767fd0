"""Files that were damaged on purpose: every reader returns what it promises, or says in one line what is wrong.

No other exception, no unpickling, no more memory than the file is large.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Sources
from hypothesis import given, settings
from hypothesis import strategies as st

from instahide_nb.challenge.build import regenerate
from instahide_nb.challenge.release import load_release
from instahide_nb.challenge.secret import load_secret
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, read_json
from instahide_nb.core.params import NOTEBOOKS, read_yaml
from instahide_nb.data.sources import private_images
from instahide_nb.run.manifest import read_manifest, record_stage

MOST_MEMORY = 32 * 2**20
PARAMS = Path(__file__).parents[1] / "params" / "tiny"


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def attempt(read: Callable[[], Any]) -> Any:
    """What the reader returns; None when it refused in one line."""
    tracemalloc.start()
    message = "fine"
    try:
        result = read()
    except InputError as error:
        message, result = str(error), None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(message) < 20_000
    assert peak < MOST_MEMORY
    return result


def attempt_with(path: Path, content: bytes, read: Callable[[], Any]) -> Any:
    """The same while a file has other content."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        return attempt(read)
    finally:
        path.write_bytes(before)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, focus: int) -> bytes:
    """`whole` with a few bytes changed, taken out or put in, mostly among its first `focus`; or cut; or doubled."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(focus, len(data)) | 1) | st.integers(0, len(data)))
        kind = draw(st.sampled_from(["change", "change", "drop", "insert", "cut", "double"]))
        if kind == "change" and place < len(data):
            data[place] = draw(st.integers(0, 255) | st.sampled_from(list(b"0123456789'{}(),<>|fiuOVSU-")))
        elif kind == "drop":
            del data[place : place + draw(st.integers(1, 20))]
        elif kind == "insert":
            data[place:place] = draw(st.binary(max_size=6) | st.sampled_from([b"9" * 20, b"-1", b"O", b"(", b"\0"]))
        elif kind == "cut":
            del data[place:]
        elif kind == "double":
            data += data[place:]
    return bytes(data)


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Bad in one draw of six, so that what is bad meets much that is good."""
    return st.integers(0, 5).flatmap(lambda turn: bad if turn == 3 else good)


VALID = [
    npy(np.arange(12, dtype="<f4").reshape(3, 4)),
    npy(np.asfortranarray(np.arange(12, dtype=">i8").reshape(3, 4))),
    npy(np.array(["one", "two"])),
    npy(np.zeros((0, 3), np.uint8)),
]


@settings(max_examples=150)
@given(st.sampled_from(VALID).flatmap(lambda whole: damaged(whole, 128)))
def test_damaged_arrays(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npy"
        path.write_bytes(content)
        array = attempt(lambda: load_array(path))
        assert [p.name for p in Path(folder).iterdir()] == ["a.npy"]
    if array is not None:
        assert array.dtype.kind in "biufU"
        assert array.flags.c_contiguous
        assert array.dtype.isnative
        assert array.nbytes <= len(content)


scalars = (
    st.none() | st.booleans() | st.integers() | st.integers(-2, 20) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["cross", "inside", "mixup", "mt19937", "chacha20", "entropy", "00" * 2496, "ab" * 32, 10**400])
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def damaged_json(draw: st.DrawFn, content: Any) -> bytes:
    """JSON with one or two of its parts replaced or taken out, at any depth; or its text with changed bytes."""
    if draw(st.booleans()):
        return draw(damaged(json.dumps(content, indent=2).encode(), 10_000))
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 2))):
        part = content
        while keys := sorted(part) if isinstance(part, dict) else range(len(part)):
            key = draw(st.sampled_from(keys))
            if isinstance(part[key], dict | list) and draw(st.booleans()):
                part = part[key]
                continue
            if draw(st.integers(0, 3)) == 0:
                del part[key]
            else:
                part[key] = draw(values)
            break
    return json.dumps(content).encode()


def read_release(run: Path) -> None:
    release = load_release(run / "release")
    assert release.info.n_private * release.info.encryptions_per_image == 35
    assert 2 <= release.info.k <= 16


def read_secret(run: Path) -> None:
    secret = load_secret(run / "secret")
    assert regenerate(secret).encryption.shape == (35, 8, 8, 3)


def read_stages(run: Path) -> None:
    assert all(isinstance(digest, str) for digest in read_manifest(run).files().values())


@pytest.fixture(scope="module")
def victim(saved_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose files are damaged one at a time, and restored."""
    folder = Path(shutil.copytree(saved_run, tmp_path_factory.mktemp("hostile") / "run"))
    record_stage(folder, "gen_data", {"k": 4}, None)
    return folder


@pytest.mark.parametrize(
    ("name", "read"),
    [("release/release.json", read_release), ("secret/secret.json", read_secret), ("manifest.json", read_stages)],
)
@settings(max_examples=50)
@given(data=st.data())
def test_json_of_a_run(name: str, read: Callable[[Path], None], victim: Path, data: st.DataObject) -> None:
    path = victim / name
    attempt_with(path, data.draw(damaged_json(read_json(path))), lambda: read(victim))


@settings(max_examples=50)
@given(data=st.data())
def test_arrays_of_a_run(victim: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(victim.rglob("*.npy"))))
    read = {"release": read_release, "secret": read_secret}[path.parent.name]
    attempt_with(path, data.draw(damaged(path.read_bytes(), 128)), lambda: read(victim))


@pytest.mark.parametrize("notebook", NOTEBOOKS)
@settings(max_examples=30)
@given(data=st.data())
def test_parameter_files(notebook: str, data: st.DataObject) -> None:
    content = data.draw(damaged((PARAMS / f"{notebook}.yaml").read_bytes(), 2000))
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        Path(file.name).write_bytes(content)
        attempt(lambda: NOTEBOOKS[notebook](**read_yaml(file.name)))


@settings(max_examples=50)
@given(data=st.data())
def test_npz_sources(sources: Sources, data: st.DataObject) -> None:
    whole = sources.private_path.read_bytes()
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        Path(file.name).write_bytes(data.draw(damaged(whole, len(whole))))
        found = attempt(lambda: private_images(file.name, 4, generator=np.random.default_rng(0)))
    if found is not None:
        assert found.images.shape[0] == len(found.labels) == 4
