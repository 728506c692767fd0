"""The `prng-state` attack: the state from estimated signs, and honest failures."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic_challenge import Synthetic, estimated_signs, make, positive, smooth_images

from instahide_nb.attacks.generator import prng_state
from instahide_nb.attacks.generator.sign_confidence import (
    by_confidence,
    neighbour_confidence,
    sign_confidence,
)
from instahide_nb.attacks.generator.state_search import EQUATIONS, find_state
from instahide_nb.attacks.result import AttackResult
from instahide_nb.attacks.unmask.attack import UnmaskResult
from instahide_nb.scheme.encryption import pixel_values
from instahide_nb.scheme.mersenne import low_bits
from instahide_nb.scheme.streams import Mt19937Stream

OTHER_PUBLIC = smooth_images(60, 16, 77)
WINDOW = np.random.default_rng(23).integers(0, 2**32, 624, dtype=np.uint32)


def stream_of_entropy() -> Mt19937Stream:
    other = np.random.default_rng(24).integers(0, 2**32, 624, dtype=np.uint32)
    states = {"T": WINDOW.astype("<u4").tobytes().hex(), "C": other.astype("<u4").tobytes().hex()}
    return Mt19937Stream("entropy", states)


@pytest.fixture
def unmask_sees(monkeypatch):
    """Put estimates made from the true masks in the place of `unmask`, and let neighbours be of no use."""

    def install(made: Synthetic, wrong: float = 0.1) -> UnmaskResult:
        signed, predicted, variance = estimated_signs(made, wrong=wrong)
        n = len(signed)
        solved = UnmaskResult(
            recovered=np.zeros(made.private.shape, np.float32),
            image_class=np.arange(len(made.private)) % 5,
            assignment=made.mixtures.index[:, :2].astype(np.int64),
            coefficient=np.full((n, 2), 0.3, np.float32),
            confidence=np.ones((n, 2), np.float32),
            signed=signed,
            predicted=predicted,
            variance=variance,
        )
        monkeypatch.setattr("instahide_nb.attacks.unmask.attack.solve", lambda release, public: solved)
        monkeypatch.setattr(prng_state, "recover_from_neighbours", lambda release, confidence: None)
        return solved

    return install


def assert_state_is_right(result: AttackResult, made: Synthetic, share: float = 0.95) -> None:
    assert result.recovered_generator is True
    np.testing.assert_array_equal(
        np.sort(result.assignment, axis=1), np.sort(made.mixtures.index[:, :2], axis=1)
    )
    shape = made.release.encryption.shape
    lifted = np.where(positive(made).reshape(shape), made.release.encryption, -made.release.encryption)
    np.testing.assert_array_equal(result.extras["signed"], lifted)
    assert result.details["bits_agreeing"] > share * result.details["bits_checked"] > 1000
    json.dumps(result.details)


def test_a_seed_is_rewound_and_makes_everything_exact(unmask_sees):
    made = make(seed=987_654_321)
    solved = unmask_sees(made, wrong=0.15)
    result = prng_state.run(made.release, OTHER_PUBLIC)
    assert_state_is_right(result, made)
    assert result.details["seed"] == 987_654_321
    assert result.details["coefficients_known"] is True
    np.testing.assert_array_equal(result.recovered, pixel_values(made.private))
    curve = result.details["sign_errors"]
    wrong = ((solved.signed > 0) == (made.release.encryption > 0)).reshape(400, -1) != positive(made)
    assert curve[-1] == [wrong.size, int(wrong.sum())]
    share = [errors / signs for signs, errors in curve]
    assert share[0] < 0.01 < share[-1]
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(curve))


@pytest.mark.slow
def test_entropy_with_other_public_images(unmask_sees):
    made = make(stream=stream_of_entropy(), epochs=30)
    unmask_sees(made)
    result = prng_state.run(made.release, OTHER_PUBLIC)
    assert_state_is_right(result, made)
    assert result.details["seed"] is None
    assert np.corrcoef(result.recovered.ravel(), pixel_values(made.private).ravel())[0, 1] > 0.95


def test_entropy_with_the_own_public_images_is_exact(unmask_sees):
    made = make(stream=stream_of_entropy(), epochs=30)
    unmask_sees(made)
    result = prng_state.run(made.release, made.public)
    assert_state_is_right(result, made)
    np.testing.assert_array_equal(result.recovered, pixel_values(made.private))


@pytest.mark.parametrize(
    "stream",
    [Mt19937Stream(7), pytest.param(stream_of_entropy(), marks=pytest.mark.slow)],
    ids=["seed", "entropy"],
)
def test_another_loader_that_draws_between_epochs(unmask_sees, stream):
    """No two epochs are at the expected distance, so the state comes from one of them."""
    made = make(stream=stream, n_private=50, epochs=4, n_public=60, extra_words=(2, 0, 17, 400))
    unmask_sees(made, wrong=0.02)
    result = prng_state.run(made.release, OTHER_PUBLIC)
    assert_state_is_right(result, made)
    assert result.details["state_from"].endswith("alone")
    if result.details["seed"] is not None:
        assert result.details["seed"] == 7
        assert result.details["extra_words"] == 419


@pytest.mark.slow
def test_labels_of_two_decimals_do_not_matter(unmask_sees):
    made = make(seed=31)
    unmask_sees(made)
    release = replace(made.release, label=np.round(made.release.label, 2))
    result = prng_state.run(release, OTHER_PUBLIC)
    assert_state_is_right(result, made)
    np.testing.assert_array_equal(result.recovered, pixel_values(made.private))


def assert_failed(result: AttackResult, reason: str) -> None:
    assert result.recovered_generator is False
    assert reason in result.reason
    assert len(result.decryption) == len(result.recovered) == 0
    json.dumps(result.details)


def test_chacha20_has_no_such_state(without_unmask):
    made = make(rng="chacha20", epochs=3)
    result = prng_state.run(made.release, OTHER_PUBLIC)
    assert_failed(result, "chacha20")
    assert not result.seconds


@pytest.mark.slow
def test_chacha20_that_is_called_mt19937_is_not_found(unmask_sees):
    """All signs are right, and still there is nothing to solve."""
    made = make(rng="chacha20")
    unmask_sees(made, wrong=0.01)
    release = replace(made.release, info=replace(made.release.info, rng="mt19937"))
    assert_failed(prng_state.run(release, OTHER_PUBLIC), "no state of the Mersenne Twister")


def test_signs_that_are_often_wrong_give_no_state(unmask_sees):
    made = make(seed=1)
    unmask_sees(made, wrong=5.0)
    assert_failed(prng_state.run(made.release, OTHER_PUBLIC), "no state")


def test_mixup_has_no_mask():
    made = make(scheme="mixup", k=2, epochs=3)
    result = prng_state.run(made.release, OTHER_PUBLIC)
    assert_failed(result, "no mask")


@pytest.mark.slow
def test_inside_dataset_of_another_generator():
    made = make(rng="chacha20", scheme="inside", k=3)
    release = replace(made.release, info=replace(made.release.info, rng="mt19937"))
    assert_failed(prng_state.run(release, OTHER_PUBLIC), "no state")


@pytest.fixture
def without_unmask(monkeypatch):
    def refuse(release, public):
        raise AssertionError("unmask was called")

    monkeypatch.setattr("instahide_nb.attacks.unmask.attack.solve", refuse)


@pytest.mark.parametrize(
    ("scheme", "k", "extra"),
    [
        ("cross", 4, ()),
        ("inside", 3, ()),
        pytest.param("cross", 4, (2, 0, 17, 400), marks=pytest.mark.slow),
    ],
)
def test_large_neighbours_are_enough(without_unmask, scheme, k, extra):
    """Neither labels nor public images nor unmask are looked at before the state is known."""
    more = {"n_private": 50, "epochs": 4, "extra_words": extra} if extra else {}
    made = make(seed=987_654_321, scheme=scheme, k=k, **more)
    result = prng_state.run(made.release, OTHER_PUBLIC)
    assert result.details["bits_from"] == "pairs of neighbours"
    assert_state_is_right(result, made, 0.8)  # all pairs are checked, those at edges too
    assert result.details["seed"] == 987_654_321
    np.testing.assert_array_equal(result.recovered, pixel_values(made.private))
    signs = result.extras["signed"] > 0
    curve = result.details["sign_errors"]
    assert curve[-1] == [signs[:, :, 1:].size, int((signs[:, :, 1:] != signs[:, :, :-1]).sum())]
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(curve))


@pytest.mark.slow
def test_large_neighbours_of_an_unseeded_generator(without_unmask):
    made = make(stream=stream_of_entropy(), epochs=30)
    result = prng_state.run(made.release, made.public)
    assert_state_is_right(result, made, 0.9)
    np.testing.assert_array_equal(result.recovered, pixel_values(made.private))


def test_pairs_of_neighbours_are_placed_as_the_mask_is():
    """A pair is as sure as the least value around either of its two."""
    rng = np.random.default_rng(0)
    encryption = rng.normal(size=(3, 12, 10, 3)).astype(np.float32)
    confidence = neighbour_confidence(encryption)
    assert confidence[1, 5, 4, 2] == np.abs(encryption[1, 4:7, 3:7, 2]).min()
    assert confidence[2, 0, 8, 0] == np.abs(encryption[2, :2, 7:, 0]).min()
    left, right = prng_state._neighbours(confidence, 50)
    order = np.argsort(-confidence.ravel(), kind="stable")[:50]
    n, y, x, c = np.unravel_index(order, confidence.shape)
    assert left.tolist() == np.ravel_multi_index((n, y, x, c), encryption.shape).tolist()
    assert right.tolist() == np.ravel_multi_index((n, y, x + 1, c), encryption.shape).tolist()


def noisy_bits(wrong: list[int]) -> tuple[np.ndarray, np.ndarray]:
    words = np.random.default_rng(2).permutation(300_000)[:40_000]
    bits = low_bits(WINDOW, 0, 300_000)[words]
    bits[wrong] ^= 1
    return words, bits


@pytest.mark.parametrize("wrong", [pytest.param([], marks=pytest.mark.slow), [0, 1, 20_000]])
def test_state_is_found_and_proved_on_other_bits(wrong):
    found = find_state(*noisy_bits([*wrong, 30_000, 39_999]))
    assert found is not None
    assert (found.used, found.corrected, found.attempt) == (EQUATIONS, len(wrong), 0)
    assert (found.checked, found.agreeing) == (40_000 - EQUATIONS, 40_000 - EQUATIONS - 2)
    assert found.evidence > 10_000
    np.testing.assert_array_equal(low_bits(found.window, 0, 2000), low_bits(WINDOW, 0, 2000))


@pytest.mark.slow
def test_a_system_with_more_errors_is_drawn_again():
    """Five of the surest bits are wrong; a later draw from more bits misses two of them."""
    found = find_state(*noisy_bits([1, 2, 3, 4, 6]), attempts=range(4))
    assert found is not None
    assert found.attempt > 0
    np.testing.assert_array_equal(low_bits(found.window, 0, 2000), low_bits(WINDOW, 0, 2000))


@pytest.mark.slow
def test_one_percent_of_wrong_bits_is_refused():
    wrong = np.flatnonzero(np.random.default_rng(3).random(40_000) < 0.01)
    assert find_state(*noisy_bits(wrong.tolist()), attempts=range(2)) is None


@pytest.mark.slow
def test_a_state_that_predicts_nothing_else_is_refused():
    """The system is consistent, but the bits beyond it are not the generator's."""
    words, bits = noisy_bits([])
    bits[EQUATIONS:] = np.random.default_rng(1).integers(0, 2, len(bits) - EQUATIONS)
    assert find_state(words, bits, attempts=range(1)) is None


def test_too_few_bits_are_refused():
    words, bits = noisy_bits([])
    assert find_state(words[:EQUATIONS], bits[:EQUATIONS]) is None


def test_confidence_is_the_least_around_and_none_near_a_change_of_sign():
    rng = np.random.default_rng(0)
    signed = np.abs(rng.normal(size=(3, 12, 12, 3))).astype(np.float32)
    signed[1, 6, 6, 1] *= -1
    predicted = np.abs(rng.normal(size=(3, 12, 12, 3))).astype(np.float32) * np.sign(signed)
    variance = np.array([1, 2, 4], np.float32)
    confidence = sign_confidence(signed, predicted, variance)
    odds = signed * predicted / variance[:, None, None, None]
    assert confidence[0, 5, 5, 2] == odds[0, 4:7, 4:7, 2].min()
    assert confidence[2, 0, 11, 0] == odds[2, :2, 10:, 0].min()
    touched = np.zeros((12, 12), bool)
    touched[4:9, 4:9] = True
    assert ((confidence[1, :, :, 1] == 0) == touched).all()
    assert (confidence[1, :, :, 0] > 0).all()


def test_ranking_is_stable_and_leaves_zeros_out():
    values = np.array([0.5, 0.0, 0.7, 0.5, 0.7, 0.1], np.float32)
    assert by_confidence(values, 4).tolist() == [2, 4, 0, 3]
    assert by_confidence(values, 3).tolist() == [2, 4, 0]
    assert by_confidence(values, 99).tolist() == [2, 4, 0, 3, 5]
    assert by_confidence(np.zeros(5, np.float32), 3).tolist() == []
