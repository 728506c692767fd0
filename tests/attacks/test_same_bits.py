"""The tiny run is the same to the last bit whatever the processor's features, kernels, threads and surroundings.

The cases are in matrix.py; ``make same-bits`` runs them on demo, and with all attacks. Here they run with the attacks
that are cheap on tiny. The others are compared by `make same-bits`: prng-state solves over GF(2) in integers, and
carlini-v1's steps are carlini-v2's, and least squares once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from matrix import CASES, Case, faults, not_seen, run_case

from instahide_nb.run.manifest import expected

METHODS = ("unmask", "carlini-v2", "prng-seed")
Answers = Callable[[Case], dict[str, Any]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What each case answers, one after another: the first compiles the kernels that most others load."""
    found: dict[str, dict[str, Any]] = {}

    def of(case: Case) -> dict[str, Any]:
        if case.impossible():
            pytest.skip(f"the case {case.name} is not possible here: {case.impossible()}")
        if case.name not in found:
            found[case.name] = run_case(case, tmp_path_factory.mktemp("case"), "tiny", METHODS)
        return found[case.name]

    return of


by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))


@by_case
def test_what_a_case_changes_took_effect(case: Case, answers: Answers) -> None:
    assert not_seen(case, answers(case)["surroundings"]) == []


def test_hash_seeds_took_effect(answers: Answers) -> None:
    seeded = [case for case in CASES if "PYTHONHASHSEED" in case.changes and not case.impossible()]
    if len(seeded) < 2:
        pytest.skip("fewer than two cases with a seed of their own are possible here")
    assert len({answers(case)["surroundings"]["hash"] for case in seeded}) == len(seeded)


@pytest.mark.parametrize("case", CASES[1:], ids=lambda case: case.name.replace(" ", "-"))
def test_bits_are_the_same(case: Case, answers: Answers) -> None:
    assert faults({one.name: answers(one)["digests"] for one in (CASES[0], case)}, {}) == []


def test_bits_are_the_expected_ones(answers: Answers) -> None:
    known, found = expected("tiny"), answers(CASES[0])["digests"]
    assert known is not None
    assert {name: found.get(name) for name in known} == known
    kinds = ("release/encryption", "release/label", "attack/unmask/decryption", "evaluate/unmask/comparison")
    assert all(any(name.startswith(kind) for name in known) for kind in kinds)


def test_a_difference_is_seen() -> None:
    found = {"one": {"a": "00ff", "b": "1234"}, "two": {"a": "00ff", "b": "1235"}, "three": {"a": "00ff"}}
    assert faults(found, {"a": "00fe", "c": "5"}) == ["a: is not the expected 00fe", "b: differs between cases"]
    assert faults({"one": found["one"]}, found["one"]) == []
    case = Case("x", {}, {"threads": 4, "opencv without": ["*AVX2"]})
    assert len(not_seen(case, {"threads": 1, "opencv features": ["*AVX2"]})) == 2
    assert not_seen(case, {"threads": 4, "opencv features": ["*AVX2?"]}) == []
