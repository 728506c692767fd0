"""The grammar of sources, the balanced choice, and folders and .npz files as private sources."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from instahide_nb.core.errors import InputError
from instahide_nb.data.embedded import private_crops
from instahide_nb.data.photographs import reduce_area
from instahide_nb.data.sources import (
    parse_source,
    private_images,
    relocate_source,
    select_balanced,
    source_kind,
    source_photographs,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, image: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return image


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("embedded", "embedded"),
        ("embedded:attacker", "embedded"),
        ("cifar10", "cifar10"),
        ("cifar10:{root}", "cifar10"),
        ("imagenette:{root}", "imagenette"),
        ("{root}/images.NPZ", "npz"),
        ("./cifar10", "folder"),
    ],
)
def test_each_form_is_understood_and_only_its_kind_is_published(
    source: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cifar10", "root/run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "root" / "images.NPZ").touch()
    source = source.format(root=tmp_path / "root")
    parsed, path = parse_source(source)
    assert parsed == source_kind(source) == kind
    assert (path is None) == (source in ("embedded", "embedded:attacker", "cifar10"))
    # Where the notebook runs in another folder, the same place is meant.
    moved = relocate_source(source, start=tmp_path / "root/run")
    monkeypatch.chdir(tmp_path / "root/run")
    parsed, place = parse_source(moved)
    assert parsed == kind
    assert (place is None and path is None) or place.resolve() == (tmp_path / path).resolve()


def test_other_forms_are_errors() -> None:
    for text in ("", "nowhere", "embedded:x", "cifar10:/no/such", "no.npz", "a\0b", 3):
        with pytest.raises(InputError, match=r"^public_source"):
            parse_source(text, "public_source")


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(lambda held: sum(held) >= 2), st.data())
def test_classes_give_evenly_as_far_as_they_go(held: list[int], data: st.DataObject) -> None:
    labels = np.repeat(np.arange(len(held)), held)
    labels = data.draw(st.permutations(labels.tolist()).map(np.array)) if len(labels) < 20 else labels
    n = data.draw(st.integers(1, len(labels)))
    chosen = select_balanced(labels, len(held), n, rng())
    assert len(set(chosen.tolist())) == n
    given_ = np.bincount(labels[chosen], minlength=len(held))
    # A class that could have given more gives at least what any other gives, less the remainder of one.
    for spare in np.flatnonzero(given_ < np.array(held)):
        assert given_[spare] >= given_.max() - 1
    if n < len(labels):
        assert (np.diff(labels[chosen]) >= 0).all()
    else:
        assert chosen.tolist() == list(range(n))


def test_the_draw_is_the_generators_permutation() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1])
    generator = rng(7)
    expected = np.concatenate([generator.permutation([0, 2, 4])[:2], generator.permutation([1, 3, 5])[:2]])
    # The numbers themselves, which no numpy since 1.17 may change.
    assert select_balanced(labels, 2, 4, rng(7)).tolist() == expected.tolist() == [0, 4, 3, 5]
    chosen = select_balanced(np.arange(30) % 3, 3, 11, rng())
    assert np.bincount(chosen % 3).tolist() == [4, 4, 3], "the remainder goes to the first classes"


def test_embedded_as_a_whole_keeps_its_order_and_a_part_is_drawn_with_the_generator() -> None:
    images, labels, names = private_crops()
    whole, part, again, other = (
        private_images("embedded", n, generator=rng(seed)) for n, seed in ((100, 0), (23, 0), (23, 0), (23, 1))
    )
    assert np.array_equal(whole.images, images)
    assert np.array_equal(whole.labels, labels)
    assert whole.class_names == names
    assert np.array_equal(part.images, again.images)
    assert not np.array_equal(part.images, other.images)
    assert np.bincount(part.labels).tolist() == [3] * 3 + [2] * 7
    for image, label in zip(part.images, part.labels, strict=True):
        assert labels[(images == image).all(axis=(1, 2, 3))].tolist() == [label]
    for n in (1, -5, 101):
        with pytest.raises(InputError, match=r"n_private: .*'embedded' holds 100 images"):
            private_images("embedded", n, generator=rng())
    with pytest.raises(InputError, match="holds public images only"):
        private_images("embedded:attacker", 2, generator=rng())


def test_a_plain_folder_is_one_class_and_folders_in_it_are_several(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    pictures = [write(folder / f"{i}.png", noise(48, 64, 3, seed=i)) for i in range(3)]
    (folder / "readme.txt").touch()
    result = private_images(str(folder), 3, generator=rng())
    assert result.class_names == ("mine",)
    assert result.labels.tolist() == [0, 0, 0]
    for got, picture in zip(result.images, pictures, strict=True):
        assert np.array_equal(got, reduce_area(picture[:, 8:56], (32, 32)))
    for i in range(4):
        write(tmp_path / "ants" / f"{i}.png", noise(32, 32, 3, seed=i))
    result = private_images(str(tmp_path), 5, generator=rng())
    assert result.class_names == ("ants", "mine")
    assert result.labels.tolist() == [0, 0, 0, 1, 1]


def test_folders_that_cannot_serve(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            private_images(str(tmp_path), 2, generator=rng())

    refused("holds no image")
    write(tmp_path / "a" / "1.png", noise(40, 40, 3))
    write(tmp_path / "a" / "2.png", noise(40, 31, 3))
    refused(r"2\.png: has 31 x 40 pixels; private images need 32")
    (tmp_path / "a" / "2.png").write_bytes((tmp_path / "a" / "1.png").read_bytes()[:200])
    refused(r"2\.png: is not a readable image")
    write(tmp_path / "b" / "cat" / "1.png", noise(40, 40, 3))
    refused(r"holds a/1\.png and b/cat/1\.png; give a folder of images, or a folder of class folders")
    write(tmp_path / "loose.png", noise(40, 40, 3))
    (tmp_path / "b" / "cat" / "1.png").unlink()
    refused(r"holds loose\.png and a/1\.png; give a folder of images, or a folder of class folders")


@pytest.mark.parametrize("names", [("x", "y", "z", "none"), None])
def test_an_npz_file_is_used_as_it_is_and_classes_without_names_are_numbered(tmp_path: Path, names) -> None:
    images, labels = noise(6, 20, 256, 3), np.array([1, 0, 2, 1, 0, 2], np.uint8)
    named = {"class_names": np.array(names)} if names else {}
    np.savez(tmp_path / "a.npz", images=images, labels=labels, **named)
    result = private_images(str(tmp_path / "a.npz"), 6, generator=rng())
    assert np.array_equal(result.images, images)
    assert result.labels.tolist() == labels.tolist()
    assert result.labels.dtype == np.int64
    assert result.class_names == (names or ("0", "1", "2"))


GOOD = {"images": noise(4, 32, 32, 3), "labels": np.arange(4)}
UNFIT = (
    ({"images": None}, "no array named images"),
    ({"images": noise(4, 32, 32, 3).astype(np.float32)}, r"must be uint8 \(n, h, w, 3\)"),
    ({"images": noise(4, 32, 32)}, r"must be uint8 \(n, h, w, 3\)"),
    ({"images": noise(0, 32, 32, 3), "labels": np.zeros(0, int)}, r"must be uint8 \(n, h, w, 3\)"),
    ({"images": noise(4, 257, 1, 3)}, "at most 256 px per side"),
    ({"labels": None}, "labels must be 4 whole numbers"),
    ({"labels": np.arange(4.0)}, "labels must be 4 whole numbers"),
    ({"labels": np.arange(4) - 1}, r"whole numbers in 0 \.\. 9999"),
    ({"class_names": np.array(["a", "b"])}, "class_names must be"),
    ({"images": np.array([{}] * 4, dtype=object)}, "pickled"),
)


def test_npz_files_that_cannot_serve_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=rf"bad\.npz: .*{message}"):
            private_images(str(path), 2, generator=rng())

    for change, message in UNFIT:
        np.savez(path, **{key: value for key, value in (GOOD | change).items() if value is not None})
        refused(message)
    np.savez_compressed(path, **GOOD)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:100] + b"\xff" * 50 + whole[150:]):
        path.write_bytes(content)
        refused(r"is not a readable \.npz file")
    with zipfile.ZipFile(path, "w") as container:
        container.writestr("images.npy", b"not an array")
    refused("")


def test_public_photographs_are_found_at_any_depth_of_a_folder(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", images=noise(2, 32, 32, 3))
    for source, message in (
        ("cifar10", "has no photographs"),
        (str(tmp_path / "p.npz"), "has no photographs"),
        (str(tmp_path), "holds no image"),
    ):
        with pytest.raises(InputError, match=message):
            source_photographs(source)
    for name in ["b.png", "x/y/a.png", "x/c.png"]:
        write(tmp_path / name, noise(70, 80, 3))
    photos = source_photographs(str(tmp_path))
    assert [photo.name for photo in photos] == ["b.png", "x/c.png", "x/y/a.png"]
    assert {(photo.width, photo.height) for photo in photos} == {(80, 70)}
