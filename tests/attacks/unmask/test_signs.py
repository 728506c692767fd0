"""Signs alone and together."""

from __future__ import annotations

import numpy as np
from dead_leaves import dead_leaves

from instahide_nb.attacks.unmask.signs import coupled_signs, independent_signs
from instahide_nb.attacks.unmask.smoothness import Smoothness, public_model, smoothness

TEMPERATURE = np.array([4, 2, 2, 1, 1, 1], np.float32)


def test_alone_a_sign_is_the_algebraic_sigmoid() -> None:
    rng = np.random.default_rng(0)
    size = rng.uniform(0, 1, (4, 50)).astype(np.float32)
    prediction = rng.normal(size=(4, 50)).astype(np.float32)
    variance = np.array([0.1, 0.5, 1, 2], np.float32)
    u = size * prediction / variance[:, None]
    assert np.allclose(
        independent_signs(size, prediction, variance), size * u / np.sqrt(1 + u * u), atol=1e-6
    )


def test_without_coupling_together_is_alone() -> None:
    rng = np.random.default_rng(1)
    size = rng.uniform(0, 1, (3, 3, 9, 9)).astype(np.float32)
    prediction = rng.normal(size=size.shape).astype(np.float32)
    scale = np.ones(3, np.float32)
    row = np.zeros(9, np.int64)
    free = Smoothness(np.zeros((1, 3, 3, 7, 7, 9), np.float32), np.full((1, 3, 9), 0.4, np.float32), row)
    alone = independent_signs(size.reshape(3, -1), prediction.reshape(3, -1), scale * np.float32(0.4))
    together = coupled_signs(size, prediction, scale, free, np.ones(40, np.float32), np.zeros_like(size))
    assert np.allclose(together.reshape(3, -1), alone, atol=1e-5)


def test_together_more_signs_are_right() -> None:
    images = dead_leaves(60, (16, 16), 9).astype(np.float32) / 127.5 - 1
    model = public_model(dead_leaves(200, (16, 16), 10))
    planar = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    x = 0.4 * planar[:20] + 0.3 * planar[20:40] + 0.3 * planar[40:]
    prediction = 0.4 * planar[:20] + 0.6 * model.mean[:, None, None]
    scale = np.full(20, 0.18, np.float32)
    size = np.abs(x)
    variance = scale * np.float32(model.covariance[0, 0, 6, 6])
    alone = independent_signs(size.reshape(20, -1), prediction.reshape(20, -1), variance).reshape(x.shape)
    together = coupled_signs(size, prediction, scale, smoothness(model, 16, 16, 0.3), TEMPERATURE, alone)

    def wrong(estimate: np.ndarray) -> float:
        return float((size * (np.sign(estimate) != np.sign(x))).sum() / size.sum())

    assert wrong(together) < 0.6 * wrong(alone)
    assert (np.abs(together) <= size + 1e-5).all()
