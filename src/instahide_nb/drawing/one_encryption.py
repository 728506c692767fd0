"""One encryption from three sides: what its maker put in, what an attack made of it, and how that is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from instahide_nb.drawing.grids import contact_sheet
from instahide_nb.drawing.pictures import absolute_pixels, to_pixels

if TYPE_CHECKING:
    from instahide_nb.attack.result import AttackResult
    from instahide_nb.challenge import Secret
    from instahide_nb.metrics import Scores
    from instahide_nb.release import Release

__all__ = ["answered", "composed", "scored"]

UInt8 = npt.NDArray[np.uint8]
_TILE = 96  # 32 pixels three times enlarged


def _strip(parts: dict[str, npt.NDArray[Any]]) -> UInt8:
    """Captions and their images, side by side."""
    return contact_sheet(np.stack([to_pixels(image) for image in parts.values()]), list(parts), tile=_TILE)


def composed(release: Release, secret: Secret, row: int) -> UInt8:
    """The images inside an encryption with their coefficients, their mixture, the encryption and its absolute value.

    Parameters
    ----------
    release, secret : Release, Secret
        The two halves of a challenge.
    row : int
        Which encryption.

    Returns
    -------
    (height, width, 3) uint8 array
    """
    second = secret.public if release.info.scheme == "cross" else secret.private
    images = [secret.private[i] for i in secret.pair[row]] + [second[i] for i in secret.public_index[row]]
    parts: dict[str, npt.NDArray[Any]] = {
        f"{j + 1}: {weight:.2f}": image
        for j, (weight, image) in enumerate(zip(secret.coefficient[row], images, strict=True))
    }
    x = release.encryption[row]
    signs = np.unpackbits(secret.mask[row], count=x.size).reshape(x.shape)
    parts["mixture"] = x * np.where(signs, np.float32(1), np.float32(-1))
    return _strip(parts | {"encryption": x, "absolute value": absolute_pixels(x)})


def answered(release: Release, result: AttackResult, row: int) -> UInt8:
    """An encryption, its absolute value, the answer to it, and the images that the attack sees inside.

    Parameters
    ----------
    release : Release
        What was published.
    result : AttackResult
        What the attack made of it; with ``signed`` among its extras, the lifted mask is shown too.
    row : int
        Which encryption.

    Returns
    -------
    (height, width, 3) uint8 array
    """
    x = release.encryption[row]
    parts: dict[str, npt.NDArray[Any]] = {"encryption": x, "absolute value": absolute_pixels(x)}
    if "signed" in result.extras:
        parts["mask lifted"] = result.extras["signed"][row]
    parts["decryption"] = result.decryption[row]
    parts |= {f"image {i}": result.recovered[i] for i in result.assignment[row] if i >= 0}
    return _strip(parts)


def scored(
    release: Release, secret: Secret, decryption: npt.NDArray[np.floating], scores: Scores, row: int
) -> UInt8:
    """An encryption, its absolute value, its decryption, and both private images with the SSIM to them.

    Parameters
    ----------
    release, secret : Release, Secret
        The two halves of a challenge.
    decryption : floating (n, h, w, 3)
        In [-1, 1].
    scores : Scores
        From :func:`instahide_nb.metrics.score`.
    row : int
        Which encryption.

    Returns
    -------
    (height, width, 3) uint8 array
    """
    x = release.encryption[row]
    parts = {"encryption": x, "absolute value": absolute_pixels(x), "decryption": decryption[row]}
    for slot, image in enumerate(secret.pair[row]):
        parts[f"private {slot + 1}: {scores.per_encryption[row, slot]:.3f}"] = secret.private[image]
    return _strip(parts)
