"""Stages one to five: from a release to its private images, up to contrast and colour."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.carlini.gradient import free_sign_descent, stretch
from instahide_nb.attacks.carlini.groups import Groups, dense_groups, second_similarity
from instahide_nb.attacks.carlini.matching import match
from instahide_nb.attacks.carlini.settings import Settings, Similarity
from instahide_nb.attacks.carlini.stages import Stages
from instahide_nb.attacks.unmask import spectral
from instahide_nb.attacks.unmask.assignment import Slots, read_slots
from instahide_nb.attacks.unmask.least_squares import predict_encryptions
from instahide_nb.challenge.release import Release
from instahide_nb.scheme.encryption import pixel_values

__all__ = ["Reconstruction", "descend_again", "reconstruct"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

_AGAIN = 300  # iterations of a descent that starts from good images; the loss has settled by then


@dataclass(frozen=True)
class Reconstruction:
    """Who is in a release, and the images so far.

    Attributes
    ----------
    size : float32 (n, d)
        Absolute values of the encryptions.
    slots : Slots
    second : float32 (n, groups)
        Second similarity.
    pair : int64 (n, 2)
        Group in each slot; -1 where none was found.
    image : float32 (groups, h, w, channels)
    """

    size: Float32
    slots: Slots
    second: Float32
    pair: Int64
    image: Float32


def reconstruct(
    release: Release, public: UInt8, compare: Similarity, settings: Settings, stage: Stages
) -> Reconstruction:
    """Run the first five stages on a release.

    Parameters
    ----------
    release : Release
    public : uint8 (m, h, w, 3)
        The attacker's own public images.
    compare : callable
        The similarity.
    settings : Settings
    stage : Stages
        Keeps the arrays ``similarity``, ``groups``, ``group_class``, ``second_similarity``, ``pairs``, ``gradient``.

    Returns
    -------
    Reconstruction
    """
    label, shape = release.label, release.encryption.shape[1:]
    slots = read_slots(label, release.info.n_private)
    # Three digits of a similarity are enough, and half the bytes.
    similar = stage("similarity", lambda: compare(release, public).astype(np.float16)).astype(np.float32)
    found: list[Groups] = []

    def members() -> Int64:
        found.append(dense_groups(similar, label, slots, settings.labels))
        return found[0].member

    groups = Groups(stage("groups", members), stage("group_class", lambda: found[0].image_class))
    second = stage("second_similarity", lambda: second_similarity(similar, groups, label, settings.labels))
    pair = stage("pairs", lambda: match(second, groups.image_class, slots, settings.matching))
    size = np.abs(release.encryption).reshape(len(release.encryption), -1)

    def descend() -> Float32:
        count, steps = len(groups.member), settings.iterations
        if settings.start == "published":
            flat = stretch(free_sign_descent(size, pair, slots.coefficient, count, iterations=steps))
        else:  # with signs from the start there is nothing to be pushed away from, and contrast is right
            first = _spectral_start(release, public, size, slots, pair, count)
            flat = free_sign_descent(
                size, pair, slots.coefficient, count, start=first, iterations=steps, push=0.0
            )
        return flat.reshape(-1, *shape)

    return Reconstruction(size, slots, second, pair, stage("gradient", descend))


def descend_again(image: Float32, known: Reconstruction) -> Float32:
    """Descend from images whose signs are mostly right: neither pushed away from zero nor stretched.

    Parameters
    ----------
    image : float32 (groups, h, w, channels)
    known : Reconstruction

    Returns
    -------
    float32 (groups, h, w, channels)
    """
    flat = free_sign_descent(
        known.size,
        known.pair,
        known.slots.coefficient,
        len(image),
        start=image.reshape(len(image), -1),
        iterations=_AGAIN,
        push=0.0,
    )
    return flat.reshape(image.shape)


def _spectral_start(
    release: Release, public: UInt8, size: Float32, slots: Slots, pair: Int64, n_groups: int
) -> Float32:
    """Images from the squares of the encryptions, float32 (groups, d), with the sign that fits public images."""
    known = np.where(slots.shared[:, None], -1, pair)
    grouped = replace(slots, start=np.array([0, n_groups], np.int64))
    image = spectral.retrieve(release.encryption, grouped, known).reshape(n_groups, -1)
    mean = pixel_values(public).astype(np.float64).sum(axis=0).sum(axis=0).sum(axis=0)
    mean /= len(public) * public.shape[1] * public.shape[2]
    flat_mean = np.broadcast_to(mean, release.encryption.shape[1:]).astype(np.float32).ravel()
    missed = []
    for sign in (np.float32(1), np.float32(-1)):
        rest = size - np.abs(predict_encryptions(sign * image, pair, slots.coefficient, flat_mean))
        missed.append(float((rest * rest).sum(axis=0, dtype=np.float64).sum()))
    return image if missed[0] <= missed[1] else -image
