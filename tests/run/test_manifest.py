"""The manifest: which files a stage made, by hash, and what differs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import sha256_file
from instahide_nb.run import manifest
from instahide_nb.run.manifest import artefact_digest, compare, expected, read_manifest, record_expected, record_stage

GEN_DATA = [
    "release/encryption.npy",
    "release/label.npy",
    "release/release.json",
    "secret/coefficient.npy",
    "secret/mask.npy",
    "secret/pair.npy",
    "secret/private.npy",
    "secret/private_label.npy",
    "secret/public.npy",
    "secret/public_index.npy",
]


def test_stages_are_recorded_by_the_hashes_of_their_files_added_and_replaced(run: Path) -> None:
    found = record_stage(run, "gen_data", {"k": 4}, "tiny")
    assert list(found) == GEN_DATA
    assert found == {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in GEN_DATA}
    assert read_manifest(run).as_dict() == {
        "preset": "tiny",
        "stages": {"gen_data": {"parameters": {"k": 4}, "files": found}},
        "begun": None,
    }
    text = (run / "manifest.json").read_text()
    assert "secret.json" not in text
    assert "3141592653" not in text
    folder = run / "attack" / "grey"
    folder.mkdir(parents=True)
    for name in ("decryption.npy", "recovered.npy", "assignment.npy", "attack.json", "attack.ipynb"):
        (folder / name).write_text(name)
    record_stage(run, "attack/grey", {"method": "grey"}, "tiny")
    record_stage(run, "gen_data", {"k": 5}, None)
    content = read_manifest(run)
    assert content.preset is None
    assert content.stages["gen_data"].parameters == {"k": 5}
    # attack.json and the notebook hold times and are left out.
    assert sorted(content.stages["attack/grey"].files) == [
        f"attack/grey/{name}.npy" for name in ("assignment", "decryption", "recovered")
    ]


def test_pictures_are_hashed_by_their_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    small, large, other = (tmp_path / f"{name}.png" for name in ("small", "large", "other"))
    cv2.imwrite(str(small), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    cv2.imwrite(str(large), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    pixels[3, 4, 1] ^= 1
    cv2.imwrite(str(other), pixels)
    assert small.read_bytes() != large.read_bytes()
    assert artefact_digest(small) == artefact_digest(large) != artefact_digest(other)
    assert artefact_digest(small) != sha256_file(small)


def test_what_differs_is_named(run: Path) -> None:
    wanted = record_stage(run, "gen_data", {}, None)
    assert compare(run, wanted) == []
    (run / "secret" / "mask.npy").unlink()
    (run / "release" / "release.json").write_text("{}")
    (run / "release" / "extra.txt").write_text("nobody asked")
    empty = hashlib.sha256(b"{}").hexdigest()[:16]
    assert compare(run, wanted) == [
        f"release/release.json: {empty}, expected {wanted['release/release.json'][:16]}",
        "secret/mask.npy: missing",
    ]


def test_expected_hashes_are_recorded_from_a_run_of_a_preset(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "EXPECTED", tmp_path / "expected")
    assert expected("tiny") is None
    found = record_stage(run, "gen_data", {}, "tiny")
    path = record_expected(run)
    assert path == tmp_path / "expected" / "tiny.json"
    assert expected("tiny") == found
    record_stage(run, "gen_data", {}, None)
    with pytest.raises(InputError, match="its parameters are not those of a preset"):
        record_expected(run)
