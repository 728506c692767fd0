"""The challenge's metrics against hand-computed cases and against scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from instahide_nb.core.errors import InputError
from instahide_nb.evaluate.metrics import METRICS, find_mistakes, match_images, score
from instahide_nb.scheme.encryption import pixel_values
from instahide_nb.scheme.views import all_views, apply_views


def made(seed: int, n_private: int = 5, n: int = 12, size: int = 16, p: int = 2):
    rng = np.random.default_rng(seed)
    private = rng.integers(0, 256, (n_private, size, size, 3), dtype=np.uint8)
    pair = rng.integers(0, n_private, (n, p))
    return rng.uniform(-1, 1, (n, size, size, 3)).astype(np.float32), private, pair


def test_the_private_image_itself_scores_exactly_one_and_zero():
    _, private, _ = made(0)
    pair = np.array([[0, 1], [2, 3], [4, 4]])
    scores = score(pixel_values(private)[[0, 3, 4]], private, pair)
    assert scores.ssim[0, 0] == scores.ssim[1, 1] == 1.0
    assert scores.l2[0, 0] == scores.l2[1, 1] == 0.0
    found = scores.metrics()
    assert found["max_ssim"] == found["max_ssim_signed"] == found["success_rate"] == 1.0
    assert found["min_l2"] == 0.0
    np.testing.assert_array_equal(scores.ssim.argmax(axis=1), [0, 1, 0])


def test_the_metrics_by_hand():
    """Black, white and middle grey: L2 from black (-1) to white (1) is 4, from 0 to either is 1."""
    private = np.stack([np.zeros((7, 7, 3), np.uint8), np.full((7, 7, 3), 255, np.uint8)])
    decryption = np.stack([np.full((7, 7, 3), -1.0), np.zeros((7, 7, 3))]).astype(np.float32)
    found = score(decryption, private, np.array([[0, 1], [1, 0]])).metrics()
    c1 = 0.01**2
    black_white = c1 / (1 + c1)
    grey_white, grey_black = (1 + c1) / (1.25 + c1), c1 / (0.25 + c1)
    expected = {
        "max_ssim": (1 + grey_white) / 2,
        "mean_ssim": (1 + black_white + grey_white + grey_black) / 4,
        "min_l2": (0 + 1) / 2,
        "max_l2": (4 + 1) / 2,
        "mean_l2": (2 + 1) / 2,
        "success_rate": 1.0,  # grey with white is 0.80002
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert set(found) == {*METRICS, *(f"{name}_signed" for name in METRICS), "success_rate"}
    for name in ("min_l2", "max_l2", "mean_l2"):
        assert found[name] == found[f"{name}_signed"]


@pytest.mark.parametrize("p", [1, 2, 5])
def test_scores_equal_those_of_scikit_image_for_any_number_of_images_in_a_row(p: int):
    decryption, private, pair = made(2, n=40, size=20, p=p)
    scores = score(decryption, private, pair)
    truth = pixel_values(private)
    for i, slot in np.ndindex(pair.shape):
        d, t = decryption[i].astype(np.float64), truth[pair[i, slot]].astype(np.float64)
        unit = structural_similarity((d + 1) / 2, (t + 1) / 2, data_range=1.0, channel_axis=-1)
        signed = structural_similarity(d, t, data_range=2.0, channel_axis=-1)
        assert scores.ssim[i, slot] == pytest.approx(unit, abs=1e-14)
        assert scores.ssim_signed[i, slot] == pytest.approx(signed, abs=1e-14)
        assert scores.l2[i, slot] == pytest.approx(np.mean((d - t) ** 2), abs=1e-14)
    np.testing.assert_array_equal(scores.per_encryption, np.hstack([scores.ssim, scores.l2]))
    found = scores.metrics()
    assert found["max_ssim"] == math.fsum(scores.ssim.max(axis=1)) / 40, "the mean is rounded once"
    assert found["mean_ssim"] == pytest.approx(scores.ssim.mean())
    assert found["min_l2"] <= found["mean_l2"] <= found["max_l2"]


def test_a_row_scores_the_same_in_any_company_and_order():
    decryption, private, pair = made(3, n=150)
    decryption[75:] = decryption[np.arange(75) % 3]  # repeated images are compared once
    together = score(decryption, private, pair)
    backwards = score(decryption[::-1], private, pair[::-1])
    np.testing.assert_array_equal(together.per_encryption, backwards.per_encryption[::-1])
    for i in (0, 1, 80, 149):
        alone = score(decryption[i : i + 1], private, pair[i : i + 1])
        np.testing.assert_array_equal(together.per_encryption[i], alone.per_encryption[0])
    assert together.metrics() == score(decryption, private, pair[:, ::-1]).metrics()


def test_matching_undoes_a_permutation():
    _, private, _ = made(9, n_private=8)
    order = np.random.default_rng(9).permutation(8)
    place, ssim, seen = match_images(pixel_values(private)[order] * np.float32(0.9), private)
    np.testing.assert_array_equal(order[place], np.arange(8))
    assert ssim.min() > 0.8
    assert (seen == private).all()
    with pytest.raises(InputError, match="recovered"):
        match_images(pixel_values(private[:3]), private)


@pytest.mark.parametrize("augment", ["flip", "crop", "crop_flip"])
def test_matching_undoes_views(augment):
    _, private, _ = made(9, n_private=8)
    rng = np.random.default_rng(9)
    order, views = rng.permutation(8), rng.permutation(all_views(augment).repeat(8, axis=0))[:8]
    shown = apply_views(private[order], views)
    place, ssim, seen = match_images(pixel_values(shown), private, augment)
    np.testing.assert_array_equal(order[place], np.arange(8))
    np.testing.assert_array_equal(seen, shown[place])
    assert ssim.min() == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decryption": np.zeros((11, 16, 16, 3), np.float32)}, "decryption"),
        ({"decryption": np.full((12, 16, 16, 3), np.nan, np.float32)}, "NaN"),
        ({"private": np.zeros((5, 16, 16, 3), np.float32)}, "private"),
        ({"pair": np.full((12, 2), 5)}, r"0\.\.4"),
        ({"pair": np.zeros((12, 2))}, "pair"),
        ({"pair": np.zeros((0, 2), int)}, "pair"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, np.ndarray], said: str):
    decryption, private, pair = made(10)
    with pytest.raises(InputError, match=said):
        score(**{"decryption": decryption, "private": private, "pair": pair} | change)
    with pytest.raises(InputError, match="7x7"):
        score(*made(11, size=6))


def test_another_range_or_order_of_rows_is_noticed():
    _, private, pair = made(12, n_private=20, n=300)
    right = pixel_values(private)[pair[:, 0]]

    def warnings(decryption: np.ndarray) -> list[str]:
        return find_mistakes(decryption, private, pair, score(decryption, private, pair))

    assert warnings(right) == []
    (line,) = warnings((right + 1) / 2)
    assert "as 2d - 1 they score 1.000" in line
    (line,) = warnings(right[::-1])
    assert "1.000 if each image is compared with the nearest private image" in line
    assert "another order" in line
    noise = np.random.default_rng(0).uniform(-1, 1, right.shape).astype(np.float32)
    assert warnings(noise) == [], "a poor decryption is no mistake"
    assert "no value is negative" in warnings(np.abs(noise))[0]
