"""First images from squares, joined signs, and photographs against their negatives."""

from __future__ import annotations

import numpy as np
import pytest
from dead_leaves import dead_leaves

from instahide_nb.attacks.mixtures import Mixtures
from instahide_nb.attacks.unmask.squares import (
    colour_axis,
    first_images,
    join_signs,
    rather_photograph,
)


def challenge(places: int, n: int = 1500) -> tuple[np.ndarray, np.ndarray, Mixtures]:
    """Absolute values of mixtures of some of 8 images and one public image."""
    rng = np.random.default_rng(0)
    images = dead_leaves(8, (16, 16), 21).astype(np.float32) / 127.5 - 1
    public = dead_leaves(100, (16, 16), 22).astype(np.float32) / 127.5 - 1
    held = np.stack([rng.permutation(8)[:places] for _ in range(n)])
    share = rng.uniform(0.5, 0.9, (n, places)).astype(np.float32) / places
    rest = 1 - share.sum(axis=1)[:, None, None, None]
    x = (share[:, :, None, None, None] * images[held]).sum(axis=1) + rest * public[rng.integers(0, 100, n)]
    return images, np.abs(x).astype(np.float32), Mixtures(held, share, 8)


@pytest.mark.parametrize("places", [2, 3])
def test_images_are_retrieved_up_to_one_sign(places: int) -> None:
    images, size, mixtures = challenge(places)
    found = first_images(size, mixtures)
    agreement = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(found, images, strict=True)]
    assert np.min(np.abs(agreement)) > 0.6
    assert abs(np.sign(agreement).sum()) == len(images)


@pytest.mark.parametrize("seed", range(3))
def test_joined_signs_agree_up_to_one(seed: int) -> None:
    images = dead_leaves(60, (10, 12), 30).astype(np.float32).reshape(60, -1) / 127.5 - 1
    flip = np.random.default_rng(seed).choice(np.float32([-1, 1]), images.shape[1])
    ratio = join_signs(images * flip, (10, 12, 3)) * np.sign(images)
    sign = np.sign(ratio.sum(axis=0))
    assert (np.abs(sign.sum()) == len(sign)).all()


def collection(seed: int, brightness: float) -> np.ndarray:
    """Patches whose brightness varies much and whose blue lies a little below red."""
    rng = np.random.default_rng(seed)
    level = brightness + rng.normal(0, 40, (300, 1, 1, 1))
    colour = np.array([6.0, 0.0, -6.0]) + rng.normal(0, 8, (300, 1, 1, 3))
    return np.clip(np.rint(level + colour + rng.normal(0, 5, (300, 8, 8, 3))), 0, 255).astype(np.uint8)


def mean_colours(public: np.ndarray) -> np.ndarray:
    return (2.0 * public.astype(float) - 255).mean(axis=(1, 2)) / 255


@pytest.mark.parametrize("learned", [110.0, 140.0])
@pytest.mark.parametrize("seen", [105.0, 145.0])
def test_the_balance_of_colours_decides_where_brightness_misleads(learned: float, seen: float) -> None:
    axis, colour = colour_axis(collection(0, learned)), mean_colours(collection(1, seen))
    assert rather_photograph(colour, axis).mean() > 0
    assert np.array_equal(rather_photograph(-colour, axis), -rather_photograph(colour, axis))
