"""The colour curve, which makes ver.2 of the published attack: one small function for all pixels.

The descent finds images only up to contrast and colour, because it explains nothing by the public images. Carlini et
al. (arXiv 2011.05315) pass every pixel through a network of three inputs, ten rectified units and three outputs, whose
weights they give (``step_6_adjust_color`` of their code). Here a network of the same form is learned anew, on a
challenge that the attacker makes of public images (`instahide_nb.attacks.carlini.simulation`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.carlini.perceptron import Perceptron, apply, train

__all__ = ["colour", "learn_colour_curve"]

Float32 = npt.NDArray[np.float32]

_HIDDEN = 10  # as published
_EPOCHS = 30
_RATE = 0.01


def learn_colour_curve(image: Float32, truth: Float32) -> Perceptron:
    """Learn which colour a pixel really has.

    Parameters
    ----------
    image : float32 (images, h, w, channels)
        Reconstructions in [-1, 1].
    truth : float32 (images, h, w, channels)
        The images that they should be.

    Returns
    -------
    Perceptron
        Channels to channels.
    """
    channels = image.shape[3]
    return train(
        image.reshape(-1, channels), truth.reshape(-1, channels), _HIDDEN, epochs=_EPOCHS, rate=_RATE
    )


def colour(image: Float32, curve: Perceptron) -> Float32:
    """Pass every pixel through the colour curve.

    Parameters
    ----------
    image : float32 (images, h, w, channels)
    curve : Perceptron

    Returns
    -------
    float32 (images, h, w, channels)
        Clipped to [-1, 1].
    """
    made = apply(curve, image.reshape(-1, image.shape[3]))
    out: Float32 = np.clip(made, -1.0, 1.0).reshape(image.shape)
    return out
