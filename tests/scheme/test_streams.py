"""The random streams: PyTorch's and numpy's generators word for word, and ChaCha20 as documented."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import randomgen

from instahide_nb.core.errors import InputError
from instahide_nb.scheme.streams import ChaChaStream, Mt19937Stream, open_stream

VECTORS = json.loads((Path(__file__).with_name("torch_vectors.json")).read_text())
KEY = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"


@pytest.mark.parametrize("entry", VECTORS["seeds"], ids=lambda entry: str(entry["seed"]))
def test_permutations_and_bits_are_pytorchs(entry: dict[str, Any]) -> None:
    stream = Mt19937Stream(entry["seed"])
    draws = {"randperm": stream.permutation, "randint2": stream.bits}
    for draw in entry["draws"]:
        assert draws[draw["draw"]](draw["size"]).tolist() == draw["numbers"]


def test_an_entropy_state_is_the_624_words_before_the_next_twist() -> None:
    state = np.random.default_rng(0).integers(0, 2**32, 624, np.uint32)
    hexed = state.astype("<u4").tobytes().hex()
    stream = Mt19937Stream("entropy", {"C": hexed, "T": hexed})
    generator = np.random.RandomState()
    generator.set_state(("MT19937", state, 624))
    assert stream.words(700).tolist() == generator.randint(0, 2**32, 700, np.uint32).tolist()


def test_secure_permutations_take_no_words_and_all_else_is_stream_v1() -> None:
    stream, plain = open_stream("mt19937-secure-permutations", seed=7, key=KEY), Mt19937Stream(7)
    assert (stream.permutation(50) == ChaChaStream(KEY).permutation(50)).all()
    assert (stream.normal(3, 5) == plain.normal(3, 5)).all()
    assert (stream.bits(1000) == plain.bits(1000)).all()
    assert stream.secret() == {"seed": 7, "key": KEY}


@pytest.mark.parametrize("rng", ["mt19937", "mt19937-secure-permutations"])
def test_states_of_a_key_can_be_made_again(rng: str) -> None:
    first, again, other = (open_stream(rng, seed="entropy", key=key).secret() for key in (KEY, KEY, KEY[::-1]))
    assert first == again
    assert len({first["states"]["C"], first["states"]["T"], other["states"]["C"]}) == 3
    restored = open_stream(rng, seed="entropy", key=first.get("key", ""), states=first["states"])
    assert restored.secret() == first
    assert "states" in open_stream(rng, seed="entropy").secret()


def test_other_seeds_states_keys_and_generators_are_refused() -> None:
    zero: dict[str, Any] = dict.fromkeys("CT", "00" * 2496)
    for states in ({}, {"C": zero["C"]}, zero, {"C": "ab", "T": "ab"}, {"C": "zz", "T": 5}):
        with pytest.raises(InputError, match=r"^states: [CT] is not"):
            Mt19937Stream("entropy", states)
    for seed in (-1, 2**32, "2020", "Entropy", 1.0, None):
        with pytest.raises(InputError, match=r"^seed: .* give 0 \.\. 4294967295 or"):
            Mt19937Stream(seed)
    for key in ("0" * 63, "0" * 65, "g" * 64, " " + "0" * 63, "0x" + "0" * 62, "٣" * 64, None, 7):
        with pytest.raises(InputError, match=r"^key: is not 64 hex digits"):
            ChaChaStream(key)
    with pytest.raises(InputError, match=r"^rng: 'philox'"):
        open_stream("philox")


def test_chacha20_is_the_documented_construction() -> None:
    stream = ChaChaStream(KEY.upper())
    plain = np.random.Generator(randomgen.ChaCha(key=int(KEY, 16), counter=0, rounds=20))
    assert (stream.permutation(50) == plain.permutation(50)).all()
    assert (stream.normal(4, 3) == plain.normal(size=(4, 3))).all()
    assert (stream.bits(1000) == plain.integers(0, 2, size=1000, dtype=np.uint8)).all()
    assert (stream.normal(3) == plain.normal(size=3)).all()
    assert stream.secret() == {"key": KEY}
    known = ChaChaStream(KEY)
    assert known.permutation(10).tolist() == [9, 1, 4, 8, 6, 3, 2, 5, 0, 7]
    assert hashlib.sha256(known.bits(4096).tobytes()).hexdigest()[:16] == "f15f7769917fe5d7"
    assert known.normal(3).tolist() == [0.23744313521649424, -0.052396601965431465, -1.3790949168732083]
