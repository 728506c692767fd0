"""Views of private images: the augmentation of the published training code, drawn anew for each image in each epoch.

A view is (dy, dx, flip), int8: the window at row dy and column dx of the image padded by 4 black pixels on each side,
then mirrored left to right if flip is 1 (``RandomCrop(32, padding=4)``, ``RandomHorizontalFlip()``). (4, 4, 0) is the
image as it is. Views are uniform over all that the augmentation allows.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from instahide_nb.core.arrays import Int8, Integers, UInt8

PAD = 4
"""Black pixels on each side, and the place of the window that holds the whole image."""


def all_views(augment: str) -> Int8:
    """All views of an augmentation ("none", "flip", "crop" or "crop_flip"), int8 (views, 3).

    Examples
    --------
    >>> all_views("flip").tolist(), len(all_views("crop_flip"))
    ([[4, 4, 0], [4, 4, 1]], 162)
    """
    place = range(2 * PAD + 1) if "crop" in augment else (PAD,)
    return np.array(list(product(place, place, (0, 1) if "flip" in augment else (0,))), np.int8)


def draw_views(augment: str, entropy: int, epochs: int, n_images: int) -> Int8:
    """One view per image and epoch, int8 (epochs, n_images, 3).

    `entropy` is the seed or key of the challenge; the generator is PCG64, independent of the stream of the encryption.
    """
    generator = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(1,)))
    views = all_views(augment)
    return views[generator.integers(0, len(views), (epochs, n_images))]


def apply_views(images: UInt8, view: Integers) -> UInt8:
    """The views (n, 3) of images (n, h, w, channels), one each."""
    n, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    dy, dx, flip = view.astype(np.int64).T[:, :, None]
    column = np.arange(width)
    y, x = dy + np.arange(height), dx + np.where(flip == 1, column[::-1], column)
    return padded[np.arange(n)[:, None, None], y[:, :, None], x[:, None, :]]
