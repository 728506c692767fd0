"""The random streams of a challenge: ``mt19937`` as in 2020, the secure ``chacha20``, and one with both.

A stream draws coefficients (``normal``), permutations (``permutation``) and sign masks (``bits``); ``secret()`` is what
reproduces it. Only the seed or key is secret; the order of the draws is public.

Stream version 1 draws, for each epoch of N = n_private rows:

1. a permutation of the n_public images: the epoch's public pool (cross only);
2. a permutation of N, `order`: the first private image of each row;
3. N x k normal numbers, normalised to coefficients; then k at a time for each rejected row, until it passes;
4. for j = 1 .. k-1 a permutation of N, `perm_j`: image j is ``order[perm_j]`` if private, else ``pool[perm_j]``;
5. N x 3 x h x w mask bits, channels first, 1 meaning +1 (not for Mixup).

``mt19937``
    Two Mersenne Twisters with the same seed, as ``numpy.random.seed(s); torch.manual_seed(s)`` start them. C, numpy's,
    draws the coefficients (step 3). T, PyTorch's CPU generator, draws the rest. PyTorch is not needed: with w the next
    32-bit word of ``RandomState(s)``, ``torch.randperm(n)`` swaps places i and ``i + w % (n - i)`` for i = 0 .. n-2,
    and ``torch.randint(2)`` is ``w % 2``.
``chacha20``
    One ``numpy.random.Generator`` over ``randomgen.ChaCha(key=K, counter=0, rounds=20)``, where K is the key's 64 hex
    digits read as one big-endian number: ``normal(size=...)``, ``permutation(n)``, ``integers(0, 2, size=...,
    dtype=uint8)``.
``mt19937-secure-permutations``
    Permutations from ``chacha20``. Coefficients and masks as from ``mt19937``, without words of T for permutations.

With `public_once` no public image is used twice: step 1 is omitted, and step 4 takes public image
``((k - p) e + j - p) N + perm_j`` in epoch e.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import Any

import numpy as np

from instahide_nb.core.arrays import Float64, Int64, UInt8, UInt32
from instahide_nb.core.errors import InputError
from instahide_nb.core.kernels import kernel
from instahide_nb.core.params import check_key, check_seed

STREAM_VERSION = 1
SECURE_PERMUTATIONS = "mt19937-secure-permutations"

_WORDS = 624  # 32-bit words of a Mersenne Twister's state


def torch_permutation(words: UInt32) -> Int64:
    """``torch.randperm(n)`` from the generator's next n - 1 words.

    Examples
    --------
    >>> torch_permutation(np.array([2, 0], np.uint32))
    array([2, 1, 0])
    """
    order: Int64 = np.arange(len(words) + 1)
    _swap(order, words)
    return order


@kernel
def _swap(order: Any, words: Any) -> None:
    n = len(order)
    for i in range(n - 1):
        other = i + np.int64(words[i]) % (n - i)
        order[i], order[other] = order[other], order[i]


class Mt19937Stream:
    """Two Mersenne Twisters: C for coefficients, T for the rest.

    With seed "entropy" both start from full states: `states`, ``{"C": hex, "T": hex}``; else SHAKE-256 of the name and
    the `key`; without a key, random bytes of the operating system.
    """

    def __init__(self, seed: int | str, states: dict[str, str] | None = None, key: str = "") -> None:
        check_seed(seed)
        self._start: dict[str, Any] = {"seed": seed}
        if isinstance(seed, int):
            self.coefficients, self.torch = np.random.RandomState(seed), np.random.RandomState(seed)
            return
        if states is None and key:
            states = {n: hashlib.shake_256(f"{n} {key}".encode()).hexdigest(4 * _WORDS) for n in "CT"}
        elif states is None:
            states = {name: os.urandom(4 * _WORDS).hex() for name in "CT"}
        self._start["states"] = states
        self.coefficients, self.torch = (_from_state(states, name) for name in "CT")

    def normal(self, *size: int) -> Float64:
        """numpy's legacy polar normals, from C."""
        return self.coefficients.normal(size=size)

    def words(self, count: int) -> UInt32:
        """The next 32-bit words of T."""
        return self.torch.randint(0, 2**32, size=count, dtype=np.uint32)

    def permutation(self, n: int) -> Int64:
        """``torch.randperm(n)``: n - 1 words of T."""
        return torch_permutation(self.words(max(n - 1, 0)))[:n]

    def bits(self, count: int) -> UInt8:
        """``torch.randint(2, (count,))``: `count` words of T."""
        return (self.words(count) & np.uint32(1)).astype(np.uint8)

    def secret(self) -> dict[str, Any]:
        """The seed, and both states if it was "entropy"."""
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
    """A stream cipher in counter mode; `key` has 64 hex digits, "" draws them from the operating system."""

    def __init__(self, key: str) -> None:
        from randomgen import ChaCha

        check_key(key)
        self._key = key.lower() or secrets.token_hex(32)
        self.generator = np.random.Generator(ChaCha(key=int(self._key, 16), counter=0, rounds=20))

    def normal(self, *size: int) -> Float64:
        """``Generator.normal``."""
        return self.generator.normal(size=size)

    def permutation(self, n: int) -> Int64:
        """``Generator.permutation``."""
        return self.generator.permutation(n)

    def bits(self, count: int) -> UInt8:
        """``Generator.integers(0, 2)`` as uint8."""
        return self.generator.integers(0, 2, size=count, dtype=np.uint8)

    def secret(self) -> dict[str, Any]:
        """The key."""
        return {"key": self._key}


class SecurePermutationsStream(Mt19937Stream):
    """Mt19937 for coefficients and masks; permutations from ChaCha20 with the `key`."""

    def __init__(self, seed: int | str, key: str, states: dict[str, str] | None = None) -> None:
        self.secure = ChaChaStream(key)
        super().__init__(seed, states, key)

    def permutation(self, n: int) -> Int64:
        """``Generator.permutation``; no word of T."""
        return self.secure.permutation(n)

    def secret(self) -> dict[str, Any]:
        """The seed or states, and the key."""
        return super().secret() | self.secure.secret()


Stream = Mt19937Stream | ChaChaStream


def open_stream(rng: str, *, seed: int | str = 0, key: str = "", states: dict[str, str] | None = None) -> Stream:
    """The stream of these parameters.

    Examples
    --------
    >>> open_stream("mt19937", seed=0).permutation(10)
    array([4, 1, 7, 5, 3, 9, 0, 8, 6, 2])
    """
    if rng == "mt19937":
        return Mt19937Stream(seed, states, key)
    if rng == SECURE_PERMUTATIONS:
        return SecurePermutationsStream(seed, key, states)
    if rng == "chacha20":
        return ChaChaStream(key)
    raise InputError(f"rng: {rng!r} is not known; choose mt19937, chacha20 or {SECURE_PERMUTATIONS}")
