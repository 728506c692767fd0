"""The leaderboard's rows: their schema, their order and their tables."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from instahide_nb.core.errors import InputError
from instahide_nb.evaluate.leaderboard import (
    duration,
    load_published,
    load_rows,
    measured_row,
    parse_row,
    rank,
    save_row,
    score_table,
    sort_rows,
    to_json,
    to_markdown,
)
from instahide_nb.evaluate.metrics import Scores

HASH = "0123456789abcdef" * 4
METRICS = {
    "max_ssim": 0.9481,
    "mean_ssim": 0.4512,
    "min_l2": 0.0041,
    "max_l2": 0.5511,
    "mean_l2": 0.2776,
    "max_ssim_signed": 0.9402,
    "mean_ssim_signed": 0.4401,
}
ATTACK = {
    "method": "unmask",
    "complexity": "O(E^2 d)",
    "seconds": {"energy": 61.2, "images": 89.4},
    "platform": {"machine": "x86_64", "cores": 2},
}


def _row(**change):
    row = measured_row(METRICS, ATTACK, challenge=HASH, day="2026-01-31")
    return replace(row, **change)


def test_the_published_rows_are_those_of_the_challenge():
    figures = {
        row.attack: (row.max_ssim, row.mean_ssim, row.min_l2, row.mean_l2, row.date)
        for row in load_published()
    }
    assert figures == {
        "PRNG attack": (0.98, 0.47, 0.00, 0.27, "2020-11-10"),
        "Carlini et al. ver.1": (0.90, 0.43, 0.01, 0.31, "2020-12-04"),
        "Carlini et al. ver.2": (0.79, 0.37, 0.05, 0.42, "2020-12-04"),
    }
    for row in load_published():
        assert (row.kind, row.challenge, row.max_l2) == ("reported", "2020", None)
        assert row.source == "https://arxiv.org/abs/2011.05315"


def test_a_measured_row_says_what_was_run():
    row = measured_row(METRICS, ATTACK | {"recovered": None}, challenge=HASH, day="2026-01-31")
    assert (row.attack, row.kind, row.challenge, row.date) == ("unmask", "measured", HASH, "2026-01-31")
    assert (row.max_ssim, row.mean_ssim, row.min_l2, row.max_l2, row.mean_l2) == tuple(METRICS.values())[:5]
    assert row.time == "2 min 31 s"
    assert row.hardware == "x86_64, cores: 2"
    assert row.note == ""


def test_an_attack_that_missed_the_generator_says_so():
    row = measured_row(METRICS, ATTACK | {"recovered": False}, challenge=HASH)
    assert row.recovered_generator is False
    assert "not found" in row.note
    assert row.note in to_markdown([row])


def test_what_an_attack_does_not_state_is_not_invented():
    row = measured_row(METRICS, {}, challenge=HASH, name="mine")
    assert (row.attack, row.complexity, row.time, row.hardware) == ("mine", *["not stated"] * 3)


def test_a_row_survives_its_file(tmp_path):
    row = _row(note="a | b")
    save_row(tmp_path / "row.json", row)
    assert load_rows([tmp_path / "row.json"]) == [row]


@pytest.mark.parametrize("field", sorted(asdict(_row())))
def test_every_field_must_be_there(tmp_path, field):
    content = asdict(_row())
    del content[field]
    path = tmp_path / "row.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"row\.json: field '{field}' is missing"):
        load_rows([path])


@pytest.mark.parametrize("value", ["0.9", None, True, [0.9], float("nan"), float("inf"), 1.5, -2])
@pytest.mark.parametrize("field", ["max_ssim", "mean_ssim"])
def test_a_figure_must_be_a_number_in_its_range(field, value):
    with pytest.raises(InputError, match=f"mine: field '{field}'"):
        parse_row(asdict(_row()) | {field: value}, "mine")


@pytest.mark.parametrize("field", ["min_l2", "max_l2", "mean_l2"])
def test_an_l2_lies_between_0_and_4(field):
    assert parse_row(asdict(_row()) | {field: 4})
    for value in (-0.1, 4.1, None, "0"):
        with pytest.raises(InputError, match=field):
            parse_row(asdict(_row()) | {field: value})


def test_only_a_reported_row_may_lack_max_l2():
    reported = asdict(_row()) | {"kind": "reported", "max_l2": None}
    assert parse_row(reported).max_l2 is None
    with pytest.raises(InputError, match="min_l2"):
        parse_row(reported | {"min_l2": None})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attack", ""),
        ("attack", 3),
        ("attack", "two\nlines"),
        ("source", " "),
        ("date", "2020-13-01"),
        ("date", "20201204"),
        ("date", "last year"),
        ("kind", "guessed"),
        ("challenge", "2021"),
        ("challenge", HASH[:-1]),
        ("challenge", HASH.upper()),
        ("recovered_generator", 1),
        ("recovered_generator", "yes"),
        ("note", None),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(field, value):
    with pytest.raises(InputError, match=f"field '{field}'"):
        parse_row(asdict(_row()) | {field: value})


def test_an_unknown_field_is_refused():
    with pytest.raises(InputError, match="field 'color' is unknown"):
        parse_row(asdict(_row()) | {"color": "red"})


def test_a_file_that_is_not_a_row(tmp_path):
    (tmp_path / "row.json").write_text("[1, 2")
    with pytest.raises(InputError, match=r"row\.json"):
        load_rows([tmp_path / "row.json"])


def test_rows_are_sorted_and_ties_do_not_depend_on_the_order_given():
    rows = [
        *load_published(),
        _row(),
        _row(attack="b", max_ssim=0.9, mean_ssim=0.5),
        _row(attack="a", max_ssim=0.2),
    ]
    names = [row.attack for row in sort_rows(rows)]
    assert names == ["PRNG attack", "unmask", "b", "Carlini et al. ver.1", "Carlini et al. ver.2", "a"]
    assert [row.attack for row in sort_rows(reversed(rows))] == names


def test_rank_counts_who_is_strictly_better():
    published = load_published()
    assert [rank(x, published) for x in (1.0, 0.98, 0.979, 0.9, 0.5)] == [1, 1, 2, 2, 4]
    assert rank(0.5, []) == 1


def test_the_table_tells_reported_and_measured_apart():
    text = to_markdown([*load_published(), _row()])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in table}) == 1, "columns are aligned"
    assert len({line.count("|") for line in table}) == 1
    first, second = table[2], table[3]
    assert "[PRNG attack](https://arxiv.org/abs/2011.05315)" in first
    assert " 0.98 " in first
    assert " – " in first
    assert "reported" in first
    assert "**unmask**" in second
    assert " 0.948 " in second
    assert "`01234567`" in second
    assert "measured" in second


def test_the_table_is_the_same_for_rows_in_any_order():
    rows = [*load_published(), _row()]
    assert to_markdown(rows) == to_markdown(rows[::-1])
    assert to_json(rows) == to_json(rows[::-1])


def test_no_text_breaks_the_table():
    text = to_markdown([_row(attack="a|b *c* <d>", hardware="x [y](z)")])
    assert r"a\|b \*c\* \<d\>" in text
    assert r"x \[y\](z)" in text


def test_json_holds_every_field_best_first():
    content = json.loads(to_json([_row(), *load_published()]))
    assert [row["attack"] for row in content["rows"]][:2] == ["PRNG attack", "unmask"]
    assert [parse_row(row) for row in content["rows"]] == sort_rows([_row(), *load_published()])


def _scores(first_ssim: float) -> Scores:
    table = np.array([[first_ssim, 0.1, 0.2, 0.6], [0.9, 0.3, 0.1, 0.4]])
    return Scores(table, table - np.array([0.05, 0.05, 0, 0]))


def test_score_table_gives_figures_and_rank():
    assert score_table(_scores(0.92)).splitlines() == [
        "Max_SSIM   0.9100   (0.8600 with images in [-1, 1])",
        "Mean_SSIM  0.5550   (0.5050 with images in [-1, 1])",
        "Min_L2     0.1500",
        "Max_L2     0.5000",
        "Mean_L2    0.3250",
        "Rank       2 of 4, below PRNG attack (0.98)",
    ]
    assert score_table(_scores(1.0), []).splitlines()[-1] == "Rank       1 of 1"
    better = [row for row in load_published() if row.max_ssim < 0.95]
    assert score_table(_scores(1.0), better).splitlines()[-1] == "Rank       1 of 3, above all others"


def test_duration_takes_a_total_once():
    assert duration({"total": 10, "a": 4, "b": 6}) == "10 s"
    assert duration(59.7) == "1 min 0 s"
    assert duration(3599.8) == "1 h 0 min"
    assert duration("long") == "not stated"
