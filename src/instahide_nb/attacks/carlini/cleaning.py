"""A final cleaning step, which makes ver.1 of the attack: each pixel is judged by its neighbourhood.

The challenge's leaderboard lists ver.1 with a final cleaning step that was never published. What is done here is our
own: a network looks at a window of the image and says how far the pixel in the middle is off. It is learned, as the
colour curve is, on a challenge made of public images. The published descent starts at zero and so never settles which
pixels are bright and which are dark; from a cleaned image it does. So the cleaned images are the start of another
descent, whose colours are corrected and which is cleaned once more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.carlini.perceptron import Perceptron, apply, train

__all__ = ["clean", "learn_cleaning", "windows"]

Float32 = npt.NDArray[np.float32]

_RADIUS = 3  # windows of 7x7 pixels
_HIDDEN = 64
_EPOCHS = 12
_RATE = 0.003
_BLOCK = 16  # images at a time


def windows(image: Float32, radius: int = _RADIUS) -> Float32:
    """The window around each pixel, edges repeated.

    Parameters
    ----------
    image : float32 (images, h, w, channels)
    radius : int

    Returns
    -------
    float32 (images * h * w, (2 radius + 1)^2 * channels)

    Examples
    --------
    >>> windows(np.array([[[[1.0], [2.0]]]], np.float32), 1).tolist()
    [[1.0, 1.0, 2.0, 1.0, 1.0, 2.0, 1.0, 1.0, 2.0], [1.0, 2.0, 2.0, 1.0, 2.0, 2.0, 1.0, 2.0, 2.0]]
    """
    side = 2 * radius + 1
    padded = np.pad(image, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="edge")
    view = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    ordered = view.transpose(0, 1, 2, 4, 5, 3)
    return np.ascontiguousarray(ordered, np.float32).reshape(-1, side * side * image.shape[3])


def learn_cleaning(image: Float32, truth: Float32) -> Perceptron:
    """Learn from the neighbourhood how far a pixel is off.

    Parameters
    ----------
    image, truth : float32 (images, h, w, channels)
        Colour-corrected reconstructions, and what they should be. Mirrored copies are added.

    Returns
    -------
    Perceptron
        Windows to corrections.
    """
    both = [np.concatenate([part, part[:, :, ::-1]]) for part in (image, truth)]
    target = (both[1] - both[0]).reshape(-1, image.shape[3])
    return train(windows(both[0]), target, _HIDDEN, epochs=_EPOCHS, rate=_RATE)


def clean(image: Float32, network: Perceptron) -> Float32:
    """Correct every pixel by its window.

    Parameters
    ----------
    image : float32 (images, h, w, channels)
    network : Perceptron

    Returns
    -------
    float32 (images, h, w, channels)
        Clipped to [-1, 1].
    """
    out = np.empty_like(image)
    for low in range(0, len(image), _BLOCK):
        part = image[low : low + _BLOCK]
        out[low : low + _BLOCK] = np.clip(part + apply(network, windows(part)).reshape(part.shape), -1.0, 1.0)
    return out
