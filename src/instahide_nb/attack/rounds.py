"""The moves of `unmask`: signs, images, assignment, and what encryptions of one epoch tell about each other.

Each function changes one part of a `State` and leaves the rest as it is; `unmask` says in which order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from instahide_nb.attack import companions, least_squares, matched_filter, sign_repair, signs
from instahide_nb.attack.assignment import Slots, assign
from instahide_nb.attack.smoothness import RADIUS, PublicModel, Smoothness, smoothness

__all__ = [
    "State",
    "agreement",
    "assign_images",
    "choose_sign",
    "fit_images",
    "infer_signs",
    "interleaved",
    "margin",
    "meet_companions",
    "planar",
    "repair_signs",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_TEMPERATURE = np.array([4, 4, 2, 2, 1, 1, 1, 1], np.float32)
_GRAM_RIDGE = 0.05  # of the whitening under which residuals of an epoch are compared
_SHRINKAGE = 0.5  # of the covariance between rows, times rows over pixels


def planar(image: Float32) -> Float32:
    """Images (n, h, w, channels) as (n, channels, h, w)."""
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))


def interleaved(image: Float32) -> Float32:
    """Images (n, channels, h, w) as (n, h, w, channels)."""
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


@dataclass
class State:
    """What the rounds work on; images and encryptions are planar (channels, h, w).

    Attributes
    ----------
    slots : Slots
    model : PublicModel
    size : float32 (n, channels, h, w)
        Absolute values of the encryptions.
    assignment : int64 (n, 2)
        Image of each slot; -1 in both while unknown.
    coefficient : float32 (n, 2)
    scale : float32 (n,)
        Covariance of each residual, in units of the public covariance.
    image : float32 (images, channels, h, w)
    signed : float32 (n, channels, h, w)
        Encryptions with their mask lifted.
    score : float32 (n, 2, images)
    group : int64 (groups, size)
        Rows of each epoch; empty while companions are not used.
    precision : float64 (groups, size, size) or None
        Inverse covariance between the rows of an epoch.
    expected : float32 (n, channels, h, w) or None
        Residual that the companions predict.
    """

    slots: Slots
    model: PublicModel
    size: Float32
    assignment: Int64
    coefficient: Float32
    scale: Float32
    image: Float32
    signed: Float32
    score: Float32
    group: Int64 = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    precision: Float64 | None = None
    expected: Float32 | None = None

    @property
    def mean(self) -> Float32:
        """Mean public image, flat."""
        height, width = self.size.shape[2:]
        return np.repeat(self.model.mean, height * width)

    @property
    def pixel_variance(self) -> np.float32:
        """Variance of a pixel of a public image."""
        own = [self.model.covariance[c, c, 2 * RADIUS, 2 * RADIUS] for c in range(len(self.model.mean))]
        return np.float32(sum(own) / len(own))

    def smoothness(self, ridge: float) -> Smoothness:
        """The precision filter for images of this size."""
        return smoothness(self.model, self.size.shape[2], self.size.shape[3], ridge)

    def predict(self) -> Float32:
        """Prediction of each encryption, planar."""
        flat = self.image.reshape(len(self.image), -1)
        made = least_squares.predict_encryptions(flat, self.assignment, self.coefficient, self.mean)
        made = made.reshape(self.size.shape)
        return made if self.expected is None else made + self.expected


def infer_signs(state: State, ridge: float, coupled: bool) -> None:
    """Estimate every encryption with its mask lifted: `signed`.

    Parameters
    ----------
    state : State
    ridge : float
        White noise added to the public covariance, as a share of a pixel's variance.
    coupled : bool
        All signs of an encryption together; otherwise each value alone.
    """
    n = len(state.size)
    prediction = state.predict()
    alone = signs.independent_signs(
        state.size.reshape(n, -1), prediction.reshape(n, -1), state.scale * state.pixel_variance
    ).reshape(state.size.shape)
    if coupled:
        local = state.smoothness(ridge)
        alone = signs.coupled_signs(state.size, prediction, state.scale, local, _TEMPERATURE, alone)
    state.signed = alone


def choose_sign(state: State) -> None:
    """A few rounds of signs and images from the first images and from their negatives; the likelier stays."""
    found: list[tuple[float, Float32]] = []
    n, start = len(state.size), state.image
    for sign in (np.float32(1), np.float32(-1)):
        state.image = sign * start
        for _ in range(3):
            infer_signs(state, 0.0, coupled=False)
            fit_images(state)
        likelihood = signs.log_likelihood(
            state.size.reshape(n, -1), state.predict().reshape(n, -1), state.scale * state.pixel_variance
        )
        found.append((likelihood, state.image))
    state.image = found[0][1] if found[0][0] >= found[1][0] else found[1][1]


def agreement(first: Float32, second: Float32) -> np.float32:
    """The sign, +1 or -1, under which two sets of images agree."""
    same = int(np.count_nonzero((first > 0) == (second > 0)))
    return np.float32(1 if 2 * same >= first.size else -1)


def meet_companions(state: State) -> None:
    """Learn from the residuals of each epoch what its rows tell about each other: `precision`, `expected`, `scale`."""
    state.expected = None
    residual = state.signed - state.predict()
    local = state.smoothness(_GRAM_RIDGE)
    shrinkage = _SHRINKAGE * state.group.shape[1] / residual[0].size
    state.precision = companions.row_precision(residual, state.group, local, shrinkage)
    state.expected, scale = companions.predict_residuals(residual, state.precision, state.group)
    state.scale = np.maximum(scale, np.float32(0.003))


def fit_images(state: State) -> None:
    """Solve for the private images, by generalised least squares once the companions are known: `image`."""
    n = len(state.size)
    if state.precision is not None:
        state.image = companions.fit_images(
            state.signed,
            state.precision,
            state.group,
            state.assignment,
            state.coefficient,
            state.model.mean,
            state.slots.n_images,
        )
        return
    state.image = least_squares.fit_images(
        state.signed.reshape(n, -1),
        state.assignment,
        state.coefficient,
        np.float32(1) / state.scale,
        state.mean,
        state.slots.n_images,
    ).reshape(-1, *state.size.shape[1:])


def repair_signs(state: State) -> int:
    """Turn back flipped pixels of the images; returns how many."""
    n, flips = len(state.size), 0
    local = state.smoothness(0.1)
    for _ in range(2):
        gain = sign_repair.flip_gain(
            state.size.reshape(n, -1),
            state.image.reshape(len(state.image), -1),
            state.assignment,
            state.coefficient,
            state.scale * state.pixel_variance,
            state.mean,
        )
        state.image, count = sign_repair.repair(
            state.image, gain.reshape(state.image.shape), state.model.mean, local
        )
        flips += count
    return flips


def assign_images(state: State, ridge: float) -> None:
    """Assign images to encryptions by the matched filter: `assignment`, `coefficient`, `score`."""
    local = state.smoothness(ridge)
    signed = state.signed if state.expected is None else state.signed - state.expected
    product, gram = matched_filter.matched_filter(signed, state.image, state.model.mean, local)
    score, _ = matched_filter.pair_scores(state.slots, product, gram, state.scale)
    state.assignment = assign(state.slots, score)
    for _ in range(2):
        score, _ = matched_filter.pair_scores(state.slots, product, gram, state.scale, state.assignment)
        state.assignment = assign(state.slots, score)
    state.score, state.coefficient = matched_filter.pair_scores(
        state.slots, product, gram, state.scale, state.assignment
    )


def margin(state: State) -> Float32:
    """Score of the chosen image of each slot above the best other image of its class, float32 (n, 2)."""
    chosen = np.take_along_axis(state.score, state.assignment[:, :, None], axis=2)[:, :, 0]
    other = state.score.copy()
    np.put_along_axis(other, state.assignment[:, :, None], np.float32(-1e30), axis=2)
    number = np.arange(state.slots.n_images)
    for s in range(2):
        image_class = state.slots.image_class[:, s, None]
        outside = (number < state.slots.start[image_class]) | (number >= state.slots.start[image_class + 1])
        other[:, s][outside] = np.float32(-1e30)
    margin: Float32 = np.minimum(chosen - other.max(axis=2), np.float32(1e6))
    return margin
