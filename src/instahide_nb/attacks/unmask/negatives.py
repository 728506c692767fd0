"""Photograph or negative: the one sign that the encryptions leave open, read from mean colours.

Squares, and with them all private images, are known up to one sign for everything at once. Natural photographs are
darker than middle grey on the whole, and warmer than blue; negatives are brighter and colder. Brightness varies
much from one photograph to the next and from one collection to another, the balance of colours little, so a linear
discriminant, learned on the attacker's own public patches and their negatives, weighs each by how much it can be
trusted. It is applied to the mean colours of all recovered images and to that of the public images in the residuals.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import solve_spd

__all__ = ["colour_axis", "votes"]

Float64 = npt.NDArray[np.float64]


def colour_axis(public: npt.NDArray[np.uint8]) -> Float64:
    """Fisher's discriminant between the mean colours of photographs and those of their negatives.

    Parameters
    ----------
    public : uint8 (m, h, w, channels)

    Returns
    -------
    float64 (channels,)
        Its product with a mean colour in [-1, 1] is positive for most photographs.

    Examples
    --------
    >>> dark = np.full((50, 8, 8, 3), 100, np.uint8)
    >>> bool((colour_axis(dark) < 0).all())
    True
    """
    size = public.shape[1] * public.shape[2]
    total = public.reshape(len(public), size, -1).sum(axis=1, dtype=np.int64)
    colour = (2.0 * total - 255.0 * size) / (255.0 * size)
    moment = np.zeros((colour.shape[1], colour.shape[1]))
    for c in range(len(moment)):
        for d in range(len(moment)):
            moment[c, d] = np.add.accumulate(colour[:, c] * colour[:, d])[-1] / len(colour)
    mean = np.add.accumulate(colour, axis=0)[-1] / len(colour)
    ridge = 1e-6 * max(float(moment[c, c]) for c in range(len(moment))) + 1e-12
    return solve_spd(moment + ridge * np.eye(len(moment)), mean[:, None])[:, 0]


def votes(colour: Float64, axis: Float64) -> Float64:
    """For each mean colour (..., channels) how much rather it is a photograph's (positive) than a negative's."""
    out = np.zeros(colour.shape[:-1])
    for c in range(colour.shape[-1]):
        out += colour[..., c] * axis[c]
    return out
