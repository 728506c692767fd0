"""The `prng-seed` attack on small challenges: everything from the labels, and honest failures."""

import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic_challenge import Synthetic, make, positive, smooth_images

from instahide_nb.attacks.generator import prng_seed
from instahide_nb.attacks.result import AttackResult
from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.core.errors import InputError
from instahide_nb.scheme.encryption import pixel_values
from instahide_nb.scheme.streams import Mt19937Stream

OTHER_PUBLIC = smooth_images(60, 16, 77)
SEED = 2_345_678
RANGE = {"seed_start": SEED - 100_000, "seed_stop": SEED + 100_000}


def assert_everything(result: AttackResult, made: Synthetic) -> None:
    assert result.recovered_generator is True
    np.testing.assert_array_equal(result.recovered, pixel_values(made.private))
    np.testing.assert_array_equal(
        np.sort(result.assignment, axis=1), np.sort(made.mixtures.index[:, :2], axis=1)
    )
    truth = pixel_values(made.private)[
        made.mixtures.index[:, : 2 if made.release.info.scheme == "cross" else None]
    ]
    assert (result.decryption[:, None] == truth).all(axis=(2, 3, 4)).any(axis=1).all()
    shape = made.release.encryption.shape
    lifted = np.where(positive(made).reshape(shape), made.release.encryption, -made.release.encryption)
    np.testing.assert_array_equal(result.extras["signed"], lifted)
    json.dumps(result.details)


def assert_failed(result: AttackResult, made: Synthetic, reason: str) -> None:
    assert result.recovered_generator is False
    assert reason in result.reason
    assert "\n" not in result.reason
    assert len(result.decryption) == len(result.recovered) == 0
    assert (result.assignment == -1).all()
    json.dumps(result.details)


@pytest.mark.parametrize(
    ("scheme", "k"), [("cross", 4), ("cross", 6), ("cross", 5), ("cross", 2), ("inside", 3), ("mixup", 2)]
)
def test_everything_follows_from_the_labels(scheme, k):
    made = make(seed=SEED, scheme=scheme, k=k)
    result = prng_seed.run(made.release, OTHER_PUBLIC, **RANGE)
    assert_everything(result, made)
    assert result.details["seed"] == SEED
    funnel = result.details["funnel"]
    assert funnel["seeds"] == 200_000
    assert funnel["survivors"] >= funnel["fit the first epoch"] == funnel["verified"] == 1
    assert {"scan", "replay", "images"} <= set(result.seconds)


@pytest.mark.parametrize(
    ("decimals", "dtype"), [(3, np.float32), (4, np.float32), (4, np.float64), (None, np.float64)]
)
def test_rounded_labels(decimals, dtype):
    made = make(seed=SEED)
    label = made.release.label.astype(dtype)
    if decimals is not None:
        label = np.round(label, decimals)
    result = prng_seed.run(replace(made.release, label=label), OTHER_PUBLIC, **RANGE)
    assert_everything(result, made)
    assert result.details["label_decimals"] == (decimals or "exact")


def test_two_decimals_are_refused():
    made = make(seed=SEED)
    release = replace(made.release, label=np.round(made.release.label, 2))
    with pytest.raises(InputError, match=r"label.npy: .* 2 decimals"):
        prng_seed.run(release, OTHER_PUBLIC, **RANGE)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (7, 2), (0, 2**32 + 1)])
def test_ranges_that_are_none_are_refused(start, stop):
    with pytest.raises(InputError, match="seed_start, seed_stop"):
        prng_seed.run(make().release, OTHER_PUBLIC, seed_start=start, seed_stop=stop)


@pytest.mark.parametrize("extra", [(3,), (0, 5, 900)])
def test_another_loader_that_draws_between_epochs(extra):
    made = make(seed=SEED, extra_words=extra)
    result = prng_seed.run(made.release, OTHER_PUBLIC, **RANGE)
    assert_everything(result, made)
    assert result.details["extra_words"] == sum(extra[e % len(extra)] for e in range(20))


def test_a_release_of_two_arrays():
    """Without release.json the defaults of 2020 hold, and the number of public images is not known."""
    made = make(seed=SEED, n_private=100, epochs=5, k=6, n_public=130)
    release = Release(made.release.encryption, made.release.label, ReleaseInfo(encryptions_per_image=5))
    result = prng_seed.run(release, OTHER_PUBLIC, **RANGE)
    assert result.recovered_generator is True
    assert result.details["n_public"] == 130
    np.testing.assert_array_equal(
        np.sort(result.assignment, axis=1), np.sort(made.mixtures.index[:, :2], axis=1)
    )


def test_masks_of_another_seed_are_no_decryption():
    """Only numpy was seeded with the seed: the labels betray it, but the masks are someone else's."""
    stream, other = Mt19937Stream(SEED), Mt19937Stream(SEED + 1)
    stream.torch = other.torch
    made = make(stream=stream, epochs=8)
    result = prng_seed.run(made.release, OTHER_PUBLIC, **RANGE)
    assert_failed(result, made, "no masks")
    assert result.details["seed"] == SEED


def test_chacha20_is_not_scanned():
    made = make(rng="chacha20", epochs=3)
    result = prng_seed.run(made.release, OTHER_PUBLIC)
    assert_failed(result, made, "chacha20")
    assert "scan" not in result.seconds


def test_chacha20_that_is_called_mt19937_is_not_found():
    made = make(rng="chacha20", epochs=3)
    release = replace(made.release, info=replace(made.release.info, rng="mt19937"))
    assert_failed(prng_seed.run(release, OTHER_PUBLIC, **RANGE), made, "no seed in")


def test_a_seed_outside_the_range():
    made = make(seed=SEED, epochs=3)
    result = prng_seed.run(made.release, OTHER_PUBLIC, seed_start=0, seed_stop=100_000)
    assert_failed(result, made, "no seed in 0 .. 99999")
    assert result.details["funnel"]["verified"] == 0


def test_a_generator_started_from_entropy():
    made = make(seed="entropy", epochs=3)
    result = prng_seed.run(made.release, OTHER_PUBLIC, seed_start=0, seed_stop=100_000)
    assert_failed(result, made, "entropy")


def test_labels_that_are_not_numpys():
    """Uniform coefficients: ratios there are, but no seed makes them."""
    made = make(seed=SEED, epochs=3)
    rng = np.random.default_rng(0)
    label = np.where(made.release.label > 0, rng.uniform(0.1, 0.5, made.release.label.shape), 0)
    release = replace(made.release, label=label.astype(np.float32))
    assert_failed(prng_seed.run(release, OTHER_PUBLIC, **RANGE), made, "not numpy's")


def test_a_mixup_release_whose_seed_is_not_in_the_range():
    made = make(seed="entropy", scheme="mixup", k=2, epochs=3)
    result = prng_seed.run(made.release, OTHER_PUBLIC, seed_start=0, seed_stop=100_000)
    assert_failed(result, made, "no seed in")


def test_labels_of_one_class_show_no_ratio():
    made = make(seed=SEED, epochs=3)
    release = replace(made.release, label=made.release.label.sum(axis=1, keepdims=True))
    assert_failed(prng_seed.run(release, OTHER_PUBLIC, **RANGE), made, "ratio")


def test_encryptions_that_are_not_whole_epochs():
    made = make(seed=SEED, epochs=3)
    release = replace(made.release, encryption=made.release.encryption[:50], label=made.release.label[:50])
    result = prng_seed.run(release, OTHER_PUBLIC, **RANGE)
    assert result.recovered_generator is False
    assert "epochs" in result.reason
