"""The colours of photographs and of their negatives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instahide_nb.attacks.unmask.negatives import colour_axis, votes


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
    axis = colour_axis(collection(0, learned))
    assert votes(mean_colours(collection(1, seen)), axis).mean() > 0
    assert votes(-mean_colours(collection(1, seen)), axis).mean() < 0


@given(st.integers(0, 50))
def test_a_negative_votes_the_other_way(seed: int) -> None:
    axis = colour_axis(collection(0, 110.0))
    colour = np.random.default_rng(seed).uniform(-1, 1, (5, 3))
    assert np.array_equal(votes(-colour, axis), -votes(colour, axis))


def test_grey_images_are_told_by_their_brightness() -> None:
    grey = collection(0, 90.0)[..., :1]
    axis = colour_axis(grey)
    assert axis.shape == (1,)
    assert votes(mean_colours(grey), axis).mean() > 0


def test_axis_is_fishers_discriminant() -> None:
    public = collection(3, 100.0)
    colour = mean_colours(public)
    expected = np.linalg.solve(colour.T @ colour / len(colour), colour.mean(axis=0))
    assert np.allclose(colour_axis(public), expected, rtol=1e-3)
