"""A Mersenne Twister for each of 256 seeds, side by side: the seeding, and points of the polar method.

Every loop runs over 256 seeds, one array to the next, so that the compiler makes vector instructions of it; it
would not if a 32-bit operation were widened to 64 bits, hence the casts.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from numba.extending import intrinsic

__all__ = ["LANES", "compiled", "first_words", "four_steps", "point", "wide_vectors"]

LANES = 256  # seeds at a time: with their first words they stay in a second-level cache

compiled: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@intrinsic
def wide_vectors(_: Any) -> Any:  # pragma: no cover - called by the compiler
    """Let the function that calls this use 512-bit vectors where the processor has them.

    LLVM keeps to 256 bits on most such processors, since wide vectors can lower the clock. It knows this attribute of
    a function; llvmlite has no name for it, hence ``set.add``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        attributes = builder.function.attributes
        if isinstance(attributes, set):
            set.add(attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return nb.types.none(), generate


@nb.njit(inline="always")  # pragma: no cover - compiled
def _step(word: Any, i: Any) -> Any:
    """One step of the seeding; every operation is cast, or numba widens it to 64 bits."""
    mixed = np.uint32(word ^ np.uint32(word >> np.uint32(30)))
    return np.uint32(np.uint32(mixed * np.uint32(1812433253)) + np.uint32(i))


@nb.njit(inline="always")  # pragma: no cover - compiled
def _signed_word(first: Any, second: Any, middle: Any) -> Any:
    """The tempered word that x(j), x(j+1), x(j+397) make, as a signed number: the point's coordinate * 2**31."""
    joined = np.uint32((first & np.uint32(0x80000000)) | (second & np.uint32(0x7FFFFFFF)))
    odd = np.uint32(np.uint32(0) - np.uint32(joined & np.uint32(1)))
    y = np.uint32(middle ^ np.uint32(joined >> np.uint32(1)) ^ np.uint32(odd & np.uint32(0x9908B0DF)))
    y = np.uint32(y ^ np.uint32(y >> np.uint32(11)))
    y = np.uint32(y ^ np.uint32(np.uint32(y << np.uint32(7)) & np.uint32(0x9D2C5680)))
    y = np.uint32(y ^ np.uint32(np.uint32(y << np.uint32(15)) & np.uint32(0xEFC60000)))
    y = np.uint32(y ^ np.uint32(y >> np.uint32(18)))
    return np.int32(y ^ np.uint32(0x80000000))


@nb.njit(**compiled)  # pragma: no cover - compiled
def first_words(attempts: Any, words: Any) -> None:
    """x(1) .. x(4 * attempts) of each seed; x(0), the seed, is given."""
    wide_vectors()
    for j in range(1, 4 * attempts + 1, 4):
        before, a, b, c, d = words[j - 1], words[j], words[j + 1], words[j + 2], words[j + 3]
        for i in range(LANES):
            v = _step(before[i], j)
            a[i] = v
            v = _step(v, j + 1)
            b[i] = v
            v = _step(v, j + 2)
            c[i] = v
            d[i] = _step(v, j + 3)


@nb.njit(**compiled)  # pragma: no cover - compiled
def four_steps(word: Any, j: Any, out: Any) -> None:
    wide_vectors()
    for i in range(LANES):
        out[i] = _step(_step(_step(_step(word[i], j), j + 1), j + 2), j + 3)


@nb.njit(**compiled)  # pragma: no cover - compiled
def point(
    words: Any,
    attempt: Any,
    word: Any,
    accepted: Any,
    out: Any,
    accepted_out: Any,
    small: Any,
    large: Any,
) -> None:
    """One point of the polar method: its smaller and its larger coordinate, or (1, 0), which no ratio fits."""
    wide_vectors()
    w0, w1 = words[4 * attempt], words[4 * attempt + 1]
    w2, w3 = words[4 * attempt + 2], words[4 * attempt + 3]
    j = 397 + 4 * attempt
    for i in range(LANES):
        v = _step(word[i], j)
        x1 = abs(np.float32(_signed_word(w0[i], w1[i], v)))
        v = _step(_step(v, j + 1), j + 2)
        x2 = abs(np.float32(_signed_word(w2[i], w3[i], v)))
        out[i] = _step(v, j + 3)
        radius = np.float32(np.float32(x1 * x1) + np.float32(x2 * x2))
        inside = radius < np.float32(4611686018427387904.0)  # 2**62
        less = x1 if x1 < x2 else x2
        more = x2 if x1 < x2 else x1
        small[i] = less if inside else np.float32(1)
        large[i] = more if inside else np.float32(0)
        accepted_out[i] = np.int32(accepted[i] + np.int32(inside))
