"""Attacks by name, what they are given, and what they must return."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instahide_nb.attacks.registry import METHODS, check_method, find_attack, method_names, run_attack, why_not
from instahide_nb.attacks.result import AttackResult, on_the_grid, save_result
from instahide_nb.challenge.build import Challenge
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, read_json
from instahide_nb.scheme.encryption import pixel_values

PUBLIC = np.zeros((3, 8, 8, 3), np.uint8)
N, IMAGE = 35, (8, 8, 3)
RESULT = AttackResult(
    method="grey",
    recovered=np.zeros((7, *IMAGE), np.float32),
    assignment=np.full((N, 2), -1, np.int64),
    decryption=np.zeros((N, *IMAGE), np.float32),
    complexity="O(1)",
    seconds={"thinking": 1.23456},
    details={"note": "grey"},
)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for modules, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("foreign", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("foreign", "broken"):
        sys.modules.pop(name, None)


def test_keywords_are_given_to_whom_they_are_named_by(challenge: Challenge, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def everything(release: Any, public: Any, **options: Any) -> AttackResult:
        seen.append(options)
        return RESULT

    def nothing(release: Any, public: Any) -> AttackResult:
        seen.append({})
        return RESULT

    def untimed(release: Any, public: Any) -> AttackResult:
        return dataclasses.replace(RESULT, seconds={})

    for attack in (everything, nothing, untimed):
        monkeypatch.setattr("instahide_nb.attacks.registry.find_attack", lambda _, attack=attack: attack)
        result = run_attack("x", challenge.release, PUBLIC, seed_stop=9)
        assert result.decryption is RESULT.decryption
        assert result.method == "x"
        assert list(result.seconds) == (["attack"] if attack is untimed else ["thinking"])
    assert seen == [{"seed_start": 0, "seed_stop": 9, "workdir": None}, {}]


def test_installed_packages_add_attacks(module: Path) -> None:
    (module / "foreign.py").write_text("def attack(release, public): ...\n")
    info = module / "foreign-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[instahide_nb.attacks]\nforeign-attack = foreign:attack\nunmask = foreign:attack\n"
    )
    sys.path.insert(0, str(module))
    assert method_names() == [*METHODS, "foreign-attack"]
    assert find_attack("foreign-attack").__module__ == "foreign"
    check_method("foreign-attack")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("unmsk", "not known; choose unmask, prng-state"),
        (":attack", "not known"),
        ("no_such_module:attack", "No module named 'no_such_module'"),
        ("foreign:no_such_function", "module foreign has no function no_such_function"),
        ("broken:attack", "No module named 'a_package_that_is_missing'"),
    ],
)
def test_methods_that_cannot_be_found(method: str, words: str, module: Path) -> None:
    (module / "foreign.py").write_text("number = 5\n")
    (module / "broken.py").write_text("import a_package_that_is_missing\n")
    with pytest.raises(InputError, match=r"^method: ") as caught:
        find_attack(method)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_follow_the_method(module: Path, challenge: Challenge) -> None:
    (module / "foreign.py").write_text(
        "from instahide_nb.attacks.registry import run_attack\n"
        "def attack(release, public, *, workdir, colour='grey', depth='1'):\n"
        "    raise RuntimeError(f'{colour} {depth} {workdir}')\n"
    )
    with pytest.raises(RuntimeError, match=r"^green 3 None$"):
        run_attack("foreign:attack:colour=green,depth=3", challenge.release, PUBLIC)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("foreign:attack:speed=high", "has no option 'speed'; its options are colour, depth"),
        ("foreign:attack:colour=green,matching", "not understood at 'matching'"),
        ("carlini-v2:start=a,start=b", "not understood at 'start=b'"),
        ("builtins:dict:a=b", "is not a function attack(release, public, ...)"),
    ],
)
def test_options_that_do_not_fit_are_named(method: str, words: str, module: Path) -> None:
    (module / "foreign.py").write_text("def attack(release, public, *, workdir, colour='grey', depth='1'): ...\n")
    with pytest.raises(InputError, match=r"^method: ") as caught:
        find_attack(method)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "NoneType; an attack returns an AttackResult"),
        ({"decryption": RESULT.decryption[1:]}, r"decryption as float32 \(34, 8, 8, 3\)"),
        ({"decryption": None}, r"decryption as object"),
        ({"recovered": RESULT.recovered[..., :2]}, r"recovered as float32 \(7, 8, 8, 2\)"),
        ({"assignment": RESULT.assignment.astype(np.int32)}, r"assignment as int32"),
    ],
)
def test_results_that_do_not_fit_are_refused(
    returned: Any, words: str, challenge: Challenge, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = dataclasses.replace(RESULT, **returned) if returned else None
    monkeypatch.setattr("instahide_nb.attacks.registry.find_attack", lambda _: lambda release, public: result)
    with pytest.raises(InputError, match=f"^method: x returned {words}"):
        run_attack("x", challenge.release, PUBLIC)


@pytest.mark.parametrize("function", [dict, lambda: RESULT, lambda release: RESULT, lambda r, p, more: RESULT])
def test_functions_of_other_arguments_are_refused(
    function: Any, challenge: Challenge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instahide_nb.attacks.registry.find_attack", lambda _: function)
    with pytest.raises(InputError, match=r"^method: x is not a function attack\(release, public, \.\.\.\)"):
        run_attack("x", challenge.release, PUBLIC)


def test_a_generator_that_was_not_found_leaves_one_file(challenge: Challenge, tmp_path: Path) -> None:
    """No decryption, not even one of an earlier run, and the reason in one line."""
    save_result(tmp_path, RESULT)
    lost = AttackResult.not_found(
        "x", "O(1)", "no seed fits", release=challenge.release, seconds={"scan": 2.0}, details={}
    )
    assert (len(lost.decryption), len(lost.recovered), (lost.assignment == -1).all()) == (0, 0, True)
    save_result(tmp_path, lost)
    assert [path.name for path in tmp_path.iterdir()] == ["attack.json"]
    content = read_json(tmp_path / "attack.json")
    assert (content["recovered"], content["reason"]) == (False, "no seed fits")


@pytest.mark.parametrize("recovered", [None, True])
def test_results_are_saved_as_they_are(recovered: bool | None, tmp_path: Path) -> None:
    seconds = {"a": np.float32(0.5), "b": 2, "thinking": 1.23456}
    save_result(tmp_path, dataclasses.replace(RESULT, recovered_generator=recovered, seconds=seconds))
    content = read_json(tmp_path / "attack.json")
    assert content["seconds"] == {"a": 0.5, "b": 2.0, "thinking": 1.235}
    assert (content["method"], content["details"]) == ("grey", {"note": "grey"})
    assert content.get("recovered") is recovered
    assert "numpy" in content["platform"]
    for name in ("recovered", "assignment", "decryption"):
        saved = load_array(tmp_path / f"{name}.npy")
        assert np.array_equal(saved, getattr(RESULT, name))
        assert saved.dtype == getattr(RESULT, name).dtype
    assert len(list(tmp_path.iterdir())) == 4


def test_the_last_file_of_an_attack_is_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("instahide_nb.attacks.result.save_array", lambda path, _: written.append(path.name))
    monkeypatch.setattr("instahide_nb.attacks.result.write_json", lambda path, _: written.append(path.name))
    save_result(tmp_path, RESULT)
    assert written[-1] == "attack.json"
    assert len(written) == 4


@given(hnp.arrays(np.float32, 20, elements=st.floats(-2, 2, width=32)))
def test_the_nearest_value_of_the_grid_is_taken(values: np.ndarray[Any, Any]) -> None:
    found = on_the_grid(values)
    assert (found == on_the_grid(values.astype(np.float64))).all()
    assert (on_the_grid(found) == found).all()
    grid = pixel_values(np.arange(256, dtype=np.uint8)).astype(np.float64)
    clipped = np.clip(values.astype(np.float64), -1, 1)
    nearest = np.abs(grid - clipped[:, None]).min(axis=1)
    # Between two values of the grid, as near as float64 can tell.
    assert (np.abs(found - clipped) <= nearest + 1e-7).all()


def test_unmask_refuses_cropped_images_of_other_schemes(challenge: Challenge) -> None:
    release = dataclasses.replace(challenge.release, info=challenge.release.info.changed(augment="crop"))
    assert why_not("carlini-v2", release.info) == why_not("unmask", release.info) == ""
    assert "of the scheme cross only" in why_not("unmask", release.info.changed(scheme="inside"))
