"""Which coefficients can be drawn at all: what is accepted has a row that meets it, what is refused has none."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instahide_nb.core.errors import InputError
from instahide_nb.scheme.encryption import check_constraints


def accepted(scheme: str, k: int, most: float, least: float) -> bool:
    try:
        check_constraints(scheme, k, most, least)
    except InputError as error:
        name = str(error).split(":")[0]
    else:
        return True
    assert name in ("k", "scheme", "max_coefficient", "min_private_sum")
    return False


@given(k=st.integers(2, 16), most=st.floats(0, 1.1), least=st.floats(-0.1, 2.1))
def test_accepted_constraints_have_a_row_that_meets_them(k: int, most: float, least: float) -> None:
    if not accepted("cross", k, most, least):
        return
    # Two private coefficients as large as need be, the rest shared equally; exactly.
    private = max(Fraction(1, k), Fraction(least) / 2)
    others = [(1 - 2 * private) / (k - 2)] * (k - 2) if k > 2 else []
    row = [private, private, *others]
    assert sum(row) == 1
    assert max(row) <= Fraction(most)
    assert min(row) >= 0
    assert row[0] + row[1] >= Fraction(least)


@given(k=st.integers(2, 16), most=st.floats(0, 1.1), least=st.floats(-0.1, 2.1))
def test_refused_constraints_have_no_such_row(k: int, most: float, least: float) -> None:
    if accepted("cross", k, most, least):
        return
    # The largest of k that sum to one is at least 1/k; two of them reach 2 * most and never more than one.
    equal = float(Fraction(1, k))
    nothing_fits = most <= equal or least >= min(1, 2 * most)
    assert nothing_fits or least < 0 or most > 1


@pytest.mark.parametrize(
    ("scheme", "k", "most", "least", "name"),
    [
        ("crossed", 6, 0.65, 0.3, "scheme"),
        ("", 6, 0.65, 0.3, "scheme"),
        ("cross", 1, 1.0, 0.3, "k"),
        ("cross", 0, 1.0, 0.3, "k"),
        ("cross", 17, 1.0, 0.3, "k"),
        ("mixup", 3, 0.65, 0.3, "k"),
        ("cross", 6, 1 / 6, 0.3, "max_coefficient"),
        ("inside", 4, 0.25, 0.3, "max_coefficient"),
        ("cross", 2, 0.5, 0.3, "max_coefficient"),
        ("cross", 6, 1.0001, 0.3, "max_coefficient"),
        ("cross", 6, -0.65, 0.3, "max_coefficient"),
        ("cross", 6, float("nan"), 0.3, "max_coefficient"),
        ("cross", 6, 0.3, 0.6, "min_private_sum"),
        ("cross", 6, 0.65, 1.0, "min_private_sum"),
        ("cross", 6, 0.65, -0.01, "min_private_sum"),
        ("cross", 2, 0.65, 1.01, "min_private_sum"),
        ("cross", 6, 0.65, float("nan"), "min_private_sum"),
    ],
)
def test_what_is_refused_is_named(scheme: str, k: int, most: float, least: float, name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name}: "):
        check_constraints(scheme, k, most, least)


@pytest.mark.parametrize(
    ("scheme", "k", "most", "least"),
    [
        ("cross", 6, 0.65, 0.30),
        ("cross", 2, 1.0, 1.0),  # two private images always sum to one
        ("cross", 16, 1.0, 0.0),
        ("cross", 6, 0.3, 0.599),
        ("inside", 6, 0.2, 5.0),  # min_private_sum is the cross scheme's alone
        ("mixup", 2, 0.51, 0.3),
    ],
)
def test_what_can_be_met_is_accepted(scheme: str, k: int, most: float, least: float) -> None:
    assert accepted(scheme, k, most, least)
