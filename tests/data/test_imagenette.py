"""Imagenette's reader: from a folder or an archive, unpacked once, never outside its place."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from archive_makers import link, tar
from PIL import Image

from instahide_nb.core.errors import InputError
from instahide_nb.data.datasets import imagenette_folder
from instahide_nb.data.sources import private_images, public_patches, source_photographs


def jpeg(seed: int, height: int = 160, width: int = 200) -> bytes:
    blobs = np.random.default_rng(seed).integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blobs).resize((width, height), Image.Resampling.NEAREST).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    content = {"imagenette2-160/noisy_imagenette.csv": b"path,label\n"}
    for half, start in (("train", 0), ("val", 100)):
        for kind in range(2):
            for i in range(3):
                name = f"imagenette2-160/{half}/n0{kind}/n0{kind}_{i}.JPEG"
                content[name] = jpeg(start + 10 * kind + i)
    return content


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSTAHIDE_NB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    tar(folder / "imagenette2-160.tgz", files())
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_archive_is_unpacked_once(root: Path, own_cache: Path) -> None:
    folder = imagenette_folder(root)
    expected = sorted(name.partition("/")[2] for name in files() if name.endswith(".JPEG"))
    assert listing(folder) == expected
    times = [path.stat().st_mtime_ns for path in folder.rglob("*")]
    assert imagenette_folder(root / "imagenette2-160.tgz") == folder
    assert [path.stat().st_mtime_ns for path in folder.rglob("*")] == times
    assert list(own_cache.rglob(".unpacking-*")) == []


def test_an_extracted_folder_is_used_where_it_is(tmp_path: Path, own_cache: Path) -> None:
    for name, data in files().items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert imagenette_folder(tmp_path / "root") == tmp_path / "root" / "imagenette2-160"
    assert imagenette_folder(tmp_path / "root" / "imagenette2-160") == tmp_path / "root" / "imagenette2-160"
    assert not own_cache.exists()


def test_private_and_public_images_come_from_different_halves(root: Path) -> None:
    source = f"imagenette:{root}"
    private = private_images(source, 4, generator=np.random.Generator(np.random.PCG64(0)))
    assert private.class_names == ("n00", "n01")
    assert private.labels.tolist() == [0, 0, 1, 1]
    public = source_photographs(source)
    assert [photo.name for photo in public] == [
        f"n0{kind}/n0{kind}_{i}.JPEG" for kind in range(2) for i in range(3)
    ]
    assert all(photo.path.parts[-3] == "train" for photo in public)
    assert public_patches(source, 5, min_keypoints=10).shape == (5, 32, 32, 3)


@pytest.mark.parametrize(
    "entry",
    [
        link("imagenette2-160/train/n00/x.JPEG", "/etc/passwd"),
        link("imagenette2-160/train/n02", "/tmp"),
        link("imagenette2-160/train/n00/x.JPEG", "n00_0.JPEG", tarfile.LNKTYPE),
        tarfile.TarInfo("../train/n00/outside.JPEG"),
        tarfile.TarInfo("/train/n00/outside.JPEG"),
    ],
    ids=lambda entry: entry.name,
)
def test_links_and_ways_out_leave_nothing_behind(root: Path, own_cache: Path, entry: tarfile.TarInfo) -> None:
    tar(root / "imagenette2-160.tgz", files(), [entry])
    with pytest.raises(InputError, match=r"imagenette2-160\.tgz: holds .*(leads outside|a link or device)"):
        imagenette_folder(root)
    assert listing(own_cache) == []


def test_a_truncated_archive_leaves_nothing_and_the_mended_one_works(root: Path, own_cache: Path) -> None:
    archive = root / "imagenette2-160.tgz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"imagenette2-160\.tgz: is not a readable archive, or is cut short"):
        imagenette_folder(root)
    assert listing(own_cache) == []
    archive.write_bytes(whole)
    assert len(listing(imagenette_folder(root))) == 12


def test_archives_and_folders_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds neither imagenette2-160/train nor imagenette2-160\.tgz"):
        imagenette_folder(tmp_path)
    tar(tmp_path / "imagenette2-160.tgz", {"a/b.txt": b""})
    with pytest.raises(InputError, match="holds no train and val folders"):
        imagenette_folder(tmp_path)
    (tmp_path / "x" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="lacks the folder train or val"):
        imagenette_folder(tmp_path / "x")
