"""The challenge's metrics against hand-computed cases and against scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from instahide_nb.core.errors import InputError
from instahide_nb.evaluate.metrics import METRICS, match_images, score, signed_pixels, ssim_pairs


def _random(seed: int, n_private: int = 5, n: int = 12, size: int = 16):
    rng = np.random.default_rng(seed)
    private = rng.integers(0, 256, (n_private, size, size, 3), dtype=np.uint8)
    pair = rng.integers(0, n_private, (n, 2))
    decryption = rng.uniform(-1, 1, (n, size, size, 3)).astype(np.float32)
    return decryption, private, pair


def test_the_private_image_itself_scores_exactly_one_and_zero():
    _, private, _ = _random(0)
    pair = np.array([[0, 1], [2, 3], [4, 4]])
    scores = score(signed_pixels(private)[[0, 3, 4]], private, pair)
    assert scores.per_encryption[0, 0] == scores.per_encryption[1, 1] == 1.0
    assert scores.per_encryption[0, 2] == scores.per_encryption[1, 3] == 0.0
    assert scores.metrics()["max_ssim"] == scores.metrics()["max_ssim_signed"] == 1.0
    assert scores.metrics()["min_l2"] == 0.0
    np.testing.assert_array_equal(scores.best_slot, [0, 1, 0])
    np.testing.assert_array_equal(scores.best_ssim, [1.0, 1.0, 1.0])


def test_constant_images_have_the_luminance_term_alone():
    # With no variance the structure term is C2/C2 = 1, and SSIM = (2ab + C1) / (a^2 + b^2 + C1).
    u, v = 51, 204
    private = np.full((1, 9, 9, 3), u, np.uint8)
    decryption = signed_pixels(np.full((1, 9, 9, 3), v, np.uint8))
    scores = score(decryption, private, np.array([[0, 0]]))
    a, b, c1 = u / 255, v / 255, 0.01**2
    assert scores.per_encryption[0, 0] == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-6)
    a, b, c1 = 2 * a - 1, 2 * b - 1, 0.02**2
    signed = (2 * a * b + c1) / (a * a + b * b + c1)
    assert scores.per_encryption_signed[0, 0] == pytest.approx(signed, abs=1e-6)
    assert signed < 0  # opposite signs: the second reading differs in kind
    assert scores.per_encryption[0, 2] == pytest.approx((2 * (v - u) / 255) ** 2, abs=1e-6)


def test_the_five_figures_by_hand():
    # Black, white and middle grey: L2 from black (-1) to white (1) is 4, from 0 to either is 1.
    private = np.stack([np.zeros((7, 7, 3), np.uint8), np.full((7, 7, 3), 255, np.uint8)])
    decryption = np.stack([np.full((7, 7, 3), -1.0), np.zeros((7, 7, 3))]).astype(np.float32)
    scores = score(decryption, private, np.array([[0, 1], [1, 0]]))
    c1 = 0.01**2
    black_white = c1 / (1 + c1)
    grey_white, grey_black = (1 + c1) / (1.25 + c1), c1 / (0.25 + c1)
    expected = {
        "max_ssim": (1 + grey_white) / 2,
        "mean_ssim": (1 + black_white + grey_white + grey_black) / 4,
        "min_l2": (0 + 1) / 2,
        "max_l2": (4 + 1) / 2,
        "mean_l2": (2 + 1) / 2,
    }
    got = scores.metrics()
    assert {name: got[name] for name in METRICS} == pytest.approx(expected, abs=1e-12)


def test_metrics_has_both_readings_and_one_l2():
    scores = score(*_random(1))
    got = scores.metrics()
    assert set(got) == {*METRICS, *(f"{name}_signed" for name in METRICS)}
    for name in ("min_l2", "max_l2", "mean_l2"):
        assert got[name] == got[f"{name}_signed"]
    assert got["max_ssim"] != got["max_ssim_signed"]
    assert got["min_l2"] <= got["mean_l2"] <= got["max_l2"]
    assert got["mean_l2"] == pytest.approx((got["min_l2"] + got["max_l2"]) / 2)
    assert scores.per_encryption.shape == scores.per_encryption_signed.shape == (12, 4)


def test_ssim_equals_that_of_scikit_image():
    decryption, private, pair = _random(2, n=70, size=20)
    scores = score(decryption, private, pair)
    truth = signed_pixels(private)
    for i, two in enumerate(pair):
        for slot, p in enumerate(two):
            d, t = decryption[i].astype(np.float64), truth[p].astype(np.float64)
            unit = structural_similarity((d + 1) / 2, (t + 1) / 2, data_range=1.0, channel_axis=-1)
            signed = structural_similarity(d, t, data_range=2.0, channel_axis=-1)
            assert scores.per_encryption[i, slot] == pytest.approx(unit, abs=1e-14)
            assert scores.per_encryption_signed[i, slot] == pytest.approx(signed, abs=1e-14)
            assert scores.per_encryption[i, 2 + slot] == pytest.approx(np.mean((d - t) ** 2), abs=1e-14)


def test_a_pair_scores_the_same_in_any_company():
    decryption, private, pair = _random(3, n=150)
    together = score(decryption, private, pair).per_encryption
    backwards = score(decryption[::-1], private, pair[::-1]).per_encryption[::-1]
    alone = np.vstack(
        [score(decryption[i : i + 1], private, pair[i : i + 1]).per_encryption for i in range(9)]
    )
    np.testing.assert_array_equal(together, backwards)
    np.testing.assert_array_equal(together[:9], alone)


def test_repeated_decryptions_score_as_if_each_were_compared():
    decryption, private, pair = _random(4, n=40)
    index = np.arange(40) % 3
    repeated = score(decryption[index], private, pair).per_encryption
    for i in range(40):
        np.testing.assert_array_equal(
            repeated[i], score(decryption[index[i : i + 1]], private, pair[i : i + 1]).per_encryption[0]
        )


def test_the_mean_is_the_correctly_rounded_sum():
    scores = score(*_random(5, n=33))
    best = np.maximum(scores.per_encryption[:, 0], scores.per_encryption[:, 1])
    assert scores.metrics()["max_ssim"] == math.fsum(best) / 33


def test_swapping_the_private_images_changes_no_figure():
    decryption, private, pair = _random(6)
    assert score(decryption, private, pair).metrics() == score(decryption, private, pair[:, ::-1]).metrics()


def test_large_images_and_the_smallest():
    for size in (7, 200):
        decryption, private, pair = _random(7, n_private=2, n=2, size=size)
        scores = score(decryption, private, pair)
        d, t = decryption[0].astype(np.float64), signed_pixels(private)[pair[0, 0]].astype(np.float64)
        assert scores.per_encryption[0, 2] == pytest.approx(np.mean((d - t) ** 2), rel=1e-12)


def test_ssim_is_symmetric_and_at_most_one():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(2, 6, 10, 10, 3))
    index = np.array([[i, j] for i in range(6) for j in range(6)])
    there, back = ssim_pairs(x, y, index, unit=False), ssim_pairs(y, x, index[:, ::-1], unit=False)
    np.testing.assert_allclose(there, back, atol=1e-15)
    assert there.max() < 1


def test_matching_undoes_a_permutation():
    _, private, _ = _random(9, n_private=8)
    order = np.random.default_rng(9).permutation(8)
    noisy = signed_pixels(private)[order] * np.float32(0.9)
    place, ssim = match_images(noisy, private)
    np.testing.assert_array_equal(order[place], np.arange(8))
    assert ssim.min() > 0.8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decryption": np.zeros((11, 16, 16, 3), np.float32)}, "decryption"),
        ({"decryption": np.zeros((12, 16, 16, 3), np.int32)}, "decryption"),
        ({"decryption": np.full((12, 16, 16, 3), np.nan, np.float32)}, "NaN"),
        ({"private": np.zeros((5, 16, 16, 3), np.float32)}, "private"),
        ({"pair": np.full((12, 2), 5)}, r"0\.\.4"),
        ({"pair": np.full((12, 2), -1)}, r"0\.\.4"),
        ({"pair": np.zeros((12, 3), int)}, "pair"),
        ({"pair": np.zeros((12, 2))}, "pair"),
        ({"pair": np.zeros((0, 2), int)}, "pair"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    decryption, private, pair = _random(10)
    arguments = {"decryption": decryption, "private": private, "pair": pair} | change
    with pytest.raises(InputError, match=said):
        score(**arguments)


def test_images_below_the_window_are_refused():
    with pytest.raises(InputError, match="7x7"):
        score(*_random(11, size=6))
