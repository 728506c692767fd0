"""Encryption against a slow one in Python's own integers, bit for bit, and the invariants of the scheme."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from instahide_nb.scheme.encryption import (
    WEIGHT_ONE,
    Mixtures,
    class_coefficients,
    draw_coefficients,
    encrypt,
    integer_weights,
    pixel_bytes,
    pixel_values,
)
from instahide_nb.scheme.streams import ChaChaStream, Mt19937Stream

KEY = "f0" * 32
ONE = 255 * 2**24
"""What every mixture is a multiple of the inverse of."""


@dataclass(frozen=True)
class Questions:
    """The three questions of an encryption, answered by a generator that the package has no hand in."""

    normals: Callable[[int], list[float]]
    permutation: Callable[[int], list[int]]
    bits: Callable[[int], list[int]]


def mt19937_questions(seed: int) -> Questions:
    """C and T from raw words, as the stream's definition spells them."""
    c, t = np.random.RandomState(seed), np.random.RandomState(seed)._bit_generator

    def permutation(n: int) -> list[int]:
        r = list(range(n))
        for i in range(n - 1):
            z = int(t.random_raw()) % (n - i)
            r[i], r[i + z] = r[i + z], r[i]
        return r

    return Questions(
        normals=lambda count: [float(c.normal()) for _ in range(count)],
        permutation=permutation,
        bits=lambda count: [int(t.random_raw()) % 2 for _ in range(count)],
    )


def chacha20_questions(key: str) -> Questions:
    """The same questions put to one numpy Generator."""
    g = np.random.Generator(randomgen.ChaCha(key=int(key, 16), counter=0, rounds=20))
    return Questions(
        normals=lambda count: g.normal(size=count).tolist(),
        permutation=lambda n: g.permutation(n).tolist(),
        bits=lambda count: g.integers(0, 2, size=count, dtype=np.uint8).tolist(),
    )


def slow_encrypt(
    private: npt.NDArray[np.uint8],
    public: npt.NDArray[np.uint8],
    ask: Questions,
    scheme: str,
    k: int,
    epochs: int,
    max_coefficient: float,
    min_private_sum: float,
    private_per_mix: int = 2,
) -> Iterator[tuple[list[int], list[int], list[Fraction], list[int]]]:
    """Row by row: image indices, integer weights, exact values before the mask, and the mask's bits.

    Values and bits are in the order of the pixels of an (h, w, 3) image.
    """
    n, height, width = private.shape[:3]
    cross, p = scheme == "cross", private_per_mix

    def drawn_sum(sizes: list[float]) -> float:
        total = 0.0
        for s in sizes:
            total += s
        return total

    def drawn_row(normals: list[float]) -> list[float]:
        sizes = [abs(x) for x in normals]
        total = drawn_sum(sizes)
        return [s / total for s in sizes]

    def poor(row: list[float]) -> bool:
        return max(row) > max_coefficient or (cross and drawn_sum(row[:p]) < min_private_sum)

    for _ in range(epochs):
        pool = ask.permutation(len(public)) if cross else []
        order = ask.permutation(n)
        normals = ask.normals(n * k)
        rows = [drawn_row(normals[r * k : (r + 1) * k]) for r in range(n)]
        for r in range(n):
            while poor(rows[r]):
                rows[r] = drawn_row(ask.normals(k))
        columns = [order]
        for j in range(1, k):
            perm = ask.permutation(n)
            columns.append([(pool if cross and j >= p else order)[place] for place in perm])
        size = 3 * height * width
        mask = ask.bits(n * size) if scheme != "mixup" else [1] * (n * size)
        for r in range(n):
            index = [column[r] for column in columns]
            weight = [math.floor(Fraction(x) * 2**24) for x in rows[r]]
            weight[rows[r].index(max(rows[r]))] += 2**24 - sum(weight)
            images = [
                (public if cross and j >= p else private)[i].reshape(-1).tolist() for j, i in enumerate(index)
            ]
            values = [
                Fraction(sum(w * (2 * image[v] - 255) for w, image in zip(weight, images, strict=True)), ONE)
                for v in range(size)
            ]
            # The mask is drawn as (n, 3, h, w).
            channels = mask[r * size : (r + 1) * size]
            bits = [channels[c * height * width + p] for p in range(height * width) for c in range(3)]
            yield index, weight, values, bits


def nearest_float32(value: Fraction) -> np.float32:
    """The one float32 that lies nearest to a fraction; shown to be so, not assumed."""
    found = np.float32(value.numerator / value.denominator)
    error = abs(Fraction(float(found)) - value)
    for beside in (np.nextafter(found, np.float32(-2)), np.nextafter(found, np.float32(2))):
        assert error < abs(Fraction(float(beside)) - value)
    return found


def compare_with_slow(
    made: Mixtures,
    private: npt.NDArray[np.uint8],
    public: npt.NDArray[np.uint8],
    ask: Questions,
    **options: Any,
) -> None:
    rows = list(slow_encrypt(private, public, ask, **options))
    assert len(made.encryption) == len(rows)
    assert (made.weight.sum(axis=1, dtype=np.int64) == WEIGHT_ONE).all()
    assert (made.coefficient.astype(np.float64) * WEIGHT_ONE == made.weight).all()
    assert np.abs(made.encryption).max() <= 1
    for r, (index, weight, values, bits) in enumerate(rows):
        assert made.index[r].tolist() == index
        assert made.weight[r].tolist() == weight
        assert np.unpackbits(made.mask[r]).tolist() == bits + [0] * (-len(bits) % 8)
        expected = np.array(
            [nearest_float32(v) * np.float32(1 if bit else -1) for v, bit in zip(values, bits, strict=True)]
        )
        assert made.encryption[r].reshape(-1).view(np.uint32).tolist() == expected.view(np.uint32).tolist()


@settings(max_examples=40)
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
        "max_coefficient": min(1.0, 1 / k + slack),
        "min_private_sum": share * min(1, 6 / k) * min(1, p / 2),
        "private_per_mix": min(p, k),
    }
    mt19937 = rng == "mt19937"
    stream = Mt19937Stream(seed) if mt19937 else ChaChaStream(KEY)
    ask = mt19937_questions(seed) if mt19937 else chacha20_questions(KEY)
    private, public = made_images(n_private, *shape, seed), made_images(n_private + more, *shape, seed + 1)
    turned = np.asfortranarray(private)  # inputs need not be contiguous, and are not changed
    turned.flags.writeable = False
    made = encrypt(turned, public[::-1][::-1], stream, encryptions_per_image=2, **options)
    compare_with_slow(made, private, public, ask, epochs=2, **options)


def signs(made: Mixtures) -> npt.NDArray[np.float32]:
    """The masks as +1 and -1, in the shape of the encryptions."""
    n, *image = made.encryption.shape
    bits = np.unpackbits(made.mask, axis=1, count=int(np.prod(image)))
    return (2.0 * bits - 1).astype(np.float32).reshape(n, *image)


def test_known_answer() -> None:
    """Recorded once from the slow encryption of this file; holds on every machine."""
    private, public = made_images(4, 3, 5, 3), made_images(9, 3, 5, 4)
    made = encrypt(private, public, Mt19937Stream(2020), k=6, encryptions_per_image=5)
    assert made.weight[0].tolist() == [5122194, 218782, 3274056, 1886399, 2586267, 3689518]
    assert sha256_array(made.encryption)[:32] == "9620b6c15d1383a93e4a4de4ed1f1156"


@dataclass
class Scripted:
    """A stream whose normals are given; orders are turned by `turns`, bits alternate and start with 1."""

    rows: list[list[float]]
    turns: list[int] = field(default_factory=list)
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def normal(self, *size: int) -> npt.NDArray[np.float64]:
        self.asked.append(size)
        count = size[0] if len(size) == 2 else 1
        taken, self.rows = self.rows[:count], self.rows[count:]
        return np.array(taken, np.float64).reshape(size)

    def permutation(self, n: int) -> npt.NDArray[np.int64]:
        return np.roll(np.arange(n), self.turns.pop() if self.turns else 0)

    def bits(self, count: int) -> npt.NDArray[np.uint8]:
        return (np.arange(count) % 2 == 0).astype(np.uint8)

    def secret(self) -> dict[str, Any]:
        return {}


def test_rejected_rows_are_redrawn_alone_and_in_row_order() -> None:
    stream = Scripted(
        [
            [-3, 1, 1, 3],  # 0.375: passes
            [1, 1, 1, -9],  # 0.75: too large
            [1, 1, 4, 4],  # 0.2: too little for the private images
            [2, 2, 2, 2],
            [8, 1, 1, 0],  # first try for row 1: 0.8 again
            [2, -2, 3, 3],  # second: passes
            [5, 1, 2, 2],  # row 2
        ]
    )
    rows = draw_coefficients(stream, 4, 4, max_coefficient=0.65, min_private_sum=0.3)
    expected = [[0.375, 0.125, 0.125, 0.375], [0.2, 0.2, 0.3, 0.3], [0.5, 0.1, 0.2, 0.2], [0.25] * 4]
    assert rows.tolist() == expected
    assert stream.asked == [(4, 4), (4,), (4,), (4,)]
    assert stream.rows == []


def test_limits_are_met_when_touched() -> None:
    touching = [[0.625, 0.125, 0.125, 0.125], [0.125, 0.125, 0.375, 0.375]]
    for first_draw in ([], [[0, 0, 1, 1], [0, 0, 1, 1]]):  # at once, and when redrawn
        stream = Scripted([*first_draw, [5, 1, 1, 1], [1, 1, 3, 3]])
        rows = draw_coefficients(stream, 2, 4, max_coefficient=0.625, min_private_sum=0.25)
        assert rows.tolist() == touching


def test_zero_takes_the_sign_of_its_mask() -> None:
    # An image and its negative in equal parts cancel; minus zero is how a mask of -1 shows there.
    image = made_images(1, 3, 3, 0)
    private = np.concatenate([image, 255 - image])
    stream = Scripted([[1, 1], [1, 1]], turns=[1, 0])
    made = encrypt(private, private, stream, scheme="inside", k=2, encryptions_per_image=1)
    assert made.index.tolist() == [[0, 1], [1, 0]]
    assert made.weight.tolist() == [[2**23, 2**23]] * 2
    assert (made.encryption == 0).all()
    assert (np.signbit(made.encryption) == (signs(made) < 0)).all()
    assert np.signbit(made.encryption).any()


def weight_rows() -> st.SearchStrategy[list[float]]:
    positive = st.floats(0, 1e6, allow_nan=False) | st.sampled_from([1.0, 2**-30, 1 / 3, 5e-324])
    return st.lists(positive, min_size=2, max_size=16).filter(lambda row: sum(row) > 1e-3)


@settings(max_examples=300)
@given(weight_rows())
def test_integer_weights_round_down_and_give_the_rest_to_the_largest(sizes: list[float]) -> None:
    total = 0.0
    for size in sizes:
        total += size
    row = [size / total for size in sizes]
    weight = integer_weights(np.array([row]))
    assert weight.dtype == np.uint32
    down = [math.floor(Fraction(x) * 2**24) for x in row]
    rest = [int(w) - d for w, d in zip(weight[0], down, strict=True)]
    assert weight.sum(dtype=np.int64) == 2**24
    assert sum(r != 0 for r in rest) <= 1
    assert 0 <= sum(rest) <= len(row)
    # Where two are alike in 24 bits, the first of them takes the rest.
    assert rest[down.index(max(down))] == sum(rest)


def test_pixel_values_are_the_nearest_float32_and_turn_back() -> None:
    values = pixel_values(np.arange(256, dtype=np.uint8))
    assert values.dtype == np.float32
    assert values.tolist() == [float(nearest_float32(Fraction(2 * u - 255, 255))) for u in range(256)]
    assert pixel_bytes(values).tolist() == list(range(256))
    assert pixel_bytes(np.array([-9, 9])).tolist() == [0, 255]


@given(
    label=st.lists(st.integers(0, 3), min_size=2, max_size=6),
    places=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_labels_are_exact_sums_of_coefficients_per_class(label: list[int], places: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    index = generator.integers(0, len(label), (9, places)).astype(np.int32)
    weight = generator.integers(0, WEIGHT_ONE // places, (9, places)).astype(np.uint32)
    found = class_coefficients(weight, index, np.array(label), 4)
    assert found.dtype == np.float32
    for r in range(9):
        exact = [Fraction(0)] * 4
        for w, i in zip(weight[r].tolist(), index[r].tolist(), strict=True):
            exact[label[i]] += Fraction(w, WEIGHT_ONE)
        assert [Fraction(float(x)) for x in found[r]] == exact


def refused(expected: str, **options: Any) -> None:
    private, public = made_images(3, 2, 2, 0), made_images(3, 2, 2, 1)
    arguments = {"private": private, "public": public, "stream": Mt19937Stream(0)} | options
    with pytest.raises(InputError, match=expected) as caught:
        encrypt(**arguments)
    assert "\n" not in str(caught.value)


def test_images_that_do_not_fit_and_constraints_that_are_never_met_are_refused() -> None:
    refused("^n_private: 1 is too few", private=made_images(1, 2, 2, 0))
    refused("^n_public: 2 public images for 3 private", public=made_images(2, 2, 2, 1))
    refused("^public_source: images of ", public=made_images(3, 2, 3, 1))
    # Sixteen coefficients of at most 0.0626, their mean being 0.0625.
    refused("^max_coefficient, min_private_sum: no row", scheme="inside", k=16, max_coefficient=0.0626)
