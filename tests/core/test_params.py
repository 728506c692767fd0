"""Parameters of the notebooks: names, types, ranges, and one line for whatever is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instahide_nb.core.errors import InputError
from instahide_nb.core.params import (
    METHODS,
    NOTEBOOKS,
    AttackParams,
    EvaluateParams,
    GenDataParams,
    read_yaml,
)

PARAMS = Path(__file__).resolve().parents[2] / "params"
CONTRACT = {
    "gen_data": (
        "out_dir seed rng key scheme n_private encryptions_per_image k max_coefficient min_private_sum "
        "private_source public_source n_public min_keypoints"
    ),
    "attack": "release_dir out_dir method public_source n_public seed_start seed_stop",
    "evaluate": "release_dir secret_dir decryption out_dir name",
}


def refused(kind: type[Any], **values: Any) -> str:
    with pytest.raises(InputError) as caught:
        kind.from_mapping(values)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize("notebook", CONTRACT)
def test_names_are_those_of_the_contract(notebook: str) -> None:
    assert NOTEBOOKS[notebook].names() == tuple(CONTRACT[notebook].split())


@pytest.mark.parametrize("preset", ["tiny", "demo", "challenge"])
@pytest.mark.parametrize("notebook", CONTRACT)
def test_presets_name_every_parameter_and_are_accepted(preset: str, notebook: str) -> None:
    values = read_yaml(PARAMS / preset / f"{notebook}.yaml")
    assert tuple(values) == NOTEBOOKS[notebook].names()
    assert NOTEBOOKS[notebook].from_mapping(values).as_dict() == values


@pytest.mark.parametrize("notebook", CONTRACT)
def test_defaults_are_the_tiny_preset(notebook: str) -> None:
    assert NOTEBOOKS[notebook].from_mapping({}).as_dict() == read_yaml(PARAMS / "tiny" / f"{notebook}.yaml")


@pytest.mark.parametrize("preset", ["demo", "challenge"])
def test_full_presets_are_the_challenge_of_2020(preset: str) -> None:
    params = GenDataParams.from_mapping(read_yaml(PARAMS / preset / "gen_data.yaml"))
    assert (params.n_private, params.encryptions_per_image, params.k) == (100, 50, 6)
    assert (params.scheme, params.rng) == ("cross", "mt19937")
    assert (params.max_coefficient, params.min_private_sum, params.min_keypoints) == (0.65, 0.30, 40)


BAD_GEN_DATA: list[tuple[str, dict[str, Any]]] = [
    ("seed", {"seed": -1}),
    ("seed", {"seed": 2**32}),
    ("seed", {"seed": 10**30}),
    ("seed", {"seed": "random"}),
    ("seed", {"seed": "2020"}),
    ("seed", {"seed": 2020.0}),
    ("seed", {"seed": True}),
    ("seed", {"seed": None}),
    ("rng", {"rng": "pcg64"}),
    ("rng", {"rng": 5}),
    ("key", {"key": "ab" * 32}),  # with mt19937
    ("key", {"rng": "chacha20", "key": "ab" * 31}),
    ("key", {"rng": "chacha20", "key": "ab" * 33}),
    ("key", {"rng": "chacha20", "key": "xy" * 32}),
    ("key", {"rng": "chacha20", "key": "0x" + "ab" * 31}),
    ("key", {"rng": "chacha20", "key": 5}),
    ("scheme", {"scheme": "crossed"}),
    ("n_private", {"n_private": 1}),
    ("n_private", {"n_private": "20"}),
    ("n_private", {"n_private": 20.0}),
    ("n_private", {"n_private": False}),
    ("encryptions_per_image", {"encryptions_per_image": 0}),
    ("k", {"k": 1}),
    ("k", {"k": 17}),
    ("k", {"k": -4}),
    ("k", {"k": "4"}),
    ("k", {"scheme": "mixup", "k": 4}),
    ("max_coefficient", {"max_coefficient": 0.25}),
    ("max_coefficient", {"max_coefficient": 1.1}),
    ("max_coefficient", {"max_coefficient": "1e-3"}),
    ("max_coefficient", {"max_coefficient": float("nan")}),
    ("max_coefficient", {"max_coefficient": float("inf")}),
    ("max_coefficient", {"max_coefficient": 10**400}),
    ("max_coefficient", {"max_coefficient": True}),
    ("min_private_sum", {"min_private_sum": 1.0}),
    ("min_private_sum", {"min_private_sum": -0.1}),
    ("min_private_sum", {"max_coefficient": 0.3, "min_private_sum": 0.6}),
    ("n_public", {"n_public": 19}),
    ("n_public", {"n_public": -1, "scheme": "inside"}),
    ("n_public", {"n_public": [200]}),
    ("min_keypoints", {"min_keypoints": -1}),
    ("out_dir", {"out_dir": 5}),
    ("private_source", {"private_source": None}),
]


@pytest.mark.parametrize(
    ("name", "values"), BAD_GEN_DATA, ids=[str(values)[:50] for _, values in BAD_GEN_DATA]
)
def test_bad_parameters_of_gen_data_are_named(name: str, values: dict[str, Any]) -> None:
    assert refused(GenDataParams, **values).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("method", {"method": "unmsk"}),
        ("method", {"method": ""}),
        ("method", {"method": 1}),
        ("n_public", {"n_public": 0}),
        ("seed_start, seed_stop", {"seed_start": -1}),
        ("seed_start, seed_stop", {"seed_start": 5, "seed_stop": 5}),
        ("seed_start, seed_stop", {"seed_stop": 2**32 + 1}),
        ("seed_stop", {"seed_stop": "4294967296"}),
        ("release_dir", {"release_dir": None}),
    ],
)
def test_bad_parameters_of_attack_are_named(name: str, values: dict[str, Any]) -> None:
    assert refused(AttackParams, **values).startswith(f"{name}: ")


@pytest.mark.parametrize("method", [*METHODS, "my_attack:run"])
def test_methods_that_are_accepted(method: str) -> None:
    assert AttackParams.from_mapping({"method": method}).method == method


@pytest.mark.parametrize(("name", "values"), [("name", {"name": " "}), ("decryption", {"decryption": 3})])
def test_bad_parameters_of_evaluate_are_named(name: str, values: dict[str, Any]) -> None:
    assert refused(EvaluateParams, **values).startswith(f"{name}: ")


def test_unknown_names_are_errors_that_suggest_the_nearest() -> None:
    assert refused(GenDataParams, n_privat=5) == "n_privat: no such parameter; did you mean n_private?"
    assert refused(AttackParams, colour="red") == (
        "colour: no such parameter; the parameters are release_dir, out_dir, method, public_source, n_public, "
        "seed_start, seed_stop"
    )


def test_text_that_should_be_a_number_says_how_to_write_it() -> None:
    assert "write 0.001" in refused(GenDataParams, max_coefficient="1e-3")
    assert "take the quotes away" in refused(GenDataParams, k="4")


def test_whole_numbers_serve_as_numbers() -> None:
    value = GenDataParams.from_mapping({"max_coefficient": 1}).max_coefficient
    assert isinstance(value, float)
    assert value == 1.0


@pytest.mark.parametrize("seed", [0, 2**32 - 1, "entropy"])
def test_seeds_that_are_accepted(seed: int | str) -> None:
    assert GenDataParams.from_mapping({"seed": seed}).seed == seed


def test_keys_that_are_accepted() -> None:
    for key in ("", "ab" * 32, "AB" * 32):
        assert GenDataParams.from_mapping({"rng": "chacha20", "key": key}).key == key


def test_only_cross_needs_public_images() -> None:
    assert GenDataParams.from_mapping({"n_public": 20}).n_public == 20
    assert GenDataParams.from_mapping({"scheme": "inside", "n_public": 0}).n_public == 0
    assert GenDataParams.from_mapping({"scheme": "mixup", "k": 2, "n_public": 0}).k == 2


def test_parameters_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenDataParams().seed = 1  # type: ignore[misc]


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=3),
    st.lists(st.integers(), max_size=2), st.sampled_from(["entropy", "cross", "inside", "mixup", "chacha20"]),
)  # fmt: skip


@pytest.mark.parametrize("notebook", CONTRACT)
@given(data=st.data())
def test_any_values_are_accepted_as_they_are_or_refused_in_one_line(
    notebook: str, data: st.DataObject
) -> None:
    kind = NOTEBOOKS[notebook]
    values = data.draw(
        st.dictionaries(st.sampled_from(kind.names()) | st.text(max_size=5), anything, max_size=3)
    )
    message, params = "", None
    try:
        params = kind.from_mapping(values)
    except InputError as error:
        message = str(error)
    if params is None:
        assert len(message.splitlines()) == 1
    else:
        assert {name: params.as_dict()[name] for name in values} == values
        assert kind.from_mapping(params.as_dict()) == params


def test_notebook_variables_become_parameters() -> None:
    namespace = {"seed": 7, "k": 3, "np": object(), "unrelated": 1, "In": ["", "seed = 7\nk = 3"]}
    params = GenDataParams.from_notebook(namespace)
    assert (params.seed, params.k, params.n_private) == (7, 3, 20)


def test_misspelt_variables_of_a_parameters_cell_are_errors() -> None:
    namespace = {"seed": 7, "sede": 8, "In": ["", "seed = 7  # secret", "# Parameters\nsede = 8"]}
    with pytest.raises(InputError, match=r"^sede: no such parameter; did you mean seed"):
        GenDataParams.from_notebook(namespace)


@pytest.mark.parametrize(
    "cell",
    ["import numpy as np\nsede = 8", "%matplotlib inline\nsede = 8", "sede = seed + 1", "print(1)\nsede = 8"],
)
def test_variables_of_other_cells_are_nobodys_business(cell: str) -> None:
    assert GenDataParams.from_notebook({"seed": 7, "sede": 8, "In": ["", "seed = 7", cell]}).seed == 7


def test_papermills_way_of_writing_values_is_understood() -> None:
    from papermill.translators import PythonTranslator

    values = {"seed": "entropy", "max_coefficient": 0.5, "k": 3, "key": "", "min_private_sum": float("inf")}
    namespace: dict[str, Any] = {}
    cell = PythonTranslator.codify(values)
    exec(cell, namespace)
    with pytest.raises(InputError, match=r"^min_private_sum: inf is not a finite number"):
        GenDataParams.from_notebook(namespace | {"In": ["", cell]})
    cell = PythonTranslator.codify({"sede": float("inf")})
    exec(cell, namespace | (extra := {}), extra)
    with pytest.raises(InputError, match=r"^sede: no such parameter"):
        GenDataParams.from_notebook({"In": ["", cell]} | extra)


def test_yaml_is_read_as_names_and_values(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text('seed: 5 # five\nkey: ""\nmax_coefficient: 0.5\n2: two\n')
    assert read_yaml(path) == {"seed": 5, "key": "", "max_coefficient": 0.5, "2": "two"}
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    "text",
    [
        "seed: [1, 2]",
        "- seed",
        "just text",
        "seed: {a: 1}",
        "seed: 5\n key: 6",
        "a: !!python/object:os.system {}",
        "seed: 2020-13-45",
        f"seed: {'9' * 5000}",
        '!!float ""',
        "a: !!bool maybe",
        "a: !!timestamp x",
        "[" * 1000,
        "a: \0",
        "? [a]\n: b",
    ],
    ids=lambda text: text[:20],
)
def test_other_yaml_is_refused_in_one_line_that_names_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_yaml_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.yaml", "binary.yaml", "."):
        with pytest.raises(InputError, match=r"cannot be read|is not YAML"):
            read_yaml(tmp_path / name)
