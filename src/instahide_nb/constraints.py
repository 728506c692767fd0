"""Which coefficients a scheme can draw at all; without numba, so that parameters are checked at once."""

from __future__ import annotations

from instahide_nb.errors import InputError

__all__ = ["check_constraints"]


def check_constraints(scheme: str, k: int, max_coefficient: float, min_private_sum: float) -> None:
    """Refuse constraints on the coefficients that no row can meet.

    Raises
    ------
    InputError
        When k is outside 2 .. 16 (Mixup: is not 2), `max_coefficient` outside (1/k, 1], or `min_private_sum`
        outside [0, 1] or beyond the reach of two coefficients of at most `max_coefficient`.
    """
    if scheme not in ("cross", "inside", "mixup"):
        raise InputError(f"scheme: {scheme!r} is not known; choose cross, inside or mixup")
    if not 2 <= k <= 16:
        raise InputError(f"k: {k} images cannot be mixed; give 2 .. 16")
    if scheme == "mixup" and k != 2:
        raise InputError(f"k: Mixup mixes two images, not {k}; give k = 2 or another scheme")
    if not 1 / k < max_coefficient <= 1:
        raise InputError(
            f"max_coefficient: {max_coefficient} is outside (1/k, 1] = ({1 / k:.4g}, 1]; no row of k = {k} meets it"
        )
    if scheme == "cross":
        reach = 1.0 if k == 2 else min(1.0, 2 * max_coefficient)
        # With public images beside them, two coefficients never sum to their limit itself.
        if not 0 <= min_private_sum <= reach or (k > 2 and min_private_sum == reach):
            raise InputError(
                f"min_private_sum: {min_private_sum} cannot be met with max_coefficient {max_coefficient}; "
                f"give 0 .. {reach:.4g}"
            )
