"""Assignment by a whitened matched filter: of encryptions with lifted masks, or of their energies (`textures`).

With its mask lifted an encryption is a linear mixture: ``x - mean = la Ya + lb Yb + residual`` with centred private
images Y, and a residual whose covariance is that of public images. For every candidate pair the whitened squared
residual follows from three products: of the encryption with both images, and of the images among each other.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import integer_product, integers
from instahide_nb.attacks.unmask.assignment import Slots
from instahide_nb.attacks.unmask.smoothness import Smoothness, whiten
from instahide_nb.core.threads import in_blocks

__all__ = ["matched_filter", "square_lengths"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_FEW = (
    16  # images of the largest class up to which 12 bits do; among more, rounding decided between look-alikes
)


def matched_filter(
    signed: Float32,
    image: Float32,
    mean: Float32,
    model: Smoothness,
    slots: Slots,
    expected: Float32 | None = None,
    block: int = 1000,
) -> tuple[Float64, Float64]:
    """Products of encryptions and the images of their own classes after whitening.

    Parameters
    ----------
    signed : float32 (n, channels, h, w)
        Encryptions with their mask lifted.
    image : float32 (images, channels, h, w)
    mean : float32 (channels,)
        Mean colour of public images.
    model : Smoothness
    slots : Slots
    expected : float32 (n, channels, h, w), optional
        To be taken off the encryptions first.
    block : int
        Encryptions at a time.

    Returns
    -------
    product : float64 (n, 2, largest)
        Of each encryption with each image of the class of each slot, in their order.
    gram : float64 (images, images)
        Of the images among each other.
    """
    centre = mean[:, None, None]
    centred = image - centre
    white = whiten(centred, model).reshape(len(image), -1)
    fine = slots.largest > _FEW
    gram = integer_product(centred.reshape(len(image), -1), white, fine)
    whole_white, white_scale = integers(white, fine)
    product = np.zeros((len(signed), 2, slots.largest))
    for c in np.flatnonzero(np.diff(slots.start)):
        first, last = slots.start[c], slots.start[c + 1]
        holding = np.flatnonzero((slots.image_class == c).any(axis=1))
        for low in range(0, len(holding), block):
            rows = holding[low : low + block]
            part = _less(signed, expected, rows) - centre
            whole, scale = integers(part.reshape(len(rows), -1), fine)
            found = (whole @ whole_white[first:last].T) / (scale[:, None] * white_scale[first:last])
            at, slot = np.nonzero(slots.image_class[rows] == c)
            product[rows[at], slot, : last - first] = found[at]
    return product, 0.5 * (gram + gram.T)


@numba.njit(cache=True, nogil=True)
def _dot_rows(first: int, last: int, a: Float32, b: Float32, out: Float64) -> None:
    for i in range(first, last):
        total = 0.0
        for p in range(a.shape[1]):
            total += float(a[i, p]) * float(b[i, p])
        out[i] = total


def _less(signed: Float32, expected: Float32 | None, rows: slice | Int64) -> Float32:
    """Some encryptions less what is expected of them: never all at once, which would be an array of their size."""
    return signed[rows] if expected is None else signed[rows] - expected[rows]


def square_lengths(
    signed: Float32, mean: Float32, model: Smoothness, expected: Float32 | None = None, block: int = 1000
) -> Float64:
    """Whitened squared length of encryptions about the mean colour.

    Parameters
    ----------
    signed : float32 (n, channels, h, w)
    mean : float32 (channels,)
    model : Smoothness
    expected : float32 (n, channels, h, w), optional
        To be taken off the encryptions first.
    block : int
        Encryptions at a time.

    Returns
    -------
    float64 (n,)
    """
    out = np.empty(len(signed))
    for low in range(0, len(signed), block):
        part = _less(signed, expected, slice(low, low + block)) - mean[:, None, None]
        white = whiten(part, model)
        flat = part.reshape(len(part), -1)
        in_blocks(_dot_rows, len(part), flat, white.reshape(flat.shape), out[low : low + block])
    return out
