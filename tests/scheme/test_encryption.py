"""Encryption against a slow one in Python's own integers, bit for bit, and the invariants of the scheme."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import randomgen
from conftest import made_images
from hypothesis import given, settings
from hypothesis import strategies as st

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import sha256_array
from instahide_nb.core.params import ChallengeParams
from instahide_nb.scheme import encryption
from instahide_nb.scheme.encryption import WEIGHT_ONE, encrypt, pixel_bytes, pixel_values
from instahide_nb.scheme.streams import ChaChaStream, Mt19937Stream

KEY = "f0" * 32
ONE = 255 * 2**24
"""What every mixture is a multiple of the inverse of."""


@dataclass(frozen=True)
class Draws:
    """The draws of an encryption, each made by a generator that the package has no hand in."""

    normals: Callable[[int], list[float]]
    permutation: Callable[[int], list[int]]
    bits: Callable[[int], list[int]]


def independent_draws(rng: str, seed: int) -> Draws:
    """Raw words of C and T as the stream's definition spells them, or one numpy Generator over ChaCha20."""
    if rng == "chacha20":
        g = np.random.Generator(randomgen.ChaCha(key=int(KEY, 16), counter=0, rounds=20))
        return Draws(
            normals=lambda count: g.normal(size=count).tolist(),
            permutation=lambda n: g.permutation(n).tolist(),
            bits=lambda count: g.integers(0, 2, size=count, dtype=np.uint8).tolist(),
        )
    c, t = np.random.RandomState(seed), np.random.RandomState(seed)._bit_generator

    def permutation(n: int) -> list[int]:
        r = list(range(n))
        for i in range(n - 1):
            z = int(t.random_raw()) % (n - i)
            r[i], r[i + z] = r[i + z], r[i]
        return r

    return Draws(
        normals=lambda count: [float(c.normal()) for _ in range(count)],
        permutation=permutation,
        bits=lambda count: [int(t.random_raw()) % 2 for _ in range(count)],
    )


def added(terms: list[float]) -> float:
    """The sum from left to right; Python's own sum of floats compensates its rounding."""
    total = 0.0
    for term in terms:
        total += term
    return total


def slow_encrypt(
    private: npt.NDArray[np.uint8],
    public: npt.NDArray[np.uint8],
    draw: Draws,
    *,
    scheme: str,
    k: int,
    encryptions_per_image: int,
    max_coefficient: float,
    min_private_sum: float,
    private_per_mix: int,
) -> Iterator[tuple[list[int], list[int], list[Fraction], list[int]]]:
    """Row by row: image indices, integer weights, exact values before the mask, and the mask's bits.

    Values and bits are in the order of the pixels of an (h, w, 3) image.
    """
    n, plane, p = len(private), private[0].size // 3, private_per_mix
    cross = scheme == "cross"

    def drawn_row(normals: list[float]) -> list[float]:
        sizes = [abs(x) for x in normals]
        return [size / added(sizes) for size in sizes]

    def poor(row: list[float]) -> bool:
        return max(row) > max_coefficient or (cross and added(row[:p]) < min_private_sum)

    for _ in range(encryptions_per_image):
        pool = draw.permutation(len(public)) if cross else []
        order = draw.permutation(n)
        normals = draw.normals(n * k)
        rows = [drawn_row(normals[r * k : (r + 1) * k]) for r in range(n)]
        for r in range(n):
            while poor(rows[r]):
                rows[r] = drawn_row(draw.normals(k))
        columns = [order]
        for j in range(1, k):
            source = pool if cross and j >= p else order
            columns.append([source[place] for place in draw.permutation(n)])
        mask = [1] * (n * 3 * plane) if scheme == "mixup" else draw.bits(n * 3 * plane)
        for r in range(n):
            index = [column[r] for column in columns]
            weight = [math.floor(Fraction(x) * 2**24) for x in rows[r]]
            weight[rows[r].index(max(rows[r]))] += 2**24 - sum(weight)
            images = [(public if cross and j >= p else private)[i].reshape(-1).tolist() for j, i in enumerate(index)]
            values = [
                Fraction(sum(w * (2 * u - 255) for w, u in zip(weight, pixels, strict=True)), ONE)
                for pixels in zip(*images, strict=True)
            ]
            # The mask is drawn as (n, 3, h, w).
            channels = mask[r * 3 * plane : (r + 1) * 3 * plane]
            yield index, weight, values, [channels[c * plane + at] for at in range(plane) for c in range(3)]


def nearest_float32(value: Fraction) -> np.float32:
    """The one float32 that lies nearest to a fraction; shown to be so, not assumed."""
    found = np.float32(value.numerator / value.denominator)
    error = abs(Fraction(float(found)) - value)
    for beside in (np.nextafter(found, np.float32(-2)), np.nextafter(found, np.float32(2))):
        assert error < abs(Fraction(float(beside)) - value)
    return found


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    rng=st.sampled_from(["mt19937", "chacha20"]),
    scheme_and_k=st.tuples(st.sampled_from(["cross", "inside"]), st.integers(2, 16)) | st.just(("mixup", 2)),
    n_private=st.integers(2, 6),
    more=st.integers(0, 4),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    slack=st.floats(0.2, 1),
    share=st.floats(0, 0.5),
    p=st.integers(1, 16),
)
def test_encryption_is_bit_for_bit_the_slow_one(
    seed: int,
    rng: str,
    scheme_and_k: tuple[str, int],
    n_private: int,
    more: int,
    shape: tuple[int, int],
    slack: float,
    share: float,
    p: int,
) -> None:
    scheme, k = scheme_and_k
    options: dict[str, Any] = {
        "scheme": scheme,
        "k": k,
        "encryptions_per_image": 2,
        "max_coefficient": min(1.0, 1 / k + slack),
        "min_private_sum": share * min(1, 6 / k) * min(1, p / 2),
        "private_per_mix": min(p, k),
    }
    stream = Mt19937Stream(seed) if rng == "mt19937" else ChaChaStream(KEY)
    private, public = made_images(n_private, *shape, seed), made_images(n_private + more, *shape, seed + 1)
    turned = np.asfortranarray(private)  # inputs need not be contiguous, and are not changed
    turned.flags.writeable = False
    made = encrypt(turned, public[::-1][::-1], stream, ChallengeParams(n_private=n_private, **options))
    rows = list(slow_encrypt(private, public, independent_draws(rng, seed), **options))
    assert len(made.encryption) == len(rows)
    assert (made.weight.sum(axis=1, dtype=np.int64) == WEIGHT_ONE).all()
    assert (made.coefficient.astype(np.float64) * WEIGHT_ONE == made.weight).all()
    assert np.abs(made.encryption).max() <= 1
    for r, (index, weight, values, bits) in enumerate(rows):
        assert made.index[r].tolist() == index
        assert made.weight[r].tolist() == weight
        assert np.unpackbits(made.mask[r]).tolist() == bits + [0] * (-len(bits) % 8)
        signed = [nearest_float32(v) * np.float32(2 * bit - 1) for v, bit in zip(values, bits, strict=True)]
        assert made.encryption[r].reshape(-1).view(np.uint32).tolist() == np.array(signed).view("u4").tolist()


def test_known_answer() -> None:
    """Recorded once from the slow encryption of this file; holds on every machine."""
    private, public = made_images(4, 3, 5, 3), made_images(9, 3, 5, 4)
    made = encrypt(private, public, Mt19937Stream(2020), ChallengeParams(n_private=4, k=6, encryptions_per_image=5))
    assert made.weight[0].tolist() == [5122194, 218782, 3274056, 1886399, 2586267, 3689518]
    assert sha256_array(made.encryption)[:32] == "9620b6c15d1383a93e4a4de4ed1f1156"


class Even(Mt19937Stream):
    """A stream of equal coefficients."""

    def normal(self, *size: int) -> npt.NDArray[np.float64]:
        return np.ones(size)


def test_zero_takes_the_sign_of_its_mask() -> None:
    """An image and its negative in equal parts cancel; minus zero is how a mask of -1 shows there."""
    image = made_images(1, 3, 3, 0)
    private = np.concatenate([image, 255 - image])
    params = ChallengeParams(n_private=2, scheme="inside", k=2, encryptions_per_image=9)
    made = encrypt(private, private, Even(0), params)
    mixed = made.index[:, 0] != made.index[:, 1]
    assert (made.encryption[mixed] == 0).all()
    positive = np.unpackbits(made.mask, axis=1, count=image.size).reshape(made.encryption.shape)
    assert (np.signbit(made.encryption) == (positive == 0))[mixed].all()
    assert np.signbit(made.encryption[mixed]).any()


def test_pixel_values_are_the_nearest_float32_and_turn_back() -> None:
    values = pixel_values(np.arange(256, dtype=np.uint8))
    assert values.dtype == np.float32
    assert values.tolist() == [float(nearest_float32(Fraction(2 * u - 255, 255))) for u in range(256)]
    assert pixel_bytes(values).tolist() == list(range(256))
    assert pixel_bytes(np.array([-9, 9])).tolist() == [0, 255]


def test_images_that_do_not_fit_and_constraints_that_are_never_met_are_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(encryption, "_MOST_REDRAWS", 500)
    private, public, stream = made_images(3, 2, 2, 0), made_images(3, 2, 2, 1), Mt19937Stream(0)
    params = ChallengeParams(n_private=3)
    with pytest.raises(InputError, match="n_private: 1 private images; 3 are expected"):
        encrypt(private[:1], public, stream, params)
    with pytest.raises(InputError, match="n_public: 2 public images are too few; give 3"):
        encrypt(private, public[:2], stream, params)
    with pytest.raises(InputError, match="public_source: images of "):
        encrypt(private, made_images(3, 2, 3, 1), stream, params)
    # Sixteen coefficients of at most 0.0626, their mean being 0.0625.
    params = params.changed(scheme="inside", k=16, max_coefficient=0.0626)
    with pytest.raises(InputError, match="max_coefficient, min_private_sum: no row of coefficients in 500 draws"):
        encrypt(private, public, stream, params)
