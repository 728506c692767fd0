"""CIFAR-10, Imagenette and archives: the real formats are read, hostile and damaged ones refused in one line."""

from __future__ import annotations

import collections
import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_hostile_files import attempt, damaged, mostly

from instahide_nb.core.errors import InputError
from instahide_nb.data import datasets
from instahide_nb.data.datasets import data_set_folder, fetch, read_cifar10, unpickle
from instahide_nb.data.sources import private_images, public_patches, source_photographs

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 32, 32, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 4, (5, 6))
CIFAR10, IMAGENETTE = datasets.DATA_SETS["cifar10"], datasets.DATA_SETS["imagenette"]


def batch(images: np.ndarray, labels: list[int]) -> bytes:
    """One of CIFAR-10's batches, as today's Python pickles it."""
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    return pickle.dumps({b"data": rows, b"labels": labels}, protocol=3)


def pickle_of_2009(data: np.ndarray, labels: list[int]) -> bytes:
    """The same as Python 2 and numpy 1 pickled it, which is how CIFAR-10's own files were made."""
    numbers = b"".join(b"J" + label.to_bytes(4, "little") for label in labels)
    shape = b"".join(b"M" + length.to_bytes(2, "little") for length in data.shape)
    return (
        b"\x80\x02}(U\x06labels](" + numbers + b"eU\x04data"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape + b"\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + data.size.to_bytes(4, "little") + data.tobytes() + b"tbu."
    )  # fmt: skip


def cifar10_files() -> dict[str, bytes]:
    names = pickle.dumps({b"label_names": [b"airplane", b"automobile", b"bird", b"cat"]}, protocol=3)
    content = {f"data_batch_{i + 1}": batch(IMAGES[i], LABELS[i].tolist()) for i in range(5)}
    content["data_batch_2"] = pickle_of_2009(IMAGES[1].transpose(0, 3, 1, 2).reshape(6, 3072), LABELS[1].tolist())
    content |= {"batches.meta": names, "test_batch": b"not read"}
    return {f"cifar-10-batches-py/{name}": data for name, data in content.items()}


@functools.cache
def jpeg(seed: int) -> bytes:
    blobs = np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blobs).resize((200, 160), Image.Resampling.NEAREST).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def imagenette_files() -> dict[str, bytes]:
    places = [(half, kind, i) for half in ("train", "val") for kind in range(2) for i in range(3)]
    return {f"imagenette2-160/{h}/n0{k}/n0{k}_{i}.JPEG": jpeg(10 * k + i + (h == "val") * 100) for h, k, i in places}


FILES = {"cifar10": cifar10_files(), "imagenette": imagenette_files()}


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def tar(files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    """A tar archive of files, and of entries without content."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            archive.addfile(entry(name, size=len(data)), io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return stream.getvalue()


def extract(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSTAHIDE_NB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["cifar10", "imagenette"])
def test_a_folder_is_used_where_it_is_and_an_archive_is_unpacked_once(
    name: str, tmp_path: Path, own_cache: Path
) -> None:
    root = extract(tmp_path / "root", FILES[name])
    inner = root / datasets.DATA_SETS[name].folder
    assert data_set_folder(name, root) == data_set_folder(name, inner) == inner
    assert not own_cache.exists()
    archive = tmp_path / datasets.DATA_SETS[name].file
    archive.write_bytes(gzip.compress(tar(FILES[name]), 1))
    folder = data_set_folder(name, tmp_path)
    assert listing(folder.parent) == set(FILES[name])
    times = [path.stat().st_mtime_ns for path in folder.rglob("*")]
    assert data_set_folder(name, archive) == folder
    assert [path.stat().st_mtime_ns for path in folder.rglob("*")] == times
    assert list(own_cache.rglob(".unpacking-*")) == []


def test_hostile_damaged_and_foreign_archives_leave_nothing(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / CIFAR10.file
    whole = gzip.compress(tar(FILES["cifar10"]), 1)
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 0xFF

    def refused(data: bytes, message: str) -> None:
        archive.write_bytes(data)
        with pytest.raises(InputError, match=message):
            data_set_folder("cifar10", archive)

    for info in (
        entry("cifar-10-batches-py/x", tarfile.SYMTYPE, "/etc/passwd"),
        entry("cifar-10-batches-py/x", tarfile.LNKTYPE, "cifar-10-batches-py/batches.meta"),
        entry("cifar-10-batches-py/fifo", tarfile.FIFOTYPE),
        entry("cifar-10-batches-py/../../outside"),
        entry("/outside"),
    ):
        data = gzip.compress(tar(FILES["cifar10"], info), 1)
        refused(data, r"cifar-10-python\.tar\.gz: holds .*, a link, a device or a path outside its folder")
    for data in (b"", b"hello", whole[: len(whole) // 2], whole[:-20], bytes(altered)):
        refused(data, r"cifar-10-python\.tar\.gz: is not a readable archive, or is truncated")
    assert listing(own_cache) == set()
    refused(tar({"a/b.txt": b""}), "holds no cifar-10-batches-py/batches.meta")
    monkeypatch.setattr(datasets, "_LARGEST", 10_000)
    refused(whole, "unpacks to more than 8 GiB")
    with pytest.raises(InputError, match=r"holds neither imagenette2-160/train nor imagenette2-160\.tgz"):
        data_set_folder("imagenette", tmp_path)


parts = st.sampled_from(["train", "val", "n01", "a.JPEG", "..", ".", "", "/tmp", "a\\..\\..\\b", "\n", "x" * 120])
kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"7"]


@st.composite
def hostile_archives(draw: st.DrawFn) -> bytes:
    """Members of any name and kind; damaged before it was compressed (its checksum is right then), or after, or not."""
    paths = draw(st.lists(st.lists(parts, min_size=1, max_size=5).map("/".join), max_size=3))
    targets = st.sampled_from(["", "/etc/passwd", "../../..", "imagenette2-160/train"])
    extra = [entry(path, draw(mostly(st.just(b"0"), st.sampled_from(kinds))), draw(targets)) for path in paths]
    data = tar({"imagenette2-160/train/n01/z.JPEG": b"z", "imagenette2-160/val/n01/z.JPEG": b"z"}, *extra)
    place = draw(st.sampled_from(["inside", "outside", "nowhere", "nowhere"]))
    data = gzip.compress(draw(damaged(data, len(data))) if place == "inside" else data, 1, mtime=0)
    return draw(damaged(data, len(data))) if place == "outside" else data


@settings(max_examples=60)
@given(hostile_archives())
def test_whatever_an_archive_holds_is_unpacked_inside_or_refused_whole(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        archive, cache = Path(name) / "a/b/imagenette2-160.tgz", Path(name) / "a/b/cache"
        patch.setenv("INSTAHIDE_NB_CACHE", str(cache))
        extract(archive.parent, {archive.name: content})
        found = attempt(lambda: data_set_folder("imagenette", archive))
        written = [path for path in Path(name).rglob("*") if not path.is_dir() or path.is_symlink()]
        assert not any(path.is_symlink() for path in written)
        assert [path for path in written if cache / "imagenette" not in path.parents] == [archive]
        assert not list(cache.rglob(".unpacking-*"))
        assert found is None or (found / "train").exists()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is served in place of CIFAR-10's archive."""
    (tmp_path / "web").mkdir()
    file = tmp_path / "web" / "set.tgz"
    file.write_bytes(gzip.compress(tar(FILES["cifar10"]), 1))
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=file.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/set.tgz"
        monkeypatch.setitem(datasets.DATA_SETS, "cifar10", CIFAR10._replace(url=url, md5=md5))
        yield file
        server.shutdown()
        thread.join()


def test_an_archive_is_fetched_once_and_again_when_damaged(served: Path, own_cache: Path, capfd) -> None:
    assert np.array_equal(read_cifar10(data_set_folder("cifar10"))[0], IMAGES.reshape(-1, 32, 32, 3))
    moved = served.rename(served.with_name("moved"))
    path = fetch("cifar10")
    assert path == own_cache / "archives" / "set.tgz"
    path.write_bytes(b"damaged")
    moved.rename(served)
    assert fetch("cifar10").read_bytes() == served.read_bytes()
    path.unlink()
    served.write_bytes(b"another file")
    with pytest.raises(InputError, match=r"cifar10: http.* sent a file whose md5 is not"):
        fetch("cifar10")
    served.unlink()
    with pytest.raises(InputError, match=r"cannot be fetched .* put set\.tgz in a FOLDER and write cifar10:F"):
        fetch("cifar10")
    assert list(path.parent.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_cifar10_is_a_private_source_and_its_pickles_are_read_as_pickle_reads_them(tmp_path: Path) -> None:
    extract(tmp_path, FILES["cifar10"])
    whole = private_images(f"cifar10:{tmp_path}", 30, generator=np.random.default_rng(0))
    assert np.array_equal(whole.images, IMAGES.reshape(-1, 32, 32, 3))
    assert whole.labels.tolist() == LABELS.ravel().tolist()
    assert whole.class_names == ("airplane", "automobile", "bird", "cat")
    array = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    content = {"labels": [1, 300, -4], "name": "x", "more": (1.5, None, True)}
    for protocol in (3, 4):
        data = pickle.dumps(content | {"data": np.asfortranarray(array)}, protocol=protocol)
        (tmp_path / "x").write_bytes(data)
        found = unpickle(tmp_path / "x")
        assert np.array_equal(found.pop("data"), array)
        assert found == content


class Runs:
    """Pickled so that loading it runs a program."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.what


def test_whatever_else_a_pickle_asks_for_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for evil in (
        Runs(os.system, "touch ran"),
        Runs(eval, "open('ran', 'w')"),
        Runs(getattr, "text", "upper"),
        collections.OrderedDict(a=1),
        np.array([{}], dtype=object),
        np.arange(3.0),
    ):
        (tmp_path / "evil").write_bytes(pickle.dumps({"data": evil}, protocol=2))
        with pytest.raises(InputError, match="evil: is not a CIFAR-10 file"):
            unpickle(tmp_path / "evil")
    assert listing(tmp_path) == {"evil"}


@settings(max_examples=60)
@given(st.sampled_from([batch(IMAGES[0, :2], [0, 1]), pickle_of_2009(IMAGES[0, 0, :, :, 0], [1])]).flatmap(
    lambda whole: damaged(whole, 200)
))  # fmt: skip
def test_damaged_pickles(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x").write_bytes(content)
        attempt(lambda: unpickle(Path(folder) / "x"))


UNFIT = (
    ("batches.meta", pickle.dumps({"labels": 1}), "it has no list label_names"),
    ("data_batch_3", pickle.dumps({"labels": []}), r"must hold data \(n, 3072\) and n labels"),
    ("data_batch_3", batch(IMAGES[0], [0] * 5 + [4]), "n labels below 4"),
    ("data_batch_3", pickle.dumps(["x"]), "is not a CIFAR-10 file"),
    ("data_batch_4", None, "no such file"),
)


def test_wrong_content_is_named(tmp_path: Path) -> None:
    for name, content, message in UNFIT:
        file = extract(tmp_path, FILES["cifar10"]) / "cifar-10-batches-py" / name
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: .*{message}"):
            read_cifar10(file.parent)


def test_private_and_public_images_come_from_different_halves(tmp_path: Path) -> None:
    source = f"imagenette:{extract(tmp_path, FILES['imagenette'])}"
    private = private_images(source, 4, generator=np.random.default_rng(0))
    assert private.class_names == ("n00", "n01")
    assert private.labels.tolist() == [0, 0, 1, 1]
    public = source_photographs(source)
    assert [photo.name for photo in public] == [f"n0{kind}/n0{kind}_{i}.JPEG" for kind in range(2) for i in range(3)]
    assert all(photo.path.parts[-3] == "train" for photo in public)
    assert public_patches(source, 5, min_keypoints=10).shape == (5, 32, 32, 3)
