"""The public half: what is written, what is read back, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instahide_nb.challenge.build import Challenge
from instahide_nb.challenge.release import ReleaseInfo, load_release
from instahide_nb.challenge.secret import load_secret
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import read_json, sha256_file
from instahide_nb.data.sources import parse_source


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_release(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert [word for word in words if word not in message] == [], message


def two_arrays(folder: Path, encryption: Any, label: Any) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / "encryption.npy", encryption)
    np.save(folder / "label.npy", label)
    return folder


def test_release_json_tells_everything_public(challenge: Challenge, saved_run: Path) -> None:
    folder = saved_run / "release"
    assert read_json(folder / "release.json") == {
        "scheme": "cross",
        "rng": "mt19937",
        "k": 4,
        "n_private": 7,
        "encryptions_per_image": 5,
        "max_coefficient": 0.65,
        "min_private_sum": 0.3,
        "n_public": 12,
        "min_keypoints": 40,
        "labels": "coefficients",
        "augment": "none",
        "private_per_mix": 2,
        "public_once": False,
        "eight_bits": False,
        "private_source": "npz",
        "public_source": "npz",
        "class_names": ["square", "circle", "cross"],
        "format": 1,
        "stream": 1,
        "shapes": {"encryption": [35, 8, 8, 3], "label": [35, 3]},
        "sha256": {name: sha256_file(folder / name) for name in ("encryption.npy", "label.npy")},
    }


def test_a_relative_path_that_fails_names_the_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for read, path, name in (
        (load_release, "runs/release", "runs/release"),
        (load_release, "empty", "empty/encryption.npy"),
        (load_secret, "runs/secret", "runs/secret"),
        (parse_source, "cifar10:runs", "runs"),
        (parse_source, "runs.npz", "runs.npz"),
        (parse_source, "runs", "runs"),
    ):
        with pytest.raises(InputError, match=f"{re.escape(str(tmp_path / name))}[:;]"):
            read(path)


def test_two_arrays_of_2020_are_a_release(tmp_path: Path) -> None:
    encryption = np.random.default_rng(0).uniform(-1, 1, (200, 4, 5, 3)).astype(np.float32)
    label = np.eye(200, 10, dtype=np.float32) / 2
    release = load_release(two_arrays(tmp_path / "r", encryption, label))
    assert (release.encryption == encryption).all()
    assert (release.label == label).all()
    assert release.info == ReleaseInfo(n_private=100, encryptions_per_image=2, scheme="cross", k=6)
    assert release.assumptions() == "assumed, as in the challenge of 2020: scheme cross, k 6, n_private 100"
    np.save(tmp_path / "r" / "label.npy", 2 * label)
    assert load_release(tmp_path / "r").info.labels == "classes"
    (tmp_path / "r" / "label.npy").unlink()
    alone = load_release(tmp_path / "r")
    assert (alone.label, alone.info.labels, alone.info.n_private) == (None, "none", 100)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels_first", [False, True])
def test_float64_and_channels_first_are_read(dtype: Any, channels_first: bool, tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (150, 4, 6, 3)).astype(dtype)
    values[0, 0, 0] = 1.0005  # as rounding to a few decimals may leave it
    stored = np.asarray(values.transpose(0, 3, 1, 2) if channels_first else values)
    release = load_release(two_arrays(tmp_path / "r", stored, np.zeros((150, 10), dtype)))
    assert release.encryption.dtype == release.label.dtype == np.float32
    assert (release.encryption == values.astype(np.float32)).all()
    assert release.encryption.flags.c_contiguous
    assert release.info.encryptions_per_image == 1


GOOD = -np.ones((3, 4, 4, 3), np.float32)
LABEL = np.zeros((3, 10), np.float32)
NO_RELEASE = (
    (GOOD[:2], LABEL, ("label.npy", "3 labels for 2 encryptions")),
    (GOOD.astype(np.uint8), LABEL, ("encryption.npy", "uint8", "float32 or float64")),
    (GOOD, LABEL.astype(np.int64), ("label.npy", "int64", "(n, classes)")),
    (GOOD[0], LABEL, ("encryption.npy", "shape")),
    (GOOD, LABEL[0], ("label.npy", "shape")),
    (GOOD[:0], LABEL[:0], ("encryption.npy", "no values")),
    (GOOD, LABEL, ("n_private: 100", "3 rows")),
    (GOOD[:1], LABEL[:1], ("n_private: 100", "1 rows")),
    (GOOD + 3, LABEL, ("encryption.npy", "[-1, 1]")),
    (GOOD, LABEL - 1, ("label.npy", "[0, 1]")),
    (GOOD + np.float32("nan"), LABEL, ("encryption.npy", "not numbers")),
    (GOOD, LABEL + np.float32("nan"), ("label.npy",)),
)


def test_arrays_that_are_no_release_are_refused(tmp_path: Path) -> None:
    for encryption, label, words in NO_RELEASE:
        refused(two_arrays(tmp_path / "r", encryption, label), *words)


def test_missing_changed_and_damaged_files_are_refused(run: Path) -> None:
    folder = run / "release"
    refused(run, "is the folder of a run; give", str(folder))
    refused(run / "nowhere", "no such folder; give the release/ folder of a run")
    refused(folder / "label.npy", "no such folder")
    for name in ("encryption.npy", "label.npy"):
        whole, array = (folder / name).read_bytes(), np.load(folder / name)
        array.flat[0] = 0.25
        np.save(folder / name, array)
        refused(folder, name, "sha256")
        (folder / name).unlink()
        refused(
            folder, f"{name}: no such file" if name == "encryption.npy" else "label.npy: is missing; fetch it, or set"
        )
        for other in (b"version https://git-lfs.github.com/spec/v1\nsize 9\n", b"<!DOCTYPE html>\n<html>"):
            (folder / name).write_bytes(other)
            refused(folder, name, "fetch it again if it is a web page or a Git LFS pointer")
        (folder / name).write_bytes(whole)
    for text in ("", "{", "[]", "null"):
        (folder / "release.json").write_text(text)
        refused(folder, "release.json")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"k": "4"}, ("k:", "'4'")),
        ({"k": 17}, ("k:",)),
        ({"scheme": "rot13"}, ("scheme:",)),
        ({"max_coefficient": float("nan")}, ("max_coefficient:",)),
        ({"min_private_sum": [0.3]}, ("min_private_sum:",)),
        ({"n_private": 8}, ("8 x 5", "35 rows")),
        ({"encryptions_per_image": -5, "n_private": -7}, ("n_private",)),
        ({"private_per_mix": 5}, ("private_per_mix: 5 of 4",)),
        ({"private_per_mix": 1}, ("label.npy: row", "shows 2 classes", "contains 1")),
        ({"labels": "some"}, ("labels:", "'some'")),
        ({"labels": "classes"}, ("label.npy", "0 or 1")),
        ({"class_names": "cross"}, ("class_names:", "'cross'")),
        ({"class_names": ["a", "b"]}, ("names 2 classes", "label.npy has 3")),
        ({"format": 2}, ("format: 2", "should be 1")),
        ({"sha256": {"encryption.npy": "0", "label.npy": "0"}}, ("sha256",)),
        ({"sha256": []}, ("sha256",)),
    ],
    ids=str,
)
def test_a_release_json_that_does_not_fit_is_refused(values: dict[str, Any], words: tuple[str, ...], run: Path) -> None:
    path = run / "release" / "release.json"
    path.write_text(json.dumps(read_json(path) | values))
    refused(run / "release", *words)


def test_a_release_json_written_by_hand_says_only_what_is_known(run: Path) -> None:
    path = run / "release" / "release.json"
    path.write_text('{"n_private": 7, "k": 4, "min_private_sum": 0, "more": [1]}')
    release = load_release(run / "release")
    assert release.info == ReleaseInfo(n_private=7, k=4, min_private_sum=0, encryptions_per_image=5)
    assert release.assumed == ("scheme",)
    # Encryptions without a negative value have no mask.
    np.save(run / "release" / "encryption.npy", np.load(run / "release" / "encryption.npy") / 2 + 0.5)
    refused(run / "release", "encryption.npy: no value is negative")
    path.write_text('{"n_private": 7, "k": 2, "scheme": "mixup"}')
    assert load_release(run / "release").encryption.min() >= 0
