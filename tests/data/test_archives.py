"""Fetching: md5 checked, whole or absent, done once, and one line when it cannot be done."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from archive_makers import cifar_batch, cifar_meta, tar

from instahide_nb.core.errors import InputError
from instahide_nb.data import datasets as cifar10
from instahide_nb.data.datasets import cache_folder, fetch

DATA = bytes(range(256)) * 1000
MD5 = hashlib.md5(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, in full or cut short, and counts how often it was asked."""

    data = DATA
    cut = False
    asked = 0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.data)))
        self.end_headers()
        data = self.server.data
        self.wfile.write(data[: len(data) // 3] if self.server.cut else data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def url(server: Server, name: str = "set.tgz") -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"


def test_a_file_is_fetched_once(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = fetch(url(server), MD5, "imagenette", tmp_path)
    assert path == tmp_path / "archives" / "set.tgz"
    assert path.read_bytes() == DATA
    assert fetch(url(server), MD5, "imagenette", tmp_path) == path
    assert server.asked == 1
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server, tmp_path: Path) -> None:
    path = fetch(url(server), MD5, "imagenette", tmp_path)
    path.write_bytes(DATA[:100])
    assert fetch(url(server), MD5, "imagenette", tmp_path).read_bytes() == DATA
    assert server.asked == 2


def test_another_md5_is_refused_and_nothing_is_left(server: Server, tmp_path: Path) -> None:
    server.data = DATA + b"!"
    with pytest.raises(
        InputError, match=f"imagenette: what http.* sent has another md5 than {MD5}"
    ) as caught:
        fetch(url(server), MD5, "imagenette", tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "archives").iterdir())


def test_an_interrupted_fetch_leaves_nothing_and_can_be_rerun(server: Server, tmp_path: Path) -> None:
    server.cut = True
    with pytest.raises(InputError, match="cifar10"):
        fetch(url(server), MD5, "cifar10", tmp_path)
    assert not list((tmp_path / "archives").iterdir())
    server.cut = False
    assert fetch(url(server), MD5, "cifar10", tmp_path).read_bytes() == DATA


def test_offline_is_one_line_that_says_what_to_do(server: Server, tmp_path: Path) -> None:
    address = url(server)
    server.server_close()
    with pytest.raises(
        InputError, match=r"cannot be fetched .*put set\.tgz in a folder and write cifar10:FOLDER"
    ) as e:
        fetch(address, MD5, "cifar10", tmp_path)
    assert "\n" not in str(e.value)


def test_cifar10_without_a_root_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    content = {f"c/data_batch_{i}": cifar_batch(images, [0, 1]) for i in range(1, 6)}
    archive = tar(tmp_path / "made.tar.gz", content | {"c/batches.meta": cifar_meta([b"a", b"b"])})
    server.data = archive.read_bytes()
    monkeypatch.setattr(cifar10, "CIFAR10_URL", url(server, "cifar-10-python.tar.gz"))
    monkeypatch.setattr(cifar10, "_CIFAR10_MD5", hashlib.md5(server.data).hexdigest())
    monkeypatch.setenv("INSTAHIDE_NB_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        assert np.array_equal(cifar10.read_cifar10()[0], np.concatenate([images] * 5))
    assert server.asked == 1


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("INSTAHIDE_NB_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "instahide_nb"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "instahide_nb"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/instahide_nb")
    monkeypatch.setenv("INSTAHIDE_NB_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"
    assert cache_folder("/given") == Path("/given")
