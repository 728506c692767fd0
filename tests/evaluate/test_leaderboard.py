"""The leaderboard: what a row may hold, how rows are ranked, and their tables."""

from __future__ import annotations

import numpy as np
import pytest

from instahide_nb.challenge.release import ReleaseInfo
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import write_json
from instahide_nb.evaluate.leaderboard import (
    Row,
    load_published,
    load_rows,
    measured_row,
    score_table,
    sort_rows,
    to_markdown,
    to_text,
)
from instahide_nb.evaluate.metrics import Scores

HASH = "0123456789abcdef" * 4
METRICS = {"max_ssim": 0.9481, "mean_ssim": 0.4512, "min_l2": 0.0041, "max_l2": 0.5511, "mean_l2": 0.2776}
METRICS |= {"success_rate": 0.97, "max_ssim_signed": 0.9402}
ATTACK = {
    "method": "unmask",
    "complexity": "O(E^2 d)",
    "seconds": {"energy": 61.2, "images": 89.4},
    "platform": "x86_64, 2 cores",
}
CONTENT = measured_row(METRICS, ATTACK, challenge=HASH).as_dict() | {"date": "2026-01-31"}


def row(**change: object) -> Row:
    return Row(**CONTENT | change)


def lost() -> Row:
    """The row of an attack that did not find the generator."""
    about = ATTACK | {"method": "prng-seed", "recovered": False, "reason": "no seed\nfits"}
    return measured_row(None, about, challenge=HASH)


def test_the_published_rows_are_those_of_the_challenge():
    scores = {r.attack: (r.max_ssim, r.mean_ssim, r.min_l2, r.mean_l2, r.date) for r in load_published()}
    assert scores == {
        "PRNG attack": (0.98, 0.47, 0.00, 0.27, "2020-11-10"),
        "Carlini et al. ver.1": (0.90, 0.43, 0.01, 0.31, "2020-12-04"),
        "Carlini et al. ver.2": (0.79, 0.37, 0.05, 0.42, "2020-12-04"),
    }


def test_a_learned_cleaning_is_named_below_the_table():
    metrics = {name: 0.5 for name in METRICS}
    for rounds in (0, 12):
        r = measured_row(metrics, {"method": "unmask", "cleaned_rounds": rounds}, challenge="0" * 64)
        assert ("cleaned by a network" in to_markdown([r])) == (rounds > 0)


def test_an_attack_that_did_not_find_the_generator_has_no_scores_and_no_rank():
    r = lost()
    assert (r.max_ssim, r.success_rate, r.recovered_generator) == (None, None, False)
    assert r.note == "random generator not found (no seed fits)"
    rows = [r, row(max_ssim=-0.5), *load_published()]
    assert sort_rows(rows)[-1] == r, "below the worst score"
    line = next(line for line in to_markdown(rows).splitlines() if "**prng-seed**" in line)
    assert [cell.strip() for cell in line.split("|")][3:11] == ["measured", "coefficients", *"––––––"]
    assert f"prng-seed: {r.note}" in to_markdown(rows)
    assert to_text(rows).splitlines()[-1].split(maxsplit=3)[3] == f"not ranked: {r.note}"
    assert score_table(scores(0.92), rows).splitlines()[-1].startswith("Rank       2 of 5")


def test_a_row_survives_its_file_and_a_missing_field_is_named_with_it(tmp_path):
    for r in (row(note="a | b"), lost()):
        write_json(tmp_path / "row.json", r.as_dict())
        assert load_rows([tmp_path / "row.json"]) == [r]
    for field in (name for name, field in Row.model_fields.items() if field.is_required()):
        write_json(tmp_path / "row.json", {name: value for name, value in CONTENT.items() if name != field})
        with pytest.raises(InputError, match=rf"row\.json: {field}: is missing"):
            load_rows([tmp_path / "row.json"])


SSIM, L2 = ("max_ssim", "mean_ssim"), ("min_l2", "max_l2", "mean_l2")
NO_NUMBER = ("0.9", None, True, [0.9], float("nan"), float("inf"))
BAD_TEXTS = {
    "attack": ("", 3, "two\nlines"),
    "source": (" ",),
    "date": ("2020-13-01", "20201204", "last year"),
    "kind": ("guessed",),
    "challenge": ("2021", HASH[:-1], HASH.upper(), HASH + "\n"),
    "recovered_generator": (1, "yes"),
    "note": (None,),
    "color": ("red",),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in BAD_TEXTS.items() for value in values]
    + [(field, value) for field in SSIM for value in (*NO_NUMBER, 1.5, -2)]
    + [(field, value) for field in L2 for value in (*NO_NUMBER, -0.1, 4.1)]
    + [("success_rate", 1.1)],
)
def test_a_field_of_the_wrong_type_or_out_of_range_is_named_in_one_line(field, value):
    with pytest.raises(InputError, match=f"^{field}: ") as caught:
        row(**{field: value})
    assert "\n" not in str(caught.value)
    assert Row(**CONTENT | {"kind": "reported", "max_l2": None}).max_l2 is None, "only a reported row may lack it"


def test_rows_are_sorted_and_ties_do_not_depend_on_the_order_given():
    mine = [row(), row(attack="b", max_ssim=0.9, mean_ssim=0.5), row(attack="a", max_ssim=0.2)]
    rows = [*load_published(), *mine]
    names = [r.attack for r in sort_rows(rows)]
    assert names == ["PRNG attack", "unmask", "b", "Carlini et al. ver.1", "Carlini et al. ver.2", "a"]
    assert [r.attack for r in sort_rows(reversed(rows))] == names
    assert to_markdown(rows) == to_markdown(rows[::-1])


def test_the_table_distinguishes_reported_and_measured_rows():
    table = [line for line in to_markdown([*load_published(), row()]).splitlines() if line.startswith("|")]
    assert len({len(line) for line in table}) == 1, "columns are aligned"
    assert len({line.count("|") for line in table}) == 1
    first, second = ([cell.strip() for cell in line.split("|")] for line in table[2:4])
    assert first[2:11] == [
        "[PRNG attack](https://arxiv.org/abs/2011.05315)", "reported", "coefficients",
        "0.98", "0.47", "0.00", "–", "0.27", "–",
    ]  # fmt: skip
    numbers = ["0.948", "0.451", "0.004", "0.551", "0.278", "0.970"]
    assert second[2:11] == ["**unmask**", "measured", "coefficients", *numbers]
    assert "`01234567`" in second
    assert r"a\|b \*c\* \<d\>" in to_markdown([row(attack="a|b *c* <d>")]), "no text breaks the table"


def test_rows_of_another_form_are_marked():
    form = {"labels": "none", "augment": "flip", "scheme": "inside", "private_per_row": 4}
    rows = [row(), row(attack="other", **form)]
    text = to_markdown(rows)
    assert text.count("†") == 2
    said = "labels: none, augmentation: flip, scheme: inside, private images per encryption: 4"
    assert f"† other: not comparable with 2020 ({said})" in text
    assert "other †" in to_text(rows)
    info = ReleaseInfo(labels="none", augment="flip", scheme="inside", k=4)
    made = measured_row(METRICS, ATTACK, challenge=HASH, info=info)
    assert {name: getattr(made, name) for name in form} == form


def scores(first_ssim: float) -> Scores:
    ssim, l2 = np.array([[first_ssim, 0.1], [0.9, 0.3]]), np.array([[0.2, 0.6], [0.1, 0.4]])
    return Scores(ssim, ssim - 0.05, l2)


def test_score_table_gives_metrics_and_rank():
    assert score_table(scores(0.79)).splitlines() == [
        "Max_SSIM   0.8450   (0.7950 with images in [-1, 1])",
        "Mean_SSIM  0.5225   (0.4725 with images in [-1, 1])",
        "Min_L2     0.1500",
        "Max_L2     0.5000",
        "Mean_L2    0.3250",
        "Success    0.5000",
        "Rank       3 of 4, below Carlini et al. ver.1 (0.90)",
    ]
    assert score_table(scores(1.0), []).splitlines()[-1] == "Rank       1 of 1"
    assert score_table(scores(1.0), [row(max_ssim=0.95)]).endswith("1 of 2, above all others"), "a tie is shared"
