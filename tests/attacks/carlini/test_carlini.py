"""The published attack as a whole, on a challenge small enough for a test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from instahide_nb.attacks.carlini import reconstruction
from instahide_nb.attacks.carlini import versions as carlini
from instahide_nb.attacks.carlini.settings import PUBLISHED, Settings
from instahide_nb.attacks.carlini.simulation import match_groups, simulate
from instahide_nb.attacks.registry import find_attack, run_attack
from instahide_nb.attacks.unmask.assignment import read_slots
from instahide_nb.challenge.build import build_challenge
from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array
from instahide_nb.core.params import GenDataParams
from instahide_nb.data.sources import public_patches
from instahide_nb.evaluate.metrics import score


@pytest.fixture(scope="module")
def challenge():
    return build_challenge(GenDataParams.from_mapping({"n_private": 10, "n_public": 60, "k": 4}))


@pytest.fixture(scope="module")
def public():
    return public_patches("embedded:attacker", 60)


FAST = Settings(iterations=150)


def test_names_of_the_registry_lead_here():
    assert find_attack("carlini-v2") is carlini.run_v2
    assert find_attack("carlini-v1") is carlini.run_v1


def test_colour_curve_and_cleaning_recover_the_images(challenge, public, tmp_path):
    found = carlini.attack(challenge.release, public, replace(FAST, cleanings=2), workdir=tmp_path)
    secret = challenge.secret
    reached, raw, chance = (
        score(image, secret.private, secret.pair).metrics()["max_ssim"]
        for image in (
            found.decryption,
            load_array(tmp_path / "gradient.npy")[found.assignment[:, 0]],
            np.roll(found.decryption, 1, axis=0),  # good images, but of other encryptions
        )
    )
    assert reached > chance + 0.2
    assert reached > raw + 0.1  # what the curve and the cleaning add
    u = (found.decryption.astype(np.float64) + 1) * 127.5
    assert np.abs(u - np.round(u)).max() < 1e-4  # on the 8-bit grid
    # every stage has left its file, and the last is what was returned
    names = ["similarity", "groups", "group_class", "second_similarity", "pairs", "gradient", "colour"]
    names += ["cleaned_1", "gradient_2", "colour_2", "cleaned"]
    learned = [f"{name}_network" for name in ("colour", "cleaned_1", "colour_2", "cleaned")]
    assert sorted(p.stem for p in tmp_path.glob("*.npy")) == sorted(names)
    assert sorted(p.stem for p in (tmp_path / "simulation").glob("*.npy")) == sorted(names + learned)
    assert (load_array(tmp_path / "cleaned.npy") == found.recovered).all()
    assert (load_array(tmp_path / "pairs.npy") == found.assignment).all()


def test_same_bits_again_and_without_files_and_threads(challenge, public, tmp_path, monkeypatch):
    first = carlini.attack(challenge.release, public, FAST, workdir=tmp_path)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    second = carlini.attack(challenge.release, public, FAST)
    assert first.decryption.tobytes() == second.decryption.tobytes()
    assert first.recovered.tobytes() == second.recovered.tobytes()
    assert (first.assignment == second.assignment).all()


def test_the_published_settings_run_and_differ(challenge, public):
    found = carlini.attack(challenge.release, public, replace(PUBLISHED, iterations=50))
    assert found.recovered.shape == challenge.secret.private.shape
    assert found.details["settings"]["start"] == "published"
    assert 0 < found.details["slots_assigned"] < 1  # the greedy step leaves some open


def test_the_spectral_start_has_the_right_sign(challenge, public, tmp_path):
    found = carlini.attack(challenge.release, public, replace(FAST, start="spectral"), workdir=tmp_path)
    secret = challenge.secret
    image = load_array(tmp_path / "gradient.npy")
    mirrored = score(-image[found.assignment[:, 0]], secret.private, secret.pair).metrics()["max_ssim"]
    upright = score(image[found.assignment[:, 0]], secret.private, secret.pair).metrics()["max_ssim"]
    assert upright > mirrored + 0.3


def test_simulation_has_the_shape_of_the_release_and_only_public_images(challenge, public):
    made = simulate(challenge.release, public)
    assert made.release.encryption.shape == challenge.release.encryption.shape
    assert made.release.label.shape == challenge.release.label.shape
    real, own = (read_slots(r.label, 10) for r in (challenge.release, made.release))
    assert (real.start == own.start).all()
    pixels = {image.tobytes() for image in public}
    u = np.round((made.private.astype(np.float64) + 1) * 127.5).astype(np.uint8)
    assert all(image.tobytes() in pixels for image in u)
    # the larger coefficient is first, in the class that the label gives to it
    image_class = np.repeat(np.arange(len(own.start) - 1), np.diff(own.start))
    assert (image_class[made.pair] == own.image_class).all()


def test_groups_of_a_simulation_are_matched_to_its_images(challenge, public):
    made = simulate(challenge.release, public)
    slots = read_slots(made.release.label, 10)
    order = np.random.default_rng(0).permutation(10)
    group, image = match_groups(order[made.pair], made.pair, slots, 10)
    assert (order[image] == group).all()
    assert len(group) == 10
    scrambled = np.random.default_rng(1).integers(0, 10, made.pair.shape)
    group, _ = match_groups(scrambled, made.pair, slots, 10)
    assert len(group) == 0  # no group holds mostly one image


def test_the_attack_reads_the_release_and_not_its_source(challenge, public):
    bare = Release(
        challenge.release.encryption,
        challenge.release.label,
        replace(challenge.release.info, class_names=(), n_public=0, private_source="unknown"),
    )
    settings = replace(FAST, iterations=20)
    left, right = (carlini.attack(r, public, settings) for r in (bare, challenge.release))
    assert left.decryption.tobytes() == right.decryption.tobytes()


def test_more_private_images_than_groups_leaves_grey_ones(challenge, public):
    """Six encryptions of ten images: at most a group for each class that occurs often enough."""
    few = Release(challenge.release.encryption[:6], challenge.release.label[:6], challenge.release.info)
    found = carlini.attack(few, public, replace(FAST, iterations=5))
    assert found.recovered.shape == challenge.secret.private.shape
    assert np.isfinite(found.decryption).all()
    assert found.details["groups"] <= 10


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"start": "warm"}, "start"),
        ({"matching": "best"}, "matching"),
        ({"labels": "none"}, "labels"),
        ({"similarity": "cosine"}, "similarity"),
        ({"similarity": "missing.npy"}, r"missing\.npy: no such file"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_unknown_settings_are_named(challenge, public, change, word):
    with pytest.raises(InputError, match=word):
        carlini.attack(challenge.release, public, replace(Settings(iterations=1), **change))


def test_input_that_does_not_serve_is_named(challenge, public):
    inside = replace(challenge.release, info=replace(challenge.release.info, scheme="inside"))
    with pytest.raises(InputError, match="inside"):
        run_attack("carlini-v2", inside, public)
    with pytest.raises(InputError, match=r"n_public.*20 at least"):
        run_attack("carlini-v2", challenge.release, public[:19])
    with pytest.raises(InputError, match="public_source"):
        run_attack("carlini-v1", challenge.release, public[:, :16])
    label = challenge.release.label.sum(axis=1, keepdims=True)
    alone = replace(
        challenge.release, label=label, info=replace(challenge.release.info, class_names=("all",))
    )
    with pytest.raises(InputError, match="two classes"):
        run_attack("carlini-v2", alone, public)


def test_a_wrongly_guessed_sign_of_the_simulation_does_not_invert_the_images(challenge, public, monkeypatch):
    """The spectral start knows all images up to one sign, which it guesses; in the simulation it can be told."""
    plain = carlini.attack(challenge.release, public, replace(FAST, start="spectral"))
    own, calls = reconstruction._spectral_start, []

    def wrong_at_first(*known):
        calls.append(len(calls))
        return own(*known) if calls[-1] else -own(*known)

    monkeypatch.setattr(reconstruction, "_spectral_start", wrong_at_first)
    again = carlini.attack(challenge.release, public, replace(FAST, start="spectral"))
    assert calls == [0, 1]
    # equal but for roundings of the stretching
    assert again.recovered == pytest.approx(plain.recovered, abs=0.05)
