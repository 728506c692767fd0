"""The benchmark's own arithmetic, and that it runs; nothing here depends on how fast anything is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_ratios_are_of_rounds() -> None:
    from measuring import median, ratio

    # The second round met a busy machine: both candidates took ten times longer, and the ratio does not care.
    seconds = {"a": [2.0, 20.0, 2.0], "b": [1.0, 10.0, 1.0]}
    assert ratio(seconds, "a", "b") == 2
    assert median(seconds["a"]) == 2


def test_every_candidate_runs_once_a_round_after_a_first_call() -> None:
    from measuring import rounds

    called: list[str] = []
    seconds = rounds({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 3)
    assert called == ["a", "b"] * 4
    assert [len(seconds[name]) for name in ("a", "b")] == [3, 3]
    assert len(rounds({"a": lambda: None}, 5, most_seconds=0)["a"]) == 1


def test_plain_elimination_finds_the_rank() -> None:
    from cases import numpy_rank

    rows = np.array([[1, 0], [2, 0], [3, 0], [0, 1 << 63]], np.uint64)
    assert numpy_rank(rows) == 3


def test_the_plain_scheme_mixes_as_the_exact_one_does() -> None:
    """White images stay white: the coefficients of each encryption sum to one, and the mask leaves sizes alone."""
    from cases import floats_encrypt

    white = np.full((5, 8, 8, 3), 255, np.uint8)
    mixed = floats_encrypt(white, white, np.random.RandomState(0), 4, 3)
    assert mixed.shape == (15, 8, 8, 3)
    np.testing.assert_allclose(np.abs(mixed), 1, rtol=1e-6)
    assert 0.45 < (mixed > 0).mean() < 0.55


def test_tables_take_their_place_between_the_markers(tmp_path: Path) -> None:
    from report import END, START, replace_between_markers

    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    replace_between_markers(page, "new")
    assert page.read_text() == f"before\n{START}\n\nnew\n{END}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="has no"):
        replace_between_markers(page, "new")


def test_memory_is_held_against_its_bound() -> None:
    from report import markdown, over_bounds

    def process(peak: float) -> dict[str, object]:
        return {"seconds": {"total": [1.0]}, "processor_seconds": [1.0], "peak_mib": peak}

    # 1 GB is 953.7 MiB.
    found = {"5000": {"gen_data": process(953), "unmask": process(954), "evaluate": process(954)}}
    assert over_bounds(found) == ["evaluate"]
    assert over_bounds({"10000": found["5000"]}) == []
    table = markdown({"machine": {}, "quick": False, "cases": {}, "growth": found})
    assert "| gen_data | 1.00 | 1 | kept |" in table
    assert "| evaluate | 1.00 | 1 | above the bound |" in table


def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "bench.py"), "--quick", "--out", str(tmp_path)]
    for only in ("encryption", "gf2-solve"):
        done = subprocess.run([*command, "--only", only], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    assert set(result["cases"]) == {"encryption", "gf2-solve"}
    case = result["cases"]["encryption"]
    assert set(case["seconds"]) == {"ours", "plain numpy", "copy of the result"}
    assert all(len(values) == 2 and min(values) > 0 for values in case["seconds"].values())
    assert 50 < case["peak_mib"] < 2000
    table = (tmp_path / "bench.md").read_text()
    assert "plain numpy" in table
    assert result["machine"]["processor"] in table


def process(seconds: dict[str, float]) -> dict[str, object]:
    return {
        "seconds": {name: [value] for name, value in seconds.items()},
        "processor_seconds": [1.0],
        "peak_mib": 2000.0,
        "max_ssim": 0.9,
    }


def test_growth_is_continued_by_its_exponent() -> None:
    from scaling import predictions

    found = {
        str(n): {"unmask": process({"total": n + n**2, "signs": n, "companions": n**2})} for n in (10, 20, 40)
    }
    guess = predictions(found, [10, 20, 40], 400)
    assert guess["signs"] == pytest.approx((1, 400))
    assert guess["companions"] == pytest.approx((2, 160_000))


def test_hours_are_bracketed_by_the_fit_and_the_highest_power() -> None:
    from scaling import HIGHEST, WANTED, times

    def growth(*sizes: int) -> dict[str, object]:
        seconds = {n: {"total": float(n), "assignment": float(n)} for n in sizes}
        return {str(n): {"unmask": process(seconds[n]), "evaluate": process(seconds[n])} for n in sizes}

    machine = {"threads": "1"}
    table = times(
        {"growth": growth(5000, 10_000), "machine": machine}, {"growth": growth(20_000), "machine": machine}
    )
    (row,) = (line for line in table.splitlines() if line.startswith("| assignment"))
    assert WANTED == 2_500_000
    assert "| 690 |" in row  # 694.4: grew linearly, from a second for each encryption
    assert HIGHEST["assignment"] == 3
    assert "| 11,000,000, n^3 |" in row  # 20,000 s, 125 times as many, cubed


def test_every_stage_of_unmask_has_its_highest_power() -> None:
    from scaling import HIGHEST

    from instahide_nb.attacks.unmask import attack as unmask

    source = Path(unmask.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r'with stage\("([^"]+)"\)', source)) == set(HIGHEST)


def test_pages_are_as_their_measurements_make_them() -> None:
    import report
    import scaling

    bench = json.loads(scaling.BENCH.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert f"{report.START}\n\n{report.markdown(bench)}\n{report.END}" in page, (
        "run benchmarks/bench.py --docs"
    )
    assert not bench["quick"]
    page = scaling.PAGE.read_text(encoding="utf-8")
    assert scaling.filled(page) == page, "run `python benchmarks/scaling.py`"
