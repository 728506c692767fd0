"""The moves of `unmask`: signs, images, assignment, and what encryptions of one epoch tell about each other.

Each function changes one part of a `State` and leaves the rest as it is; `unmask` says in which order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.unmask import (
    companion_images,
    companions,
    found_companions,
    least_squares,
    matched_filter,
    pair_scores,
    sign_repair,
    signs,
)
from instahide_nb.attacks.unmask.assignment import Slots
from instahide_nb.attacks.unmask.found_companions import Companions
from instahide_nb.attacks.unmask.negatives import votes
from instahide_nb.attacks.unmask.smoothness import RADIUS, PublicModel, Smoothness, smoothness
from instahide_nb.core.threads import in_blocks

__all__ = [
    "State",
    "agreement",
    "assign_images",
    "choose_sign",
    "fit_images",
    "infer_signs",
    "interleaved",
    "margin",
    "measure_residuals",
    "meet_companions",
    "planar",
    "prior_scale",
    "repair_signs",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_TEMPERATURE = np.array([4, 4, 2, 2, 1, 1, 1, 1], np.float32)
_ROWS = 1000  # encryptions at a time
_GRAM_RIDGE = 0.05  # of the whitening under which residuals of an epoch are compared
_PULL = 1e-3  # of images to the mean public image, as a share of the mean diagonal of the normal matrix
_TOGETHER = (
    5000  # rows compared with each other, where no epoch tells who is whose companion or epochs are longer
)
_TOGETHER_IN_EPOCHS = 2000  # and where most companions are in the same epoch
_SHRINKAGE = 0.5  # of the covariance between rows, times rows over pixels


def planar(image: Float32) -> Float32:
    """Images (n, h, w, channels) as (n, channels, h, w)."""
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))


def interleaved(image: Float32) -> Float32:
    """Images (n, channels, h, w) as (n, h, w, channels)."""
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


@dataclass(frozen=True)
class Fitted:
    """What images were fitted to: influence of each encryption (n, 2, largest), assignment and coefficients (n, 2)."""

    influence: Float64
    assignment: Int64
    coefficient: Float32


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
    score : float32 (n, 2, largest)
        Of the images of the class of each slot.
    group : int64 (groups, size)
        Rows of each epoch; empty while the companions of an epoch are not used.
    precision : float64 (groups, size, size) or None
        Inverse covariance between the rows of an epoch.
    found : list of Companions
        What rows tell about each other whose companions no epoch names, in parts; empty where epochs name them.
    expected : float32 (n, channels, h, w) or None
        Residual that the companions predict.
    fitted : Fitted or None
        What the images were fitted to.
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
    found: list[Companions] = field(default_factory=list)
    expected: Float32 | None = None
    fitted: Fitted | None = None

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

    def predict(self, rows: slice | Int64 = slice(None)) -> Float32:
        """Prediction of each encryption, or of some, planar."""
        flat = self.image.reshape(len(self.image), -1)
        at = self.assignment[rows], self.coefficient[rows]
        made = least_squares.predict_encryptions(flat, *at, self.mean).reshape(-1, *self.size.shape[1:])
        if self.expected is not None:
            made += self.expected[rows]
        return made

    def residual(self, rows: slice | Int64 = slice(None)) -> Float32:
        """What the predictions leave of encryptions with their mask lifted."""
        made = self.predict(rows)
        return np.subtract(self.signed[rows], made, out=made)


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
    local = state.smoothness(ridge) if coupled else None
    signed = state.signed if state.signed.shape == state.size.shape else np.empty_like(state.size)
    # as one piece this would hold several arrays of the encryptions' size
    for low in range(0, len(signed), _ROWS):
        rows = slice(low, low + _ROWS)
        size, prediction, scale = state.size[rows], state.predict(rows), state.scale[rows]
        found = signs.independent_signs(
            size.reshape(len(size), -1), prediction.reshape(len(size), -1), scale * state.pixel_variance
        ).reshape(size.shape)
        if local is not None:
            found = signs.coupled_signs(size, prediction, scale, local, _TEMPERATURE, found)
        signed[rows] = found
    state.signed = signed


def choose_sign(state: State, axis: Float64) -> float:
    """A few rounds of signs and images that favour neither, then the sign under which colours are a photograph's.

    The mean public image is left out of these rounds, so that they would give the negatives from the negatives. The
    likelihood of the encryptions cannot decide: it takes the mean of the attacker's photographs for
    that of the challenge's, and is certain of the wrong sign where the two differ.

    Parameters
    ----------
    state : State
        Its `image` is changed.
    axis : float64 (channels,)
        From `negatives.colour_axis`.

    Returns
    -------
    float
        Share of private images that are, each by itself, rather a photograph than a negative under the chosen sign.
    """
    known = state.model
    state.model = replace(known, mean=np.zeros_like(known.mean))
    for _ in range(3):
        infer_signs(state, 0.0, coupled=False)
        fit_images(state)
    used = np.flatnonzero((state.assignment >= 0).all(axis=1))
    rest = 1.0 - state.coefficient[used].sum(axis=1, dtype=np.float64)
    parts = [used[low : low + _ROWS] for low in range(0, len(used), _ROWS)]
    residual = np.concatenate([_mean_colours(state.residual(rows)) for rows in parts])
    public = np.array([math.fsum(column) for column in residual.T]) / max(math.fsum(rest), 1e-9)
    vote = votes(_mean_colours(state.image), axis)
    total = math.fsum(vote) / len(vote) + float(votes(public, axis))
    sign = np.float32(1 if total >= 0 else -1)
    state.model = known
    state.image = sign * state.image
    return float(np.count_nonzero(vote * sign > 0) / len(vote))


def _mean_colours(image: Float32) -> Float64:
    """Mean of each channel of planar images, float64 (n, channels)."""
    pixels = np.ascontiguousarray(image.reshape(*image.shape[:2], -1).transpose(2, 0, 1), np.float64)
    mean: Float64 = pixels.sum(axis=0) / len(pixels)
    return mean


def agreement(first: Float32, second: Float32) -> np.float32:
    """The sign, +1 or -1, under which two sets of images agree."""
    same = int(np.count_nonzero((first > 0) == (second > 0)))
    return np.float32(1 if 2 * same >= first.size else -1)


def meet_companions(state: State) -> None:
    """Learn from the residuals what rows tell about each other: `precision` or `found`, `expected`, `scale`."""
    before, state.expected = state.expected, None
    local = state.smoothness(_GRAM_RIDGE)
    n, scale = len(state.size), np.empty_like(state.scale)
    expected = np.empty_like(state.size) if before is None else before
    # some rows after the others: residuals of all would be one more array of the encryptions' size
    if len(state.group):
        size = state.group.shape[1]
        gram = np.empty((len(state.group), size, size))
        for e, rows in enumerate(state.group):
            gram[e] = companions.row_gram(state.residual(rows), local)
        state.precision = companions.row_precision(gram, _SHRINKAGE * size / state.size[0].size)
        for e, rows in enumerate(state.group):
            made = companions.predict_residuals(state.residual(rows), state.precision[e])
            expected[rows], scale[rows] = made
    else:
        parts = found_companions.parts(n, _TOGETHER)
        if state.slots.epoch[0] >= 0 and state.slots.n_images <= _TOGETHER:  # few epochs will do, whole ones
            parts = found_companions.parts(n, _TOGETHER_IN_EPOCHS, state.slots.n_images)
        state.found = []
        for rows in parts:
            residual = state.residual(rows)
            companions_of_part = found_companions.find_companions(residual, state.assignment[rows], local)
            expected[rows] = found_companions.predict_residuals(residual, companions_of_part)
            scale[rows] = companions_of_part.scale
            state.found.append(companions_of_part)
    state.expected, state.scale = expected, np.maximum(scale, np.float32(0.003))


def fit_images(state: State) -> None:
    """Solve for the private images, by generalised least squares once the companions are known: `image`."""
    n = len(state.size)
    at = state.assignment, state.coefficient
    number = state.slots.n_images
    if state.precision is not None:
        weights = state.precision, state.group
        state.image = companions.fit_images(state.signed, *weights, *at, state.model.mean, number)
        influence = companions.row_influence(*weights, *at, state.slots)
    elif state.found:
        mean = state.model.mean
        state.image, influence = companion_images.fit_images(
            state.signed, state.found, *at, mean, state.slots
        )
    else:
        flat, weight = state.signed.reshape(n, -1), np.float32(1) / state.scale
        image = least_squares.fit_images(flat, *at, weight, state.mean, number, _PULL)
        state.image = image.reshape(-1, *state.size.shape[1:])
        influence = least_squares.row_influence(state.slots, *at, weight, _PULL)
    state.fitted = Fitted(influence, *at)


def measure_residuals(state: State) -> None:
    """Estimate what each encryption's prediction leaves, half from its coefficients and half from itself: `scale`.

    An encryption with a wrong image leaves more, and counts for less in the next round.
    """
    found = np.empty(len(state.size))
    for low in range(0, len(found), _ROWS):
        rows = slice(low, low + _ROWS)
        residual = state.residual(rows)
        in_blocks(_mean_square, len(residual), residual.reshape(len(residual), -1), found[rows])
    measured = (found / float(state.pixel_variance)).astype(np.float32)
    half = np.float32(0.5)
    state.scale = np.maximum(half * prior_scale(state.coefficient) + half * measured, np.float32(0.003))


@numba.njit(cache=True, nogil=True)
def _mean_square(first: int, last: int, flat: Float32, out: Float64) -> None:
    for i in range(first, last):
        total = 0.0
        for p in range(flat.shape[1]):
            total += float(flat[i, p]) * float(flat[i, p])
        out[i] = total / flat.shape[1]


def prior_scale(coefficient: Float32) -> Float32:
    """Expected covariance of the residual of encryptions, in units of the public covariance.

    The rest of the coefficients is shared by k - 2 public images; 0.4 of its square is about what four of them leave.
    """
    rest = np.float32(1) - coefficient[:, 0] - coefficient[:, 1]
    return (rest * rest * np.float32(0.4) + np.float32(0.005)).astype(np.float32)


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


def assign_images(state: State, ridge: float, left_out: bool = True) -> None:
    """Assign images to encryptions by the matched filter: `assignment`, `coefficient`, `score`."""
    local = state.smoothness(ridge)
    signed, mean, expected = state.signed, state.model.mean, state.expected
    product, gram = matched_filter.matched_filter(signed, state.image, mean, local, state.slots, expected)
    own = None
    if left_out and state.fitted is not None:
        square = matched_filter.square_lengths(signed, mean, local, expected)
        own = pair_scores.Own(
            state.fitted.influence, state.fitted.assignment, state.fitted.coefficient, square
        )
    found = pair_scores.best_pairs(state.slots, product, gram, state.scale, own)
    state.assignment, state.score, state.coefficient = found.assignment, found.score, found.coefficient


def margin(state: State) -> Float32:
    """Score of the chosen image of each slot above the best other image of its class, float32 (n, 2)."""
    slots = state.slots
    place = slots.within(state.assignment)[:, :, None]
    chosen = np.take_along_axis(state.score, place, axis=2)[:, :, 0]
    other = state.score.copy()
    np.put_along_axis(other, place, np.float32(-1e30), axis=2)
    other[np.arange(slots.largest) >= np.diff(slots.start)[slots.image_class][:, :, None]] = np.float32(-1e30)
    margin: Float32 = np.minimum(chosen - other.max(axis=2), np.float32(1e6))
    return margin
