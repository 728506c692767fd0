"""What a scan of seeds cannot be faster than: the recurrence that fills the generator's window, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np

from instahide_nb.attacks.generator.seed_lanes import wide_vectors

__all__ = ["scan_of", "seeding_alone"]

_LANES = 512
_STEPS = 440  # x(0) .. x(440): what the first rows' words are made of


def scan_of(count: int) -> Callable[[], object]:
    """A scan of seeds 0 .. count-1 of a challenge whose seed is not among them, on one thread."""
    from instahide_nb.attacks.generator.first_epoch import FirstEpoch
    from instahide_nb.attacks.generator.label_ratios import label_tolerance, ratio_targets
    from instahide_nb.attacks.generator.scan_plan import plan_scan
    from instahide_nb.attacks.generator.seed_scan import scan
    from instahide_nb.scheme.encryption import class_coefficients, encrypt
    from instahide_nb.scheme.streams import open_stream

    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8)
    stream = open_stream("mt19937", seed=2**31, key="", states=None)
    mixtures = encrypt(images[:100], images[100:], stream, k=6, encryptions_per_image=1)
    classes = np.arange(100) % 10
    label = class_coefficients(mixtures.weight[:, :2], mixtures.index[:, :2], classes, 10)
    tolerance, _ = label_tolerance(label, 6)
    plan = plan_scan(ratio_targets(label, 6, 2, tolerance), 6, 0.56)
    epoch = FirstEpoch.from_label(label, 2, tolerance, 6, 0.65, 0.3)
    if plan is None:
        raise AssertionError("the challenge has no rows that can be compared")
    return lambda: scan(plan, epoch, 0, count, lambda seed: False, threads=1)


@nb.njit(inline="always")
def _step(word: Any, j: Any) -> Any:
    mixed = np.uint32(word ^ np.uint32(word >> np.uint32(30)))
    return np.uint32(np.uint32(mixed * np.uint32(1812433253)) + np.uint32(j))


@nb.njit(cache=True)
def _four_steps(state: Any, out: Any, j: Any) -> None:
    wide_vectors()
    for i in range(_LANES):
        out[i] = _step(_step(_step(_step(state[i], j), j + 1), j + 2), j + 3)


@nb.njit(cache=True)
def _seed(start: Any, state: Any, out: Any, steps: Any) -> Any:
    wide_vectors()
    for i in range(_LANES):
        state[i] = np.uint32(start + np.uint32(i))
    for j in range(1, steps, 4):
        _four_steps(state, out, j)
        state, out = out, state
    return state[0]


def seeding_alone(count: int) -> int:
    """Run the recurrence for `count` seeds, 512 side by side."""
    state, other, last = np.empty(_LANES, np.uint32), np.empty(_LANES, np.uint32), 0
    for start in range(0, count, _LANES):
        last ^= int(_seed(np.uint32(start), state, other, _STEPS))
    return last
