"""The published attack as a whole, on a challenge small enough for a test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from instahide_nb.attacks.carlini.attack import attack, edge_similarity, run_v1, run_v2, with_coefficients
from instahide_nb.attacks.carlini.correction import simulate
from instahide_nb.attacks.carlini.matching import read_slots
from instahide_nb.attacks.registry import find_attack, run_attack
from instahide_nb.challenge.build import build_challenge
from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.params import GenDataParams
from instahide_nb.data.sources import public_patches
from instahide_nb.evaluate.metrics import score


@pytest.fixture(scope="module")
def challenge():
    return build_challenge(GenDataParams(**{"n_private": 10, "n_public": 60, "k": 4, "encryptions_per_image": 30}))


@pytest.fixture(scope="module")
def public():
    return public_patches("embedded:attacker", 60)


@pytest.fixture(scope="module")
def found(challenge, public):
    return run_attack("carlini-v1", challenge.release, public)


def test_every_stage_brings_the_images_closer(challenge, found):
    assert find_attack("carlini-v2") is run_v2
    assert find_attack("carlini-v1") is run_v1
    assert list(found.seconds) == [
        *("simulation", "similarity", "groups", "second similarity", "matching", "descent"),
        *("colour curve", "cleaning"),
    ]
    secret = challenge.secret
    history = dict(found.extras["history"])
    assert list(history) == ["gradient", "colour", "cleaned_1", "gradient_2", "colour_2", "cleaned"]
    raw, reached, chance = (
        score(image, secret.private, secret.pair).metrics()["max_ssim"]
        for image in (
            history["gradient"][found.assignment[:, 0]],
            found.decryption,
            np.roll(found.decryption, 1, axis=0),  # good images, but of other encryptions
        )
    )
    assert reached > chance + 0.2
    assert reached > raw + 0.1
    u = (found.decryption.astype(np.float64) + 1) * 127.5
    assert np.abs(u - np.round(u)).max() < 1e-4  # on the 8-bit grid
    assert (history["cleaned"] == found.recovered).all()


def test_ver_2_stops_at_the_colour_curve_with_the_same_bits_whatever_the_threads_and_the_similarity_sees(
    challenge, public, found, monkeypatch
):
    bare = Release(
        challenge.release.encryption,
        challenge.release.label,
        challenge.release.info.changed(class_names=(), n_public=0, private_source="unknown"),
    )
    seen = []

    def similarity(release, images):
        seen.append((release, images))
        return edge_similarity(release, images)

    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    curve = attack(bare, public, similarity=similarity)
    assert (curve.assignment == found.assignment).all()
    assert curve.recovered.tobytes() == found.extras["history"][1][1].tobytes()
    assert curve.details["similarity"] == "similarity"
    assert len(seen) == 2  # the simulation and the release
    assert seen[1][0] is bare
    assert all(images is public for _, images in seen)


def test_labels_of_classes_get_coefficients_that_agree_with_those_drawn(challenge, public):
    """And the attack still brings images closer than chance."""
    release = challenge.release
    info = release.info.changed(labels="classes")
    classes = replace(release, label=(release.label > 0).astype(np.float32), info=info)
    assert with_coefficients(release) is release
    made = with_coefficients(classes)
    assert ((made.label > 0) == (release.label > 0)).all()
    assert np.corrcoef(made.label[made.label > 0], release.label[release.label > 0])[0, 1] > 0.5
    result = run_attack("carlini-v2", classes, public)
    reached, chance = (
        score(image, challenge.secret.private, challenge.secret.pair).metrics()["max_ssim"]
        for image in (result.decryption, np.roll(result.decryption, 1, axis=0))
    )
    assert reached > chance + 0.1


def test_input_that_does_not_fit_is_named(challenge, public):
    release = challenge.release
    for values in ({"scheme": "inside"}, {"labels": "none"}, {"private_per_mix": 3}):
        with pytest.raises(InputError, match=r"carlini-v2 (attacks|needs)"):
            run_attack("carlini-v2", replace(release, info=release.info.changed(**values)), public)
    with pytest.raises(InputError, match=r"n_public.*20 at least"):
        run_v2(release, public[:19])
    with pytest.raises(InputError, match="public_source"):
        run_v1(release, public[:, :16])
    alone = replace(
        release, label=release.label.sum(axis=1, keepdims=True), info=release.info.changed(class_names=("all",))
    )
    with pytest.raises(InputError, match="different classes"):
        run_v2(alone, public)


def test_a_simulation_has_the_shape_of_the_release_and_only_public_images(challenge, public):
    made, private, pair = simulate(challenge.release, public)
    assert made.encryption.shape == challenge.release.encryption.shape
    assert made.label.shape == challenge.release.label.shape
    real, own = (read_slots(r.label, 10) for r in (challenge.release, made))
    assert (real.known.image_class == own.known.image_class).all()
    pixels = {image.tobytes() for image in public}
    u = np.round((private.astype(np.float64) + 1) * 127.5).astype(np.uint8)
    assert all(image.tobytes() in pixels for image in u)
    # the larger coefficient is first, in the class that the label gives to it
    assert (own.known.image_class[pair] == own.image_class).all()
