"""A whole challenge: built, saved, loaded, made again; and nothing secret in the public half."""

from __future__ import annotations

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASS_NAMES, SEED, Sources, write_sources

from instahide_nb.challenge.build import (
    Challenge,
    build_challenge,
    first_difference,
    regenerate,
    save_challenge,
)
from instahide_nb.challenge.release import load_release
from instahide_nb.challenge.secret import check_halves, load_secret
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import sha256_file
from instahide_nb.core.params import GenDataParams

KEY = "0123456789abcdef" * 4
ARRAYS = ("private", "private_label", "pair", "coefficient", "public", "public_index", "mask")


def all_files(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_what_is_kept_explains_what_is_published(challenge: Challenge, sources: Sources) -> None:
    """Every encryption from private images, public images, coefficients and mask alone."""
    secret, release = challenge.secret, challenge.release
    assert (secret.private == sources.private).all()
    assert (secret.public == sources.public).all()
    assert (secret.private_label == sources.label).all()
    n, *image = release.encryption.shape
    sign = 2.0 * np.unpackbits(secret.mask, axis=1, count=int(np.prod(image))).reshape(n, *image) - 1
    images = np.concatenate([secret.private[secret.pair], secret.public[secret.public_index]], axis=1)
    weight = (secret.coefficient.astype(np.float64) * 2**24).astype(np.int64)
    total = (weight[:, :, None, None, None] * (2 * images.astype(np.int64) - 255)).sum(axis=1)
    assert (release.encryption == (sign * total / (255 * 2**24)).astype(np.float32)).all()


FORMS: list[dict[str, Any]] = [
    {},
    *(
        {"private_per_mix": p, "labels": labels}
        for p, labels in ((1, "classes"), (3, "coefficients"), (4, "none"))
    ),
    {"scheme": "inside"},
    {"scheme": "inside", "labels": "classes"},
    {"scheme": "mixup", "k": 2, "labels": "none"},
]


@pytest.mark.parametrize("values", FORMS, ids=str)
def test_labels_show_what_was_asked_for(
    values: dict[str, Any], gen_data_params: GenDataParams, tmp_path: Path
) -> None:
    params = gen_data_params.changed(**values)
    made, p = build_challenge(params), params.private_per_row
    secret, label, info = made.secret, made.release.label, made.release.info
    assert (secret.pair.shape, secret.public_index.shape) == ((35, p), (35, params.k - p))
    assert (np.sort(secret.pair.reshape(5, 7, p), axis=1) == np.arange(7)[:, None]).all(), (
        "once an epoch and place"
    )
    assert (secret.coefficient[:, :p].sum(axis=1) >= 0.3 - 1e-6).all()
    assert (info.labels, info.private_per_row, info.n_public) == (
        params.labels,
        p,
        12 if params.scheme == "cross" else 0,
    )
    save_challenge(tmp_path, made)
    loaded = load_secret(tmp_path / "secret")
    check_halves(load_release(tmp_path / "release"), loaded)
    assert (loaded.inside(3) == secret.inside(3)).all()
    if params.labels == "none":
        assert (label, info.class_names) == (None, ())
        content = json.loads((tmp_path / "release" / "release.json").read_bytes())
        assert [list(content[name]) for name in ("shapes", "sha256")] == [["encryption"], ["encryption.npy"]]
        return
    assert info.class_names == CLASS_NAMES
    expected = np.zeros((35, 3))
    for j in range(p):
        expected[np.arange(35), secret.private_label[secret.pair[:, j]]] += secret.coefficient[:, j]
    assert (label == (expected if params.labels == "coefficients" else expected > 0)).all()


def test_a_saved_challenge_comes_back(challenge: Challenge, saved_run: Path) -> None:
    secret = load_secret(saved_run / "secret")
    for name in ARRAYS:
        saved, loaded = getattr(challenge.secret, name), getattr(secret, name)
        assert (loaded.dtype, loaded.shape, loaded.tobytes()) == (saved.dtype, saved.shape, saved.tobytes())
    assert secret.info == challenge.secret.info
    assert secret.info["start"] == {"seed": SEED}
    # Without release/ and without an out_dir nothing is lost.
    assert first_difference(load_release(saved_run / "release"), regenerate(secret)) is None


@pytest.mark.parametrize(
    "values",
    [
        {"rng": "chacha20"},
        {"rng": "chacha20", "key": KEY.upper()},
        {"seed": "entropy"},
        {"seed": 0},
        {"scheme": "inside"},
        {"scheme": "inside", "k": 2, "seed": "entropy"},
        {"scheme": "mixup", "k": 2},
        {"k": 2},
        {"k": 16, "min_private_sum": 0.05},
        {"n_private": 3},
        {"n_public": 7},
        *FORMS,
    ],
    ids=str,
)
def test_a_challenge_is_made_again_from_its_secret(
    values: dict[str, Any], gen_data_params: GenDataParams, tmp_path: Path
) -> None:
    made = build_challenge(gen_data_params.changed(**values))
    save_challenge(tmp_path, made)
    secret, published = load_secret(tmp_path / "secret"), load_release(tmp_path / "release")
    again = regenerate(secret)
    assert first_difference(published, again) is None
    assert again.info == published.info
    assert len(published.encryption) == 5 * len(secret.private)


def test_pictures_need_not_be_square(tmp_path: Path) -> None:
    files = write_sources(tmp_path, 4, 5, height=6, width=9)
    params = GenDataParams(
        n_private=4, n_public=5, encryptions_per_image=2,
        private_source=str(files.private_path), public_source=str(files.public_path),
    )  # fmt: skip
    made = build_challenge(params)
    assert made.release.encryption.shape == (8, 6, 9, 3)
    save_challenge(tmp_path / "run", made)
    again = regenerate(load_secret(tmp_path / "run" / "secret"))
    assert first_difference(load_release(tmp_path / "run" / "release"), again) is None


@pytest.mark.parametrize(
    "values", [{}, {"rng": "chacha20", "key": KEY}, {"n_private": 3}, {"scheme": "mixup", "k": 2}], ids=str
)
def test_the_same_parameters_give_the_same_files(
    values: dict[str, Any], gen_data_params: GenDataParams, tmp_path: Path
) -> None:
    params = gen_data_params.changed(**values)
    for name in ("a", "b"):
        save_challenge(tmp_path / name, build_challenge(params.changed(out_dir=f"elsewhere/{name}")))
    assert all_files(tmp_path / "a") == all_files(tmp_path / "b")
    assert len(all_files(tmp_path / "a")) == 3 + len(ARRAYS) + 1


def test_other_parameters_give_another_release(challenge: Challenge, gen_data_params: GenDataParams) -> None:
    for values in (
        {"seed": SEED - 1},
        {"rng": "chacha20", "key": KEY},
        {"seed": "entropy"},
        {"scheme": "inside"},
    ):
        other = build_challenge(gen_data_params.changed(**values))
        assert str(first_difference(challenge.release, other.release)).startswith("encryption.npy, row 0 ")
    private = [build_challenge(gen_data_params.changed(n_private=3, seed=s)).secret.private for s in range(8)]
    assert len({images.tobytes() for images in private}) > 1, "which images are taken depends on the seed"


def test_secrets_are_for_their_owner_only(saved_run: Path) -> None:
    folder = saved_run / "secret"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert {path.name for path in files} == {f"{name}.npy" for name in ARRAYS} | {"secret.json"}
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in (saved_run / "release").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def spellings(text: str, number: int, width: int) -> list[bytes]:
    """Ways in which a secret number may stand in a file."""
    return [
        text.encode(), f"{number:x}".encode(), f"{number:X}".encode(),
        number.to_bytes(width, "little"), number.to_bytes(width, "big"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "needles"),
    [
        ({}, spellings(str(SEED), SEED, 4)),
        ({"rng": "chacha20", "key": KEY}, spellings(KEY, int(KEY, 16), 32)),
        ({"seed": "entropy"}, []),
    ],
    ids=["seed", "key", "states"],
)
def test_nothing_secret_is_in_the_release(
    values: dict[str, Any],
    needles: list[bytes],
    gen_data_params: GenDataParams,
    sources: Sources,
    tmp_path: Path,
) -> None:
    made = build_challenge(gen_data_params.changed(out_dir=str(tmp_path), **values))
    save_challenge(tmp_path, made)
    needles = [*needles, str(tmp_path).encode(), str(sources.private_path.parent).encode(), b"hidden-"]
    for state in made.secret.info["start"].get("states", {}).values():
        needles += [state[:32].encode(), bytes.fromhex(state)[:16]]
    content = {path: path.read_bytes() for path in (tmp_path / "release").iterdir()}
    assert len(content) == 3
    for needle in needles:
        assert [path.name for path, data in content.items() if needle in data] == []
    names = set(json.loads((tmp_path / "release" / "release.json").read_bytes()))
    assert names.isdisjoint({"seed", "key", "start", "states", "out_dir", "parameters"})
    # The search does find them where they are: the secret's text, the sources' folder and name.
    secret = (tmp_path / "secret" / "secret.json").read_bytes()
    assert sum(needle in secret for needle in needles) >= 3


def test_the_first_differing_row_is_named(challenge: Challenge) -> None:
    release = challenge.release
    assert first_difference(release, release) is None
    encryption = release.encryption.copy()
    encryption[[9, 4, 30], 1, 2, 0] += np.float32(2**-24)
    other = dataclasses.replace(release, encryption=encryption)
    assert first_difference(release, other) == "encryption.npy, row 4 (and 2 others)"
    label = release.label.copy()
    label[34, 0] += 1
    assert (
        first_difference(release, dataclasses.replace(release, label=label))
        == "label.npy, row 34 (and 0 others)"
    )
    zero, minus = release.encryption.copy(), release.encryption.copy()
    zero[2, 0, 0, 0], minus[2, 0, 0, 0] = 0.0, -0.0
    left, right = (dataclasses.replace(release, encryption=e) for e in (zero, minus))
    assert first_difference(left, right) == "encryption.npy, row 2 (and 0 others)"
    fewer = dataclasses.replace(release, label=label[:3])
    assert first_difference(release, fewer) == "label.npy has shape (35, 3), made again it has (3, 3)"
    without = dataclasses.replace(release, label=None)
    assert first_difference(without, without) is None
    assert first_difference(release, without) == "label.npy belongs to only one of them"


def test_a_tampered_secret_is_found_out(run: Path) -> None:
    private = np.load(run / "secret" / "private.npy")
    private[3, 0, 0, 0] ^= 1
    np.save(run / "secret" / "private.npy", private)
    secret = load_secret(run / "secret")
    difference = first_difference(load_release(run / "release"), regenerate(secret))
    row = int(np.flatnonzero((secret.pair == 3).any(axis=1))[0])
    assert difference is not None
    assert difference.startswith(f"encryption.npy, row {row} (and ")


@pytest.mark.parametrize("values", [{"seed": "entropy"}, {"rng": "chacha20"}], ids=str)
def test_a_challenge_that_cannot_be_made_again_is_not_overwritten(
    values: dict[str, Any], gen_data_params: GenDataParams, challenge: Challenge, tmp_path: Path
) -> None:
    params = gen_data_params.changed(**values)
    first = build_challenge(params)
    save_challenge(tmp_path, first)
    before = all_files(tmp_path)
    for other in (challenge, build_challenge(params)):
        with pytest.raises(InputError, match=r"^out_dir: .* choose another folder, or delete that one"):
            save_challenge(tmp_path, other)
        assert all_files(tmp_path) == before
    save_challenge(tmp_path, first)
    assert all_files(tmp_path) == before
    # Where nothing was published yet, nothing is lost.
    (tmp_path / "release" / "release.json").unlink()
    save_challenge(tmp_path, challenge)
    assert load_secret(tmp_path / "secret").info == challenge.secret.info


def test_a_challenge_with_a_seed_is_overwritten(run: Path, gen_data_params: GenDataParams) -> None:
    other = build_challenge(gen_data_params.changed(seed=1, k=3))
    save_challenge(run, other)
    assert first_difference(load_release(run / "release"), other.release) is None
    assert load_secret(run / "secret").info["start"] == {"seed": 1}


@pytest.mark.parametrize("text", ["", "{}", '{"parameters": []}'])
def test_a_secret_that_cannot_be_read_is_not_overwritten(text: str, run: Path, challenge: Challenge) -> None:
    (run / "secret" / "secret.json").write_text(text)
    with pytest.raises(InputError):
        save_challenge(run, challenge)
    assert (run / "secret" / "secret.json").read_text() == text


def test_a_run_that_cannot_be_written_is_refused(challenge: Challenge, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="cannot be made"):
            save_challenge(out, challenge)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_sources_that_cannot_serve_are_refused(gen_data_params: GenDataParams, tmp_path: Path) -> None:
    files = write_sources(tmp_path, 7, 12, height=8, width=9)
    for values, words in (
        ({"n_private": 8}, r"^n_private: 8 is not possible, private_source .* holds 7 images"),
        ({"n_public": 13}, r"^public_source .*: holds 12 patches of .*; 13 of .* are needed"),
        ({"private_source": "nowhere"}, "^private_source 'nowhere': no such folder"),
        ({"public_source": "imagnet"}, "^public_source 'imagnet'"),
        ({"public_source": str(files.public_path)}, r"^public_source .*\(8, 9\) pixels; 12 of \(8, 8\)"),
    ):
        with pytest.raises(InputError, match=words):
            build_challenge(gen_data_params.changed(**values))


def refused(secret: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_secret(secret)
    assert str(caught.value).startswith(f"{secret / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in ARRAYS), "secret.json"])
def test_missing_and_damaged_secrets_are_refused(name: str, run: Path) -> None:
    path = run / "secret" / name
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2]):
        path.write_bytes(damaged)
        refused(run / "secret", name)
    path.unlink()
    refused(run / "secret", name)
    with pytest.raises(InputError, match="no such folder; name the secret/ folder of a run"):
        load_secret(run / "nowhere")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("private", lambda a: a[:3]),
        ("private", lambda a: a[..., :2]),
        ("private", lambda a: a.astype(np.float32)),
        ("pair", lambda a: a + 1),
        ("pair", lambda a: a - 1),
        ("pair", lambda a: a[:, :1]),
        ("pair", lambda a: a[:0]),
        ("private_label", lambda a: a[1:]),
        ("private_label", lambda a: a + 3),
        ("private_label", lambda a: a - 1),
        ("coefficient", lambda a: a[1:]),
        ("mask", lambda a: a[1:]),
        ("public_index", lambda a: a[1:]),
        ("public_index", lambda a: a + 12),
    ],
)
def test_secrets_that_do_not_fit_each_other_are_refused(name: str, change: Any, run: Path) -> None:
    path = run / "secret" / f"{name}.npy"
    np.save(path, change(np.load(path)))
    refused(run / "secret", path.name)


@pytest.mark.parametrize(
    "values",
    [
        {"parameters": 5},
        {"parameters": {"rng": "chacha20"}},
        {"parameters": {"seed": "entropy"}},
        {"parameters": {"sede": 1}},
        {"start": []},
        {"class_names": "abc"},
        {"class_names": [1, 2, 3]},
    ],
    ids=str,
)
def test_a_secret_json_of_other_types_is_refused(values: dict[str, Any], run: Path) -> None:
    path = run / "secret" / "secret.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    refused(run / "secret", "secret.json")


def test_halves_of_two_challenges_are_told_apart(
    challenge: Challenge, gen_data_params: GenDataParams, tmp_path: Path
) -> None:
    check_halves(challenge.release, challenge.secret)
    rounded = dataclasses.replace(challenge.release, label=challenge.release.label.round(2))
    check_halves(rounded, challenge.secret)
    other = build_challenge(gen_data_params.changed(seed=1))
    with pytest.raises(InputError, match="name the two folders of one run"):
        check_halves(challenge.release, other.secret)
    fewer = build_challenge(gen_data_params.changed(encryptions_per_image=4))
    with pytest.raises(InputError, match=r"^secret: has 28 encryptions .*, the release 35"):
        check_halves(challenge.release, fewer.secret)
