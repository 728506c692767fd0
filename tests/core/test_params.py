"""Parameters of the notebooks: names, types, ranges, and one line for whatever is wrong."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instahide_nb.core.errors import InputError
from instahide_nb.core.params import (
    NOTEBOOKS,
    AttackParams,
    ChallengeParams,
    EvaluateParams,
    GenDataParams,
    read_assignments,
    read_yaml,
)

CONTRACT = {
    "gen_data": (
        "out_dir seed rng key scheme n_private encryptions_per_image k max_coefficient min_private_sum "
        "private_source public_source n_public public_once min_keypoints labels augment eight_bits "
        "private_per_mix"
    ),
    "attack": "release_dir out_dir method public_source n_public seed_start seed_stop",
    "evaluate": "release_dir secret_dir decryption out_dir name",
}


def refused(kind: type[Any], **values: Any) -> str:
    with pytest.raises(InputError) as caught:
        kind(**values)
    return str(caught.value)


def test_the_names_are_those_of_the_contract() -> None:
    assert {name: " ".join(kind.names()) for name, kind in NOTEBOOKS.items()} == CONTRACT


BAD: dict[str, list[dict[str, Any]]] = {
    "seed": [{"seed": x} for x in (-1, 2**32, 10**5000, "random", "2020", 2020.0, True, None)],
    "rng": [{"rng": x} for x in ("pcg64", 5)],
    "key": [{"key": "ab" * 32}]  # with mt19937
    + [{"rng": "chacha20", "key": x} for x in ("ab" * 31, "ab" * 33, "xy" * 32, "0x" + "ab" * 31, 5)],
    "n_private": [{"n_private": x} for x in (1, "20", 20.0, False, 10**30)],
    "encryptions_per_image": [{"encryptions_per_image": 0}],
    "k": [{"k": 1}, {"k": 17}, {"scheme": "mixup", "k": 4}],
    "max_coefficient": [{"max_coefficient": x} for x in (0.25, 1.1, float("nan"), 10**400, True)],
    "min_private_sum": [
        {"max_coefficient": 0.3, "min_private_sum": 0.6},
        {"private_per_mix": 1, "min_private_sum": 0.7},
    ],
    "labels": [{"labels": "class"}],
    "private_per_mix": [{"private_per_mix": x} for x in (0, 5, "2")],
    "n_public": [
        *({"n_public": n} for n in (19, [200])),
        {"n_public": -1, "scheme": "inside"},
        {"public_once": True, "n_public": 1999},
    ],
    "private_source": [{"private_source": None}],
}


def test_bad_parameters_are_named() -> None:
    for name, bad in BAD.items():
        for values in bad:
            assert refused(GenDataParams, **values).startswith(f"{name}: ")
    for values in ({"seed_start": -1}, {"seed_start": 5, "seed_stop": 5}, {"seed_stop": 10**5000}):
        assert refused(AttackParams, **values).startswith("seed_start, seed_stop: ")
    assert refused(AttackParams, n_public=0).startswith("n_public: ")
    assert refused(EvaluateParams, name=" ").startswith("name: ")


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=3),
    st.lists(st.integers(), max_size=2), st.sampled_from(["entropy", "cross", "inside", "mixup", "chacha20"]),
)  # fmt: skip


@settings(max_examples=60)
@given(kind=st.sampled_from(list(NOTEBOOKS.values())), data=st.data())
def test_any_values_are_accepted_as_they_are_or_refused(kind: type[Any], data: st.DataObject) -> None:
    names = st.sampled_from(kind.names()) | st.text(max_size=5)
    values = data.draw(st.dictionaries(names, anything, max_size=3))
    try:
        params = kind(**values)
    except InputError:
        return
    assert {name: params.as_dict()[name] for name in values} == values
    assert params.changed() == params


def met(scheme: str, k: int, most: float, least: float, p: int = 2) -> bool:
    try:
        ChallengeParams(scheme=scheme, k=k, max_coefficient=most, min_private_sum=least, private_per_mix=p)
    except InputError:
        return False
    return True


@given(k=st.integers(2, 16), most=st.floats(0, 1.1), least=st.floats(-0.1, 2.1), p=st.integers(1, 16))
def test_constraints_are_accepted_where_a_row_meets_them(k: int, most: float, least: float, p: int) -> None:
    if met("cross", k, most, least, p):
        # Private coefficients as large as need be, the rest shared equally; exactly.
        private = max(Fraction(1, k), Fraction(least) / p)
        row = [private] * p + [(1 - p * private) / max(1, k - p)] * (k - p)
        assert sum(row) == 1
        assert max(row) <= Fraction(most)
        assert min(row) >= 0
        assert sum(row[:p]) >= Fraction(least)
    else:
        # The largest of k that sum to one is at least 1/k; p reach p * most and never more than one.
        assert p > k or most <= float(Fraction(1, k)) or least >= min(1, p * most) or least < 0 or most > 1


def test_the_limits_themselves() -> None:
    assert met("cross", 2, 1.0, 1.0)  # two private images always sum to one
    assert met("inside", 6, 0.2, 5.0)  # min_private_sum is the cross scheme's alone
    for k, most, least in ((6, 1 / 6, 0.3), (6, 0.3, 0.6), (6, float("nan"), 0.3), (6, 0.65, float("nan"))):
        assert not met("cross", k, most, least)


ALL = "\n".join(f"{name} = None" for name in CONTRACT["gen_data"].split())


@pytest.mark.parametrize(
    ("cells", "wrong"),
    [
        ([ALL, "import numpy as np\nsede = 8"], False),
        ([ALL, "%matplotlib inline\nsede = 8"], False),
        (["sede = 8", ALL], False),
        ([ALL + "\nsede = 8", ALL], False),  # corrected and run again
        ([ALL, "# Parameters\nsede = 8", "# Parameters\nseed = 7"], False),
        (["sede = seed + 1"], False),
        ([ALL + "\nprint(1 if 2 else 3)\nsede == 8"], False),
        ([ALL, '# Parameters\nseed = 7\nPAPERMILL_INPUT_PATH = "a.ipynb"'], False),  # papermill --inject-paths
        ([ALL, ALL + "\nsede = 8"], True),
        ([ALL + '\nsede = "runs/" + "x"', "x = 5"], True),
        ([ALL + "\nsede: int = 8"], True),
        ([ALL, "# Parameters\nsede = 8"], True),
    ],
)
def test_misspelt_parameters_are_errors_and_other_variables_are_left_alone(cells: list[str], wrong: bool) -> None:
    names = {"seed": 7, "k": 3, "sede": 8, "np": object(), "PAPERMILL_INPUT_PATH": "x", "In": ["", *cells]}
    if wrong:
        with pytest.raises(InputError, match=r"^sede: no such parameter; did you mean seed"):
            GenDataParams.from_notebook(names)
    else:
        params = GenDataParams.from_notebook(names)
        assert (params.seed, params.k, params.n_private) == (7, 3, 20)


NO_YAML = (
    b"seed: [1, 2]", b"just text", b"seed: 5\n key: 6", b"a: !!python/object:os.system {}", b"seed: 2020-13-45",
    b"seed: " + b"9" * 5000, b'!!float ""', b"[" * 1000, b"a: \0", b"? [a]\n: b", b"\xff\xfe\x00",
)  # fmt: skip


def test_yaml_is_read_as_names_and_values_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text('seed: 5 # five\nkey: ""\nmax_coefficient: 0.5\n2: two\n')
    assert read_yaml(path) == {"seed": 5, "key": "", "max_coefficient": 0.5, "2": "two"}
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}
    for text in (*NO_YAML, None):
        path.unlink() if text is None else path.write_bytes(text)
        with pytest.raises(InputError, match=rf"^{path}: "):
            read_yaml(path)


def test_text_parameters_on_the_command_line_stay_text() -> None:
    pairs = ["key=" + "1" * 64, "attack.out_dir=2020", "name=", "seed=7", "max_coefficient=0.5", "k=x: ["]
    texts = {"key": "1" * 64, "attack.out_dir": "2020", "name": "", "k": "x: ["}
    assert read_assignments(pairs) == texts | {"seed": 7, "max_coefficient": 0.5}
    for pair in ("k", "=4"):
        with pytest.raises(InputError, match="is not name=value"):
            read_assignments([pair])
