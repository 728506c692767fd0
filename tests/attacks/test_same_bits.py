"""The tiny run is the same to the last bit whatever the processor's features, kernels, threads and surroundings.

The cases are in matrix.py. `make test` runs one with `unmask` and compares it with the expected hashes, which the
committed notebooks show too, for this machine as it is. `make test-slow` compares all cases, with the attacks that are
cheap on tiny. `make same-bits` runs them on demo, with any attacks. (prng-state solves over GF(2) in integers;
carlini-v1's steps are carlini-v2's, and least squares once more.)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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
            found[case.name] = run_case(case, tmp_path_factory.mktemp("case"), "tiny", METHODS, forms=True)
        return found[case.name]

    return of


def without_effect(case: Case, surroundings: dict[str, Any]) -> list[str]:
    """What a case should have changed and did not, the seed of hashes included."""
    lines = not_seen(case, surroundings)
    if "PYTHONHASHSEED" in case.changes:
        command = [sys.executable, "-c", "print(hash('instahide'))"]
        done = subprocess.run(command, env=os.environ | case.changes, capture_output=True, text=True, check=True)
        lines += ["the seed of hashes"] * (surroundings["hash"] != int(done.stdout))
    return lines


def assert_expected(digests: dict[str, str]) -> None:
    known = expected("tiny")
    assert known is not None
    assert {name: digests.get(name) for name in known} == known
    kinds = ("release/encryption", "release/label", "attack/unmask/decryption", "evaluate/unmask/comparison")
    assert all(any(name.startswith(kind) for name in known) for kind in kinds)


def test_the_least_that_a_machine_may_be_gives_the_expected_bits(tmp_path: Path) -> None:
    case = next(case for case in (CASES[1], CASES[0]) if not case.impossible())
    answer = run_case(case, tmp_path, "tiny", ["unmask"])
    assert without_effect(case, answer["surroundings"]) == []
    assert_expected(answer["digests"])


by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))


@pytest.mark.slow
@by_case
def test_what_a_case_changes_took_effect(case: Case, answers: Answers) -> None:
    assert without_effect(case, answers(case)["surroundings"]) == []


@pytest.mark.slow
@by_case
def test_bits_are_the_same(case: Case, answers: Answers) -> None:
    assert_expected(answers(case)["digests"])
    assert faults({one.name: answers(one)["digests"] for one in (CASES[0], case)}, {}) == []


def test_a_difference_is_seen() -> None:
    found = {"one": {"a": "00ff", "b": "1234"}, "two": {"a": "00ff", "b": "1235"}, "three": {"a": "00ff"}}
    assert faults(found, {"a": "00fe", "c": "5"}) == ["a: is not the expected 00fe", "b: differs between cases"]
    assert faults({"one": found["one"]}, found["one"]) == []
    case = Case("x", {}, {"threads": 4, "opencv without": ["*AVX2"]})
    assert len(not_seen(case, {"threads": 1, "opencv features": ["*AVX2"]})) == 2
    assert not_seen(case, {"threads": 4, "opencv features": ["*AVX2?"]}) == []
