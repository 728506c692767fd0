"""Corrections learned on a challenge of the attacker's own: stages 6 and 7 of the published attack.

The descent finds images up to contrast and colour. Carlini et al. (arXiv 2011.05315) pass every pixel through a network
of three inputs, ten rectified units and three outputs (``step_6_adjust_color`` of their code). Here it is learned from
a challenge with public images in place of private ones. The cleaning step of ver.1 was never published: here 64 units
take the 7x7 window around a pixel and return its error. Training uses only ``+ - * / sqrt``, for the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from instahide_nb.attacks.carlini.descent import adam_step
from instahide_nb.attacks.carlini.matching import Slots
from instahide_nb.attacks.unmask.constraints import known_of
from instahide_nb.challenge.release import Release
from instahide_nb.core.arrays import Float32, Int64, UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.kernels import kernel
from instahide_nb.core.threads import in_blocks
from instahide_nb.scheme.encryption import class_coefficients, encrypt, pixel_values
from instahide_nb.scheme.streams import Mt19937Stream

Correction = Callable[[Float32], Float32]
"""Turns images, float32 (images, h, w, channels), into better ones in [-1, 1]."""

_BATCH = 256
_RADIUS = 3  # windows of 7x7 pixels


def simulate(release: Release, public: UInt8) -> tuple[Release, Float32, Int64]:
    """Encrypt public images with the release's parameters, and with classes of the same sizes.

    Returns the release, its private images (N, h, w, 3) float32 in [-1, 1], and the private images of each encryption
    (n, 2), the larger coefficient first. Needs two public images per private one.
    """
    info, n_images = release.info, release.info.n_private
    if len(public) < 2 * n_images:
        raise InputError(
            f"n_public: {len(public)} public images are too few to simulate a challenge of {n_images} private images; "
            f"give {2 * n_images} at least"
        )
    known = known_of(release)
    chosen = np.random.default_rng(0).permutation(len(public))
    private = public[chosen[:n_images]]
    epochs = max(1, len(release.encryption) // n_images)
    own = info.changed(rng="mt19937", public_once=False, n_public=len(public) - n_images, encryptions_per_image=epochs)
    mixtures = encrypt(private, public[chosen[n_images:]], Mt19937Stream(0), own)
    weight, index = mixtures.weight[:, :2], mixtures.index[:, :2]
    label = class_coefficients(weight, index, known.image_class, known.present.shape[1])
    if known.share is None:
        label = (label > 0).astype(np.float32)
    pair = np.where(weight[:, :1] < weight[:, 1:], index[:, ::-1], index).astype(np.int64)
    return Release(mixtures.encryption, label, own), pixel_values(private), pair


def match_groups(found: Int64, truth: Int64, slots: Slots, n_groups: int) -> tuple[Int64, Int64]:
    """The groups of a simulation that have one private image in most of their slots, and these images.

    `found` (n, 2) is the group in each slot, -1 if unknown, `truth` (n, 2) the private image.
    """
    from scipy.optimize import linear_sum_assignment

    known = ~slots.shared[:, None] & (found >= 0)
    common = np.zeros((n_groups, int(truth.max()) + 1), np.int64)
    np.add.at(common, (found[known], truth[known]), 1)
    group, image = linear_sum_assignment(common, maximize=True)
    sure = 2 * common[group, image] > common[group].sum(axis=1)
    return group[sure].astype(np.int64), image[sure].astype(np.int64)


def learn_colour_curve(image: Float32, truth: Float32) -> Correction:
    """Learn a function of a pixel's channels from images (images, h, w, channels) and true ones."""
    channels = image.shape[3]
    network = _train(image.reshape(-1, channels), truth.reshape(-1, channels), units=10, epochs=30, rate=0.01)
    return lambda other: np.clip(_apply(network, other.reshape(-1, channels)), -1, 1).reshape(other.shape)


def learn_cleaning(image: Float32, truth: Float32) -> Correction:
    """Learn the error of a pixel from the window around it, on colour-corrected images and their mirror images."""
    image, truth = (np.concatenate([part, part[:, :, ::-1]]) for part in (image, truth))
    error = (truth - image).reshape(-1, image.shape[3])
    network = _train(_windows(image), error, units=64, epochs=12, rate=0.003)
    return lambda other: np.clip(other + _apply(network, _windows(other)).reshape(other.shape), -1, 1)


def _windows(image: Float32) -> Float32:
    """The window around each pixel with edges repeated, (images * h * w, side * side * channels)."""
    side = 2 * _RADIUS + 1
    padded = np.pad(image, ((0, 0), (_RADIUS, _RADIUS), (_RADIUS, _RADIUS), (0, 0)), mode="edge")
    view = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    return view.transpose(0, 1, 2, 4, 5, 3).reshape(-1, side * side * image.shape[3])


Network = tuple[Float32, Float32]
"""Inner weights (1 + inputs, units), outer weights (outputs, 1 + units): ``outer @ [1, max(0, [1, x] @ inner)]``."""


@kernel
def _forward(x: Float32, inner: Float32, outer: Float32, hidden: Float32, out: Float32) -> None:
    """Hidden units, the first of which is always 1, and outputs of one sample."""
    units = hidden[1:]
    units[:] = np.float32(0)
    for f in range(x.shape[0]):
        v, weight = x[f], inner[f]
        for h in range(units.shape[0]):
            units[h] += v * weight[h]
    hidden[0] = np.float32(1)
    for h in range(units.shape[0]):
        units[h] = max(units[h], np.float32(0))
    for o in range(out.shape[0]):
        total = np.float32(0)
        for h in range(hidden.shape[0]):
            total += hidden[h] * outer[o, h]
        out[o] = total


@kernel
def _forward_all(low: int, high: int, x: Float32, inner: Float32, outer: Float32, out: Float32) -> None:
    hidden = np.empty(outer.shape[1], np.float32)
    for s in range(low, high):
        _forward(x[s], inner, outer, hidden, out[s])


def _apply(network: Network, x: Float32) -> Float32:
    """Outputs (samples, outputs) for the samples `x` (samples, inputs)."""
    out = np.empty((len(x), len(network[1])), np.float32)
    in_blocks(_forward_all, len(x), np.insert(x, 0, 1, axis=1), *network, out)
    return out


@kernel
def _minimise(x: Float32, y: Float32, order: Int64, rate: float, weight: Float32, units: int) -> None:
    """Adam on `weight`, which holds inner and outer; `order` (steps, batch) names the samples of each step."""
    inputs, outputs, steps = x.shape[1], y.shape[1], order.shape[0]
    split = inputs * units
    inner, outer = weight[:split].reshape(inputs, units), weight[split:].reshape(outputs, 1 + units)
    slope = np.empty_like(weight)
    d_inner, d_outer = slope[:split].reshape(inputs, units), slope[split:].reshape(outputs, 1 + units)
    moment, power = np.zeros((2, weight.size), np.float32), np.ones(2)
    hidden, back = np.empty(1 + units, np.float32), np.empty(1 + units, np.float32)
    made = np.empty(outputs, np.float32)
    zero, share = np.float32(0), np.float32(2.0 / order.shape[1])
    for t in range(steps):
        slope[:] = zero
        for s in order[t]:
            _forward(x[s], inner, outer, hidden, made)
            back[:] = zero
            for o in range(outputs):
                e = share * (made[o] - y[s, o])
                for h in range(1 + units):
                    d_outer[o, h] += e * hidden[h]
                    back[h] += e * outer[o, h]
            for h in range(units):
                if hidden[h + 1] <= zero:
                    back[h + 1] = zero
            for f in range(inputs):
                v, row = x[s, f], d_inner[f]
                for h in range(units):
                    row[h] += v * back[h + 1]
        adam_step(weight, slope, moment, power, rate * ((steps - t) / steps))


def _train(x: Float32, y: Float32, *, units: int, epochs: int, rate: float) -> Network:
    """Least squares from `x` (samples, inputs) to `y` (samples, outputs), in batches of 256.

    Initial weights are uniform in +-1/sqrt(inputs) and +-1/sqrt(units); Adam's step falls linearly to zero.
    """
    generator = np.random.default_rng(0)
    inputs, outputs = x.shape[1], y.shape[1]
    inner, bias, outer = (generator.random((n, units)) * 2 - 1 for n in (inputs, 1, outputs))
    inner = np.concatenate([bias, inner]) * (1 / np.sqrt(inputs))
    outer = np.insert(outer * (1 / np.sqrt(units)), 0, 0, axis=1)
    weight = np.concatenate([inner.ravel(), outer.ravel()]).astype(np.float32)
    batch = min(_BATCH, len(x))
    kept = len(x) - len(x) % batch
    order = np.concatenate([generator.permutation(len(x))[:kept] for _ in range(epochs)])
    _minimise(np.insert(x, 0, 1, axis=1), np.ascontiguousarray(y), order.reshape(-1, batch), rate, weight, units)
    split = (1 + inputs) * units
    return weight[:split].reshape(-1, units), weight[split:].reshape(outputs, -1)
