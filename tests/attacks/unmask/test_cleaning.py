"""The network that cleans images where encryptions are few."""

import numpy as np
import pytest
from scipy.ndimage import correlate

from instahide_nb.attacks.unmask import cleaning
from instahide_nb.attacks.unmask.attack import Unmask
from instahide_nb.challenge.build import Challenge, build_challenge
from instahide_nb.core import threads
from instahide_nb.core.params import GenDataParams
from instahide_nb.data.sources import public_patches
from instahide_nb.evaluate.metrics import match_images
from instahide_nb.scheme.encryption import pixel_values


def release(encryptions_per_image: int) -> Challenge:
    few = {"n_private": 20, "encryptions_per_image": encryptions_per_image, "k": 4, "n_public": 200, "seed": 3}
    return build_challenge(GenDataParams(**few))


def test_a_convolution_is_a_sum_of_correlations() -> None:
    rng = np.random.default_rng(0)
    image, weight = rng.integers(-9, 9, (2, 6, 5, 3)).astype(float), rng.integers(-9, 9, (3, 3, 3, 4)).astype(float)
    bias = np.arange(4.0)
    expected = [
        [sum(correlate(one[..., i], weight[..., i, o], mode="constant") for i in range(3)) + bias[o] for o in range(4)]
        for one in image
    ]
    np.testing.assert_array_equal(cleaning._convolved(image, weight, bias), np.moveaxis(expected, 1, -1))


def test_the_network_has_exact_sums() -> None:
    """No sum of whole numbers can reach 2^53, even if all inputs of a layer are as large as they can be."""
    largest = np.full(10, 4.0 * cleaning._ONE)
    for weight, bias in cleaning._layers():
        total = (np.abs(weight).sum(axis=(0, 1)) * largest[:, None]).sum(axis=0) + np.abs(bias)
        assert total.max() < 2**53
        largest = total / cleaning._WEIGHT_ONE


def test_bits_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, found = np.random.default_rng(0), []
    image, gain = (rng.normal(0, 0.5, (20, 3, 32, 32)).astype(np.float32) for _ in range(2))
    for many in (1, 3):
        monkeypatch.setattr(threads, "thread_count", lambda many=many: many)
        found.append(cleaning.clean(image, gain, np.full(20, 0.1)))
    np.testing.assert_array_equal(*found)


def first_images(challenge: Challenge) -> Unmask:
    attack = Unmask(challenge.release, public_patches("embedded:attacker", 200))
    attack.find_edges()
    attack.find_first_codes()
    attack.find_first_images()
    return attack


def test_cleaned_images_are_nearer_to_private_images_that_the_network_has_not_seen() -> None:
    challenge = release(10)
    attack = first_images(challenge)

    def error() -> float:
        image = np.ascontiguousarray(attack.now.image.transpose(0, 2, 3, 1))
        place, _, private = match_images(image, challenge.secret.private)
        return float(np.mean((image[place] - pixel_values(private)) ** 2))

    attack.refine()
    assert attack.cleaned == attack.settings.rounds
    before = error()
    attack.now.clean()
    assert error() < 0.95 * before


def test_images_are_not_cleaned_where_encryptions_are_many() -> None:
    attack = first_images(release(50))
    attack.refine()
    assert attack.cleaned == 0
