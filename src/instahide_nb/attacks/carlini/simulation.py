"""A challenge that the attacker makes: public images play the private ones, and everything is known.

What the attack learns (colour curve, final cleaning step, a similarity network) it learns here. The simulation has the
size, the parameters and the classes of the release under attack, and public images in every place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.unmask.assignment import Slots, read_slots
from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.scheme.encryption import class_coefficients, encrypt, pixel_values
from instahide_nb.scheme.streams import Mt19937Stream

__all__ = ["Simulation", "match_groups", "simulate", "upright"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Simulation:
    """A made release and its secret.

    Attributes
    ----------
    release : Release
    private : float32 (N, h, w, 3)
        Its private images in [-1, 1].
    pair : int64 (n, 2)
        The private image in each slot of each encryption (the larger coefficient first).
    """

    release: Release
    private: Float32
    pair: Int64


def simulate(release: Release, public: npt.NDArray[np.uint8], seed: int = 0) -> Simulation:
    """Make a challenge like `release` from the attacker's public images.

    Parameters
    ----------
    release : Release
        Gives k, the numbers of private images and encryptions, the bounds of the coefficients and the class sizes.
    public : uint8 (m, h, w, 3)
        At least twice as many as there are private images.
    seed : int
        Of the choice of images (PCG64) and of the encryption (a fixed seed of the attacker's own).

    Returns
    -------
    Simulation

    Raises
    ------
    InputError
        When there are too few public images.
    """
    info, n_images = release.info, release.info.n_private
    if len(public) < 2 * n_images:
        raise InputError(
            f"n_public: {len(public)} public images are too few to simulate a challenge of {n_images} private images; "
            f"{2 * n_images} at least"
        )
    slots = read_slots(release.label, n_images)
    image_class = np.repeat(np.arange(release.label.shape[1]), np.diff(slots.start))
    chosen = np.random.default_rng(seed).permutation(len(public))
    private = public[chosen[:n_images]]
    mixtures = encrypt(
        private,
        public[chosen[n_images:]],
        Mt19937Stream(seed),
        k=info.k,
        encryptions_per_image=max(1, len(release.encryption) // n_images),
        max_coefficient=info.max_coefficient,
        min_private_sum=info.min_private_sum,
    )
    pair = mixtures.index[:, :2].astype(np.int64)
    swapped = mixtures.weight[:, 0] < mixtures.weight[:, 1]
    pair[swapped] = pair[swapped, ::-1]
    label = class_coefficients(
        mixtures.weight[:, :2], mixtures.index[:, :2], image_class, release.label.shape[1]
    )
    made = Release(mixtures.encryption, label, replace(info, rng="mt19937", n_public=len(public) - n_images))
    return Simulation(made, pixel_values(private), pair)


def match_groups(found: Int64, truth: Int64, slots: Slots, n_groups: int) -> tuple[Int64, Int64]:
    """Which private image of a simulation each group is: the assignment with the most slots in common.

    Parameters
    ----------
    found : int64 (n, 2)
        Group in each slot; -1 where unknown.
    truth : int64 (n, 2)
        Private image in each slot.
    slots : Slots
    n_groups : int

    Returns
    -------
    group, image : int64 (matched,)
        Only groups most of whose slots hold the image.
    """
    from scipy.optimize import linear_sum_assignment

    common = np.zeros((n_groups, int(truth.max()) + 1), np.int64)
    for s in range(2):
        known = ~slots.shared & (found[:, s] >= 0)
        np.add.at(common, (found[known, s], truth[known, s]), 1)
    group, image = linear_sum_assignment(common, maximize=True)
    sure = 2 * common[group, image] > common[group].sum(axis=1)
    return group[sure].astype(np.int64), image[sure].astype(np.int64)


def upright(image: Float32, group: Int64, truth: Float32) -> Float32:
    """Reconstructions of the simulation with the sign of the truth, common to all.

    A start that knows the images up to one common sign guesses it. Where the guess was wrong, what is learned would
    invert images, and those of the release, guessed right, would come out inverted.

    Parameters
    ----------
    image : float32 (groups, h, w, channels)
    group : int64 (matched,)
    truth : float32 (matched, h, w, channels)
        See `match_groups`.

    Returns
    -------
    float32 (groups, h, w, channels)

    Examples
    --------
    >>> truth = np.array([-0.5, 0.2, 0.9], np.float32).reshape(1, 1, 3, 1)
    >>> upright(-truth, np.array([0]), truth).ravel().tolist() == truth.ravel().tolist()
    True
    """
    centred = truth - truth.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    along = float((image[group] * centred).sum(axis=(1, 2, 3)).sum())
    return image if along >= 0 else -image
