"""The precision filter: exact where the window holds the whole image, and learned right."""

from __future__ import annotations

import numpy as np
import pytest
from dead_leaves import dead_leaves

from instahide_nb.attacks.unmask.smoothness import (
    RADIUS,
    Moments,
    autocovariance,
    public_moments,
    smoothness,
    whiten,
)


def stationary(rho: float = 0.8, link: float = 0.6) -> Moments:
    """A separable first-order model: correlation rho per pixel, `link` between channels."""
    step = np.abs(np.arange(-2 * RADIUS, 2 * RADIUS + 1))
    space = rho ** step[:, None] * rho ** step[None, :]
    channel = np.full((3, 3), link) + (1 - link) * np.eye(3)
    return Moments(np.zeros(3, np.float32), channel[:, :, None, None] * space)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_whitening_is_the_inverse_covariance_of_a_small_image(ridge: float) -> None:
    moments, reach = stationary(), 2 * RADIUS
    c, y, x = (a.ravel() for a in np.mgrid[:3, :3, :3])
    far = y - y[:, None] + reach, x - x[:, None] + reach
    covariance = moments.covariance[c[:, None], c, far[0], far[1]] + ridge * np.eye(27)
    image = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    expected = np.linalg.solve(covariance, image.reshape(5, -1).T).T
    found = whiten(image, smoothness(moments, 3, 3, ridge)).reshape(5, -1)
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_inside_a_large_image_the_first_order_model_needs_its_neighbours_only() -> None:
    # For a separable AR(1) field the variance left by the neighbours is known in each dimension.
    rho = 0.7
    local = smoothness(stationary(rho, 0.0), 16, 16, 0.0)
    expected = ((1 - rho**2) / (1 + rho**2)) ** 2
    assert np.allclose(local.variance[local.row[8], :, 8], expected, rtol=1e-3)
    tap = local.tap[local.row[8], 0, 0, :, :, 8]
    assert np.isclose(tap[RADIUS, RADIUS + 1], rho / (1 + rho**2), rtol=1e-3)
    assert abs(tap[0, 0]) < 1e-5


def test_moments_are_those_of_numpy() -> None:
    patches, reach = dead_leaves(40, (17, 20), 4), 2 * RADIUS
    moments = public_moments(patches)
    value = (2.0 * patches - 255) / 255
    z = value - value.mean(axis=(0, 1, 2))
    assert np.allclose(moments.mean, value.mean(axis=(0, 1, 2)), atol=1e-5)
    assert np.isclose(moments.variance, (z * z).mean(), rtol=1e-3)
    for c, d, dy, dx in [(0, 0, 0, 0), (0, 2, 1, -2), (2, 0, -1, 2), (1, 1, 4, 4), (1, 0, -4, 3)]:
        first = z[:, max(0, -dy) : 17 - max(0, dy), max(0, -dx) : 20 - max(0, dx), c]
        second = z[:, max(0, dy) : 17 - max(0, -dy), max(0, dx) : 20 - max(0, -dx), d]
        found = moments.covariance[c, d, dy + reach, dx + reach]
        assert np.isclose(found, (first * second).mean(), atol=2e-4)  # values are rounded to 1/256
    assert np.array_equal(moments.covariance, moments.covariance.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])


def test_a_covariance_that_is_not_positive_is_tapered() -> None:
    """A few fixed patterns in small images: products of distant pixels are known from few pairs."""
    rng = np.random.default_rng(0)
    image = (rng.normal(size=(300, 6)) @ rng.normal(size=(6, 4 * 5 * 10))).reshape(300, 4, 5, 10)
    covariance = autocovariance(image)
    local = smoothness(Moments(np.zeros(4, np.float32), covariance), 5, 10, 0.05)
    own = np.array([covariance[c, c, 2 * RADIUS, 2 * RADIUS] for c in range(4)])[:, None]
    assert np.isfinite(local.tap).all()
    assert (local.variance >= 0.05 * own * 0.999).all()
    assert (local.variance <= 1.05 * own * 1.001).all()
