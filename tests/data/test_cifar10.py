"""CIFAR-10's reader: the real format, and nothing that a hostile or damaged file asks for."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from archive_makers import array2, cifar_batch, cifar_meta, link, list2, number2, pickle2, tar, text2

from instahide_nb.core.errors import InputError
from instahide_nb.data.datasets import read_cifar10, unpickle_batch
from instahide_nb.data.sources import private_images

NAMES = (b"airplane", b"automobile", b"bird", b"cat")
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 32, 32, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 4, (5, 6))


def files(prefix: str = "cifar-10-batches-py/") -> dict[str, bytes]:
    content = {f"{prefix}data_batch_{i + 1}": cifar_batch(IMAGES[i], LABELS[i].tolist()) for i in range(5)}
    return content | {
        f"{prefix}batches.meta": cifar_meta(NAMES),
        f"{prefix}test_batch": b"not read",
        f"{prefix}readme.html": b"",
    }


def extract(folder: Path) -> Path:
    for name, data in files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def check(root: Path) -> None:
    images, labels, names = read_cifar10(root)
    assert np.array_equal(images, IMAGES.reshape(-1, 32, 32, 3))
    assert labels.tolist() == LABELS.ravel().tolist()
    assert names == ("airplane", "automobile", "bird", "cat")


def test_an_extracted_folder_is_read(tmp_path: Path) -> None:
    check(extract(tmp_path))
    check(tmp_path / "cifar-10-batches-py")


def test_the_archive_is_read_and_nothing_is_extracted(tmp_path: Path) -> None:
    archive = tar(tmp_path / "cifar-10-python.tar.gz", files())
    check(tmp_path)
    check(archive)
    assert list(tmp_path.iterdir()) == [archive]


def test_it_is_a_private_source(tmp_path: Path) -> None:
    extract(tmp_path)
    chosen = private_images(f"cifar10:{tmp_path}", 8, generator=np.random.Generator(np.random.PCG64(0)))
    assert np.bincount(chosen.labels).tolist() == [2, 2, 2, 2]
    assert chosen.class_names[1] == "automobile"
    for image, label in zip(chosen.images, chosen.labels, strict=True):
        match = (image == IMAGES).all(axis=(2, 3, 4))
        assert LABELS[match].tolist() == [label]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_of_any_protocol(protocol: int) -> None:
    content = {"labels": [1, 2, 300, -4], "name": "x", "more": (1.5, None, True)}
    assert unpickle_batch(pickle.dumps(content, protocol=protocol), "x") == content


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_that_todays_numpy_pickled(order: str, protocol: int) -> None:
    array = np.asarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20, order=order)
    read = unpickle_batch(pickle.dumps({"data": array}, protocol=protocol), "x")["data"]
    assert np.array_equal(read, array)


def test_arrays_of_the_real_files_are_read_as_numpy_reads_them() -> None:
    array = np.random.default_rng(2).integers(0, 256, (7, 300), dtype=np.uint8)
    data = pickle2({b"data": array2(array), b"labels": list2(map(number2, [3, 1000]))})
    assert np.array_equal(pickle.loads(data, encoding="bytes")[b"data"], array)
    assert np.array_equal(unpickle_batch(data, "x")["data"], array)


class Runs:
    """Pickled so that loading it runs a program."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.what


@pytest.mark.parametrize(
    "evil",
    [
        Runs(os.system, "touch {mark}"),
        Runs(subprocess.check_call, ["touch", "{mark}"]),
        Runs(eval, "open('{mark}', 'w')"),
        Runs(exec, "open('{mark}', 'w')"),
        Runs(open, "{mark}", "w"),
        Runs(getattr, "text", "upper"),
        collections.OrderedDict(a=1),
        np.float64(1.5),
        np.array([{}], dtype=object),
        np.arange(3.0),
    ],
    # By name: an address in it would differ between the processes of a parallel run.
    ids=lambda evil: evil.what[0].__name__ if isinstance(evil, Runs) else type(evil).__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_whatever_else_a_pickle_asks_for_is_refused(tmp_path: Path, evil: object, protocol: int) -> None:
    mark = tmp_path / "ran"
    data = pickle.dumps({"labels": evil}, protocol=protocol)
    with pytest.raises(InputError, match="evil: is not a CIFAR-10 file"):
        unpickle_batch(data, "evil")
    assert not mark.exists()
    assert not list(Path.cwd().glob("*{mark}*"))


def test_admitted_names_do_nothing_but_what_they_should() -> None:
    # The stand-ins called with nonsense: a codec that is not latin1, an array whose state is not one.
    for data in (
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        pickle2({b"data": b"cnumpy.core.multiarray\n_reconstruct\n)R"}),
        pickle2({b"data": array2(np.zeros((2, 2), np.uint8)).replace(b"U\x02u1", b"U\x02O8")}),
        pickle2({b"data": array2(np.zeros((2, 2), np.uint8)).replace(b"K\x02K\x02", b"K\x02K\x09")}),
    ):
        with pytest.raises(InputError, match="is not a CIFAR-10 file"):
            unpickle_batch(data, "x")


def test_damaged_pickles_are_one_line_errors() -> None:
    whole = cifar_batch(IMAGES[0], LABELS[0].tolist())
    random = np.random.default_rng(3)
    for length in [0, 1, 2, 50, len(whole) // 2, len(whole) - 1]:
        with pytest.raises(InputError, match="is not a CIFAR-10 file"):
            unpickle_batch(whole[:length], "x")
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(0, 200)] = random.integers(0, 256)
        # It may still be a good pickle of other values; what must not come out is another error.
        with contextlib.suppress(InputError):
            unpickle_batch(bytes(damaged), "x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("batches.meta", pickle2({b"labels": number2(1)}), "has no list label_names"),
        ("data_batch_3", pickle2({b"labels": list2([])}), r"data must be uint8 \(n, 3072\)"),
        (
            "data_batch_3",
            pickle2({b"data": array2(IMAGES[0, :, 0, :, 0])}),
            r"data must be uint8 \(n, 3072\)",
        ),
        ("data_batch_3", cifar_batch(IMAGES[0], [0] * 5), "labels must be 6 class numbers"),
        ("data_batch_3", cifar_batch(IMAGES[0], [0] * 5 + [4]), "labels must be 6 class numbers"),
        ("data_batch_3", cifar_batch(IMAGES[0], [0] * 5 + [-1]), "labels must be 6 class numbers"),
        ("data_batch_3", b"", "is not a CIFAR-10 file"),
        ("data_batch_3", text2(b"x"), "is not a CIFAR-10 file"),
    ],
)
def test_wrong_content_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (extract(tmp_path) / "cifar-10-batches-py" / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: {message}"):
        read_cifar10(tmp_path)


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds neither cifar-10-batches-py"):
        read_cifar10(tmp_path)
    (extract(tmp_path) / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(InputError, match="lacks data_batch_4"):
        read_cifar10(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        link("cifar-10-batches-py/data_batch_9", "/etc/passwd"),
        link("cifar-10-batches-py/data_batch_9", "data_batch_1", tarfile.LNKTYPE),
        link("cifar-10-batches-py/fifo", "", tarfile.FIFOTYPE),
        tarfile.TarInfo("../outside"),
        tarfile.TarInfo("cifar-10-batches-py/../../outside"),
        tarfile.TarInfo("/tmp/outside"),
    ],
    ids=lambda entry: entry.name,
)
def test_links_and_ways_out_are_refused(tmp_path: Path, entry: tarfile.TarInfo) -> None:
    archive = tar(tmp_path / "cifar-10-python.tar.gz", files(), [entry])
    with pytest.raises(
        InputError, match=r"cifar-10-python\.tar\.gz: holds .*(leads outside|a link or device)"
    ):
        read_cifar10(archive)


def test_truncated_and_altered_archives(tmp_path: Path) -> None:
    archive = tar(tmp_path / "cifar-10-python.tar.gz", files())
    whole = archive.read_bytes()
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 0xFF
    for data in (b"", b"hello", whole[: len(whole) // 2], whole[:-20], bytes(altered)):
        archive.write_bytes(data)
        with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz: is not a readable archive"):
            read_cifar10(archive)
