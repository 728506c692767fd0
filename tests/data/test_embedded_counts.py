"""The counts that the package carries: of the crops that are drawn today, and what SIFT says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from instahide_nb.data import crops as embedded_counts
from instahide_nb.data.crops import CROPS, KeyPointCounter, carried_counts, draw_crops, table_key
from instahide_nb.data.embedded import public_regions
from instahide_nb.data.sources import public_crops, public_patches

HOLDERS = ["challenge", "attacker"]


def agrees(counted: np.ndarray, carried: np.ndarray) -> None:
    """Equal, but for the little by which processors differ."""
    assert np.abs(counted - carried).max() <= 4
    assert (counted != carried).mean() <= 0.06


@pytest.mark.parametrize("holder", HOLDERS)
def test_the_first_counts_are_sifts(holder: str) -> None:
    photographs = public_regions(holder)
    carried = carried_counts(table_key(photographs))
    assert carried.shape == (CROPS,)
    assert (carried > 40).sum() >= 4000
    agrees(KeyPointCounter(photographs).count(*draw_crops(photographs, 0, 300)), carried[:300])


@pytest.mark.slow
@pytest.mark.parametrize("holder", HOLDERS)
def test_all_counts_are_sifts(holder: str) -> None:
    photographs = public_regions(holder)
    carried = carried_counts(table_key(photographs))
    agrees(KeyPointCounter(photographs).count(*draw_crops(photographs, 0, CROPS)), carried)


def test_only_those_two_are_carried() -> None:
    names = {path.stem for path in Path(embedded_counts.__file__).with_name("counted").iterdir()}
    assert names == {table_key(public_regions(holder))[:32] for holder in HOLDERS}
    assert carried_counts(table_key(public_regions("challenge"), draw=1)).shape == (0,)


@pytest.mark.parametrize("source", ["embedded", "embedded:attacker"])
def test_the_demos_patches_need_no_count(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KeyPointCounter, "count", None)
    assert public_patches(source, 4000, cache_dir=tmp_path).shape == (4000, 32, 32, 3)
    assert not list(tmp_path.iterdir())


def test_more_crops_than_are_carried_are_counted(tmp_path: Path) -> None:
    carried = carried_counts(table_key(public_regions("challenge")))
    # A cut so high that the carried crops hold ten fewer than are asked for.
    cut = int(np.sort(carried)[-200])
    n = int((carried > cut).sum()) + 10
    table = public_crops("embedded", n, min_keypoints=cut, cache_dir=tmp_path)
    assert len(table.kept) > CROPS
    assert table.kept.sum() == n
    assert np.array_equal(table.keypoints[:CROPS], carried)
    again = public_crops("embedded", n, min_keypoints=cut, cache_dir=tmp_path)
    assert again.to_csv() == table.to_csv()
