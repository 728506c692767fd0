"""The random streams of a challenge: ``mt19937`` as in 2020, and ``chacha20``, the mended generator.

A stream answers three questions: coefficients (:meth:`Stream.normal`), orders (:meth:`Stream.permutation`) and
sign masks (:meth:`Stream.bits`). The order of the questions is fixed by :mod:`instahide_nb.scheme.encryption` and is
public; only the seed is secret.

Stream version 1, ``mt19937``
    Two Mersenne Twisters that start from the same seed, as ``numpy.random.seed(s); torch.manual_seed(s)`` leaves
    them. *C*, numpy's, draws the coefficients and nothing else. *T*, PyTorch's CPU generator, draws the rest. T is
    spoken here without PyTorch: its words are those of ``RandomState(s)``; ``torch.randperm(n)`` swaps place i
    with place ``i + w % (n - i)`` for each next word w; ``torch.randint(2)`` is ``w % 2``.
Stream version 1, ``chacha20``
    One ``numpy.random.Generator`` over ``randomgen.ChaCha(key=K, counter=0, rounds=20)``, where K is the 64 hex
    digits of the key read as one big-endian number. Coefficients are ``normal(size=...)``, orders
    ``permutation(n)``, masks ``integers(0, 2, size=..., dtype=uint8)``.
"""

from __future__ import annotations

import os
import secrets
from typing import Any, Protocol

import numba as nb
import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError

__all__ = ["STREAM_VERSION", "ChaChaStream", "Mt19937Stream", "Stream", "open_stream"]

STREAM_VERSION = 1

_WORDS = 624  # 32-bit words of a Mersenne Twister's state


class Stream(Protocol):
    """What a challenge asks of its source of randomness."""

    def normal(self, *size: int) -> npt.NDArray[np.float64]:
        """Standard normal numbers, for coefficients."""

    def permutation(self, n: int) -> npt.NDArray[np.int64]:
        """A random order of 0 .. n-1."""

    def bits(self, count: int) -> npt.NDArray[np.uint8]:
        """`count` numbers that are 0 or 1, for sign masks."""

    def secret(self) -> dict[str, Any]:
        """What whoever wants to make the same numbers again must know, as JSON can hold it."""


def torch_permutation(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """The order that ``torch.randperm(n)`` makes of its n - 1 words.

    Parameters
    ----------
    words : (n - 1,) uint32 array
        The generator's next words.

    Examples
    --------
    >>> torch_permutation(np.array([2, 0], np.uint32))
    array([2, 1, 0])
    """
    order: npt.NDArray[np.int64] = np.arange(len(words) + 1)
    _swap(order, words)
    return order


@nb.njit(cache=True)  # pragma: no cover - compiled
def _swap(order: Any, words: Any) -> None:
    n = len(order)
    for i in range(n - 1):
        other = i + np.int64(words[i]) % (n - i)
        order[i], order[other] = order[other], order[i]


class Mt19937Stream:
    """Two Mersenne Twisters: C, as numpy seeds it, for coefficients; T, as PyTorch seeds it, for the rest.

    Parameters
    ----------
    seed : int or "entropy"
        0 .. 2**32 - 1, or "entropy": both twisters start from a full state of the operating system's randomness.
    states : dict, optional
        ``{"C": hex, "T": hex}`` of an earlier entropy start, to make the same numbers again.
    """

    def __init__(self, seed: int | str, states: dict[str, str] | None = None) -> None:
        self._start: dict[str, Any] = {"seed": seed}
        if seed == "entropy":
            if states is None:
                states = {name: os.urandom(4 * _WORDS).hex() for name in "CT"}
            self._start["states"] = states
            self.coefficients, self.torch = (_from_state(states, name) for name in "CT")
        elif isinstance(seed, int) and 0 <= seed < 2**32:
            self.coefficients = np.random.RandomState(seed)
            self.torch = np.random.RandomState(seed)
        else:
            raise InputError(f'seed: {seed!r} is not accepted; give 0 .. 4294967295 or "entropy"')

    def normal(self, *size: int) -> npt.NDArray[np.float64]:
        """numpy's legacy polar normals, from C."""
        return self.coefficients.normal(size=size)

    def words(self, count: int) -> npt.NDArray[np.uint32]:
        """The next 32-bit words of T."""
        return self.torch.randint(0, 2**32, size=count, dtype=np.uint32)

    def permutation(self, n: int) -> npt.NDArray[np.int64]:
        """``torch.randperm(n)``; takes n - 1 words of T."""
        return torch_permutation(self.words(max(n - 1, 0)))[:n]

    def bits(self, count: int) -> npt.NDArray[np.uint8]:
        """``torch.randint(2, (count,))``; takes `count` words of T."""
        return (self.words(count) & np.uint32(1)).astype(np.uint8)

    def secret(self) -> dict[str, Any]:
        """The seed, and the two states where it was "entropy"."""
        return dict(self._start)


def _from_state(states: dict[str, str], name: str) -> np.random.RandomState:
    try:
        key = np.frombuffer(bytes.fromhex(states[name]), "<u4").astype(np.uint32)
        if key.shape != (_WORDS,) or not key.any():
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise InputError(f"states: {name} is not a Mersenne Twister's state of 624 words in hex") from None
    generator = np.random.RandomState(0)
    generator.set_state(("MT19937", key, _WORDS, 0, 0.0))
    return generator


class ChaChaStream:
    """The mended generator: a cryptographic stream cipher in counter mode.

    Parameters
    ----------
    key : str
        64 hex digits; "" draws them from the operating system.
    """

    def __init__(self, key: str) -> None:
        if key == "":
            key = secrets.token_hex(32)
        if not isinstance(key, str) or len(key) != 64 or not set(key) <= set("0123456789abcdefABCDEF"):
            raise InputError('key: is not 64 hex digits; give 64 of 0-9a-f, or "" to draw them')
        from randomgen import ChaCha

        self._key = key.lower()
        self.generator = np.random.Generator(ChaCha(key=int(key, 16), counter=0, rounds=20))

    def normal(self, *size: int) -> npt.NDArray[np.float64]:
        """Ziggurat normals of the one generator."""
        return self.generator.normal(size=size)

    def permutation(self, n: int) -> npt.NDArray[np.int64]:
        """``Generator.permutation(n)``."""
        return self.generator.permutation(n)

    def bits(self, count: int) -> npt.NDArray[np.uint8]:
        """``Generator.integers(0, 2)`` as uint8."""
        return self.generator.integers(0, 2, size=count, dtype=np.uint8)

    def secret(self) -> dict[str, Any]:
        """The key."""
        return {"key": self._key}


def open_stream(
    rng: str, *, seed: int | str = 0, key: str = "", states: dict[str, str] | None = None
) -> Mt19937Stream | ChaChaStream:
    """Open the stream that the parameters name.

    Examples
    --------
    >>> open_stream("mt19937", seed=0).permutation(10)
    array([4, 1, 7, 5, 3, 9, 0, 8, 6, 2])
    """
    if rng == "mt19937":
        return Mt19937Stream(seed, states)
    if rng == "chacha20":
        return ChaChaStream(key)
    raise InputError(f"rng: {rng!r} is not known; choose mt19937 or chacha20")
