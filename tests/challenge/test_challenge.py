"""A whole challenge: built, saved, loaded, made again; and nothing secret in the public half."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASS_NAMES, SEED, Sources, write_sources

from instahide_nb.challenge.build import Challenge, build_challenge, first_difference, regenerate, save_challenge
from instahide_nb.challenge.release import load_release
from instahide_nb.challenge.secret import check_halves, load_secret
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import sha256_file
from instahide_nb.core.params import GenDataParams
from instahide_nb.scheme.views import apply_views

KEY = "0123456789abcdef" * 4
ARRAYS = ("private", "private_label", "pair", "coefficient", "public", "public_index", "mask")


def all_files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("augment", ["none", "flip", "crop", "crop_flip"])
def test_what_is_kept_explains_what_is_published(
    augment: str, challenge: Challenge, gen_data_params: GenDataParams, sources: Sources
) -> None:
    """Every encryption from views of private images, public images, coefficients and mask alone."""
    made = build_challenge(gen_data_params.changed(augment=augment))
    secret, release = made.secret, made.release
    assert (secret.private == sources.private).all()
    assert (secret.public == sources.public).all()
    assert (secret.private_label == sources.label).all()
    assert secret.info["start"] == {"seed": SEED}
    n, *image = release.encryption.shape
    sign = 2.0 * np.unpackbits(secret.mask, axis=1, count=int(np.prod(image))).reshape(n, *image) - 1
    images = np.concatenate([secret.private[secret.pair], secret.public[secret.public_index]], axis=1)
    if augment != "none":
        for j in range(2):
            images[:, j] = apply_views(images[:, j], secret.view[:, j])
        place = np.arange(n)[:, None] // 7 * 7 + secret.pair  # of an image in an epoch
        named = np.concatenate([place[:, :, None], secret.view], axis=2).reshape(-1, 4)
        assert len(np.unique(named, axis=0)) == n, "one view per image and epoch, in both its places"
    private, inside = secret.mixed()
    assert (private[inside] == images[:, :2]).all()
    weight = (secret.coefficient.astype(np.float64) * 2**24).astype(np.int64)
    total = (weight[:, :, None, None, None] * (2 * images.astype(np.int64) - 255)).sum(axis=1)
    assert (release.encryption == (sign * total / (255 * 2**24)).astype(np.float32)).all()
    for name in ARRAYS:
        assert (getattr(secret, name) == getattr(challenge.secret, name)).all(), "the stream is the same"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"rng": "chacha20"},
        {"rng": "chacha20", "key": KEY.upper()},
        {"seed": "entropy"},
        {"seed": "entropy", "key": KEY},
        {"eight_bits": True},
        {"rng": "mt19937-secure-permutations"},
        {"rng": "mt19937-secure-permutations", "seed": "entropy", "scheme": "inside"},
        {"public_once": True, "k": 3, "n_private": 2, "n_public": 10},
        {"seed": 0, "private_per_mix": 1, "labels": "classes"},
        {"private_per_mix": 4, "labels": "none"},
        {"scheme": "inside", "labels": "classes"},
        {"scheme": "inside", "k": 2, "seed": "entropy"},
        {"scheme": "mixup", "k": 2, "labels": "none"},
        {"k": 2, "n_public": 7},
        {"k": 16, "min_private_sum": 0.05},
        {"n_private": 3},
        {"not square": True, "n_private": 4},
        {"augment": "flip", "seed": "entropy"},
        {"augment": "crop", "scheme": "inside"},
        {"augment": "crop_flip", "rng": "chacha20"},
    ],
    ids=str,
)
def test_a_challenge_comes_back_and_is_made_again_from_its_secret(
    values: dict[str, Any], gen_data_params: GenDataParams, tmp_path: Path
) -> None:
    if values.pop("not square", False):
        files = write_sources(tmp_path, 4, 12, height=6, width=9)
        values |= {"private_source": str(files.private_path), "public_source": str(files.public_path)}
    params = gen_data_params.changed(**values)
    made, p, n = build_challenge(params), params.private_per_row, 5 * params.n_private
    save_challenge(tmp_path / "run", made)
    secret, release = load_secret(tmp_path / "run" / "secret"), load_release(tmp_path / "run" / "release")
    assert secret.info == made.secret.info
    for name in (*ARRAYS, "view") if params.augment != "none" else ARRAYS:
        saved, loaded = getattr(made.secret, name), getattr(secret, name)
        assert (loaded.dtype, loaded.shape, loaded.tobytes()) == (saved.dtype, saved.shape, saved.tobytes())
    check_halves(release, secret)
    if release.label is not None:
        check_halves(replace(release, label=release.label.round(2)), secret)
    again = regenerate(secret)
    assert first_difference(release, again) is None
    assert release.info == again.info == made.release.info

    assert (secret.pair.shape, secret.public_index.shape) == ((n, p), (n, params.k - p))
    order = np.sort(secret.pair.reshape(5, -1, p), axis=1)
    assert (order == np.arange(params.n_private)[:, None]).all(), "once in each epoch and place"
    assert (secret.coefficient[:, :p].sum(axis=1) >= params.min_private_sum - 1e-6).all()
    public = params.n_public if params.scheme == "cross" else 0
    assert (release.info.private_per_row, release.info.n_public) == (p, public)
    if params.labels == "none":
        assert (release.label, release.info.class_names) == (None, ())
        content = json.loads((tmp_path / "run/release/release.json").read_bytes())
        assert [list(content[name]) for name in ("shapes", "sha256")] == [["encryption"], ["encryption.npy"]]
        return
    assert release.info.class_names == CLASS_NAMES
    expected = np.zeros((n, 3))
    for j in range(p):
        expected[np.arange(n), secret.private_label[secret.pair[:, j]]] += secret.coefficient[:, j]
    assert (release.label == (expected if params.labels == "coefficients" else expected > 0)).all()


def test_the_same_parameters_give_the_same_files(gen_data_params: GenDataParams, tmp_path: Path) -> None:
    for name in ("a", "b"):
        params = gen_data_params.changed(rng="chacha20", key=KEY, n_private=3, out_dir=f"elsewhere/{name}")
        save_challenge(tmp_path / name, build_challenge(params))
    assert all_files(tmp_path / "a") == all_files(tmp_path / "b")
    secret = {f"secret/{name}.npy" for name in ARRAYS} | {"secret/secret.json"}
    released = {f"release/{name}" for name in ("encryption.npy", "label.npy", "release.json")}
    assert set(all_files(tmp_path / "a")) == secret | released
    for path in (tmp_path / "a").glob("*/*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.parent.name == "secret" else 0o644)
    assert stat.S_IMODE((tmp_path / "a" / "secret").stat().st_mode) == 0o700


def test_other_parameters_give_another_release(challenge: Challenge, gen_data_params: GenDataParams) -> None:
    for values in ({"seed": SEED - 1}, {"rng": "chacha20", "key": KEY}, {"seed": "entropy"}):
        other = build_challenge(gen_data_params.changed(**values))
        assert str(first_difference(challenge.release, other.release)).startswith("encryption.npy, row 0 ")
        with pytest.raises(InputError, match="give the two folders of one run"):
            check_halves(challenge.release, other.secret)
    fewer = build_challenge(gen_data_params.changed(encryptions_per_image=4))
    with pytest.raises(InputError, match=r"^secret: has 28 encryptions .*, but the release has 35"):
        check_halves(challenge.release, fewer.secret)


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
        ({"rng": "mt19937-secure-permutations", "key": KEY}, spellings(KEY, int(KEY, 16), 32)),
        ({"seed": "entropy"}, []),
    ],
    ids=["seed", "key", "permutations", "states"],
)
def test_nothing_secret_is_in_the_release(
    values: dict[str, Any], needles: list[bytes], gen_data_params: GenDataParams, sources: Sources, tmp_path: Path
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

    def difference(name: str, array: Any) -> str | None:
        return first_difference(release, replace(release, **{name: array}))

    encryption, label = release.encryption.copy(), release.label.copy()
    assert difference("encryption", encryption) is None
    encryption[[9, 4, 30], 1, 2, 0] += np.float32(2**-24)
    label[34, 0] += 1
    assert difference("encryption", encryption) == "encryption.npy, row 4 (and 2 others)"
    assert difference("label", label) == "label.npy, row 34 (and 0 others)"
    assert difference("label", label[:3]) == "label.npy has shape (35, 3), made again it has (3, 3)"
    assert difference("label", None) == "label.npy belongs to only one of them"
    zero, minus = (replace(release, encryption=np.full_like(encryption, x)) for x in (0.0, -0.0))
    assert first_difference(zero, minus) == "encryption.npy, row 0 (and 34 others)"


@pytest.mark.parametrize("values", [{"seed": "entropy"}, {"rng": "chacha20"}], ids=str)
def test_a_challenge_that_cannot_be_made_again_is_not_overwritten(
    values: dict[str, Any], gen_data_params: GenDataParams, challenge: Challenge, tmp_path: Path
) -> None:
    params = gen_data_params.changed(**values)
    first = build_challenge(params)
    save_challenge(tmp_path, first)
    before = all_files(tmp_path)
    for other in (challenge, build_challenge(params)):
        with pytest.raises(InputError, match=r"^out_dir: .* choose another folder"):
            save_challenge(tmp_path, other)
        assert all_files(tmp_path) == before
    save_challenge(tmp_path, first)
    assert all_files(tmp_path) == before
    # Where nothing was published yet, nothing is lost; nor where the seed was given.
    (tmp_path / "release" / "release.json").unlink()
    save_challenge(tmp_path, challenge)
    other = build_challenge(gen_data_params.changed(seed=1, k=3))
    save_challenge(tmp_path, other)
    assert first_difference(load_release(tmp_path / "release"), other.release) is None
    assert load_secret(tmp_path / "secret").info == other.secret.info
    # A secret that cannot be read may be the only copy of a drawn seed.
    for text in ("", "{}", '{"parameters": []}'):
        (tmp_path / "secret" / "secret.json").write_text(text)
        with pytest.raises(InputError):
            save_challenge(tmp_path, challenge)
        assert (tmp_path / "secret" / "secret.json").read_text() == text


def test_runs_that_cannot_be_written_and_sources_that_cannot_serve_are_refused(
    challenge: Challenge, gen_data_params: GenDataParams, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be made"):
        save_challenge(tmp_path / "file" / "run", challenge)
    files = write_sources(tmp_path, 7, 12, height=8, width=9)
    for values, words in (
        ({"n_private": 8}, r"^n_private: 8 is not possible, private_source .* holds 7 images"),
        ({"n_public": 13}, r"^public_source .*: holds 12 patches of .*; 13 of .* are needed"),
        ({"public_source": "imagnet"}, "^public_source 'imagnet'"),
        ({"public_source": str(files.public_path)}, r"^public_source .*\(8, 9\) pixels; 12 of \(8, 8\)"),
    ):
        with pytest.raises(InputError, match=words):
            build_challenge(gen_data_params.changed(**values))


def test_views_that_were_changed_or_lost_are_noticed(gen_data_params: GenDataParams, tmp_path: Path) -> None:
    made = build_challenge(gen_data_params.changed(augment="flip", seed="entropy"))
    save_challenge(tmp_path, made)
    path, start = tmp_path / "secret" / "view.npy", tmp_path / "secret" / "secret.json"
    view = np.load(path)
    for bad in (view + np.int8(1), view[:, :1], view.astype(np.int64)):
        np.save(path, bad)
        refused(path)
    np.save(path, np.where([0, 0, 1], 1 - view, view))
    with pytest.raises(InputError, match="give the two folders of one run"):
        check_halves(made.release, load_secret(tmp_path / "secret"))
    np.save(path, view)
    content = json.loads(start.read_text())
    content["start"].pop("views")
    start.write_text(json.dumps(content))
    refused(start)
    (tmp_path / "release" / "release.json").unlink()
    save_challenge(tmp_path, build_challenge(gen_data_params))
    assert not path.exists()


def refused(path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_secret(path.parent)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_and_damaged_secrets_are_refused(run: Path) -> None:
    for path in sorted((run / "secret").iterdir()):
        content = path.read_bytes()
        for damaged in (b"", content[: len(content) // 2]):
            path.write_bytes(damaged)
            refused(path)
        path.unlink()
        refused(path)
        path.write_bytes(content)
    load_secret(run / "secret")
    with pytest.raises(InputError, match="no such folder; give the secret/ folder of a run"):
        load_secret(run / "nowhere")


def test_secrets_that_do_not_fit_each_other_are_refused(run: Path) -> None:
    for name, change in (
        ("private", lambda a: a[:3]),
        ("private", lambda a: a.astype(np.float32)),
        ("pair", lambda a: a + 1),
        ("pair", lambda a: a[:, :1]),
        ("private_label", lambda a: a - 1),
        ("coefficient", lambda a: a[1:]),
        ("mask", lambda a: a[1:]),
        ("public_index", lambda a: a[1:]),
        ("public_index", lambda a: a + 12),
    ):
        path = run / "secret" / f"{name}.npy"
        content = path.read_bytes()
        np.save(path, change(np.load(path)))
        refused(path)
        path.write_bytes(content)
    path = run / "secret" / "secret.json"
    content = json.loads(path.read_text())
    for values in (
        {"parameters": 5},
        {"parameters": {"rng": "mt19937-secure-permutations"}},
        {"parameters": {"seed": "entropy"}},
        {"start": []},
        {"class_names": [1, 2, 3]},
    ):
        path.write_text(json.dumps(content | values))
        refused(path)
