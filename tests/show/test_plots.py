"""Plots show the numbers they were given, and refuse to show none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas
import pytest
from dead_leaves import dead_leaves
from matplotlib.colors import to_rgb
from pandas import DataFrame

from instahide_nb.core.errors import InputError
from instahide_nb.data.crops import CropTable, key_points
from instahide_nb.data.photographs import Photograph
from instahide_nb.evaluate.leaderboard import load_published
from instahide_nb.evaluate.metrics import match_images
from instahide_nb.evaluate.submission import AboutAttack
from instahide_nb.show import plots
from instahide_nb.show.grids import write_png
from instahide_nb.show.notebook import coefficients


def shares(axis, label):
    """The share in each bin of a distribution, and the edges of the bins."""
    (line,) = (line for line in axis.lines if line.get_label() == label)
    return line.get_ydata()[:-1], line.get_xdata()


def test_ssim_histogram_shares_sum_to_one_and_the_mean_is_named():
    values = np.array([-0.1, 0.2, 0.2, 0.9])
    figure = plots.ssim_histogram({"mine": values, "other": np.ones(3)})
    (axis,) = figure.axes
    share, edges = shares(axis, "mine (mean 0.300)")
    assert share.sum() == 1
    assert share[np.searchsorted(edges, 0.2, side="right") - 1] == 0.5
    assert edges[0] <= -0.1
    assert shares(axis, "other (mean 1.000)")[0][-1] == 1, "an SSIM of one is counted"
    with pytest.raises(InputError, match="best_ssim"):
        plots.ssim_histogram({})


@pytest.mark.parametrize("highest", [3, 45, 60, 61, 90, 700])
def test_no_bar_of_key_points_crosses_the_cut(highest):
    counts = np.random.default_rng(0).integers(0, highest + 1, 500)
    counts[0] = highest
    (axis,) = plots.keypoint_histogram(counts, 40).axes
    refused, kept = axis.containers
    assert sum(bar.get_height() for bar in refused) == (counts <= 40).sum()
    assert sum(bar.get_height() for bar in kept) == (counts > 40).sum()
    for bar in refused:
        assert not bar.get_height() or bar.get_x() + bar.get_width() <= 40.5
    for bar in kept:
        assert not bar.get_height() or bar.get_x() >= 40.5
    assert f"kept: {(counts > 40).sum():,}" in [text.get_text() for text in axis.get_legend().get_texts()]


def test_attack_comparison_tells_the_kinds_apart():
    published = load_published()
    mine = published[0].model_copy(update={"attack": "mine", "kind": "measured", "max_ssim": 0.95})
    rows = [*published, mine, mine.model_copy(update={"attack": "lost", "max_ssim": None})]
    (axis,) = plots.attack_comparison(rows).axes
    assert [label.get_text() for label in axis.get_yticklabels()][::-1] == [
        "PRNG attack",
        "mine",
        "Carlini et al. ver.1",
        "Carlini et al. ver.2",
    ]
    measured, reported = axis.containers
    assert [bar.get_width() for bar in measured] == [0.95]
    assert sorted(bar.get_width() for bar in reported) == [0.79, 0.9, 0.98]
    assert measured[0].get_facecolor() != reported[0].get_facecolor()
    assert {text.get_text() for text in axis.texts} == {"0.98", "0.950", "0.90", "0.79"}
    with pytest.raises(InputError, match="rows"):
        plots.attack_comparison([])


def runs(*rows: tuple[object, ...]) -> DataFrame:
    return DataFrame(rows, columns=["method", "k", "rng", "max_ssim"])


def test_a_sweep_is_drawn_as_curves_through_the_means_or_as_bars():
    table = runs(
        ("a", 4, "old", 0.2), ("a", 4, "old", 0.4), ("a", 2, "old", 0.9), ("b", 4, "new", 0.5), ("b", 2, "new", None)
    )  # fmt: skip
    (axis,) = plots.sweep_plot(table, "k").axes
    first, second = (container.lines[0] for container in axis.containers)
    np.testing.assert_allclose(first.get_xydata(), [[2, 0.9], [4, 0.3]])
    np.testing.assert_allclose(second.get_xydata(), [[4, 0.5]], err_msg="a failed run has no place")
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_marker() != second.get_marker()
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("images mixed, k", "Max_SSIM")
    figure = plots.sweep_plot(table, "rng", lines="k")
    (axis,) = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["images mixed, k = 4", "images mixed, k = 2"]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["old", "new"]
    assert [text.get_text() for text in axis.texts] == ["0.30", "0.50", "0.90", "not\nfound"]
    with pytest.raises(InputError, match="no run"):
        plots.sweep_plot(runs(("a", 2, "old", None)), "k")


def test_variants_are_a_table_that_says_where_nothing_was_found():
    table = pandas.DataFrame(
        [("v", "a", 0.98, None), ("v", "b", np.nan, None), ("w", "a", np.nan, "no memory")],
        columns=["variant", "method", "max_ssim", "error"],
    )
    texts = plots.score_table(table)
    assert texts.loc["v"].tolist() == ["0.98", "not found"]
    assert texts.loc["w"].tolist() == ["failed", ""]
    (axis,) = plots.sweep_plot(table, "variant").axes
    assert [text.get_text() for text in axis.texts] == ["0.98", "not found", "failed", ""]
    (image,) = axis.images
    assert image.get_array().mask.tolist() == [[False, True], [True, True]]


def test_own_settings_of_the_user_change_nothing():
    def draw() -> bytes:
        return plots.figure_bytes(plots.similarity_histogram(np.arange(9.0), np.arange(5.0)))

    plain = draw()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "lines.linewidth": 9, "savefig.dpi": 30}):
        assert draw() == plain


def noise_photograph(folder: Path, name: str) -> Photograph:
    write_png(folder / name, np.random.default_rng(1).integers(0, 256, (120, 150, 3), dtype=np.uint8))
    return Photograph(name, folder / name, 150, 120)


def test_crop_picture_shows_the_first_kept_crop_of_the_first_photograph_that_has_one(tmp_path):
    photographs = tuple(noise_photograph(tmp_path, name) for name in ("a.png", "b.png"))
    box = np.array([[0, 0, 64], [80, 10, 64], [75, 40, 70], [5, 5, 64]])
    photo, keypoints = np.array([0, 1, 1, 1]), np.array([3, 99, 98, 7])
    whole, crop = plots.crop_picture(CropTable(photographs, photo, box, keypoints, 40)).axes
    np.testing.assert_array_equal(whole.images[0].get_array(), photographs[1].read())
    outlines = [(*patch.get_xy(), patch.get_width(), patch.get_edgecolor()[:3]) for patch in whole.patches]
    blue, vermilion = (to_rgb(plots.OKABE_ITO[i]) for i in (0, 3))
    assert outlines == [(5, 5, 64, vermilion), (75, 40, 70, blue), (80, 10, 64, blue)], "the kept one on top"
    np.testing.assert_array_equal(crop.images[0].get_array(), photographs[1].read()[10:74, 80:144])
    assert len(crop.patches) == len(key_points(photographs[1].read()[10:74, 80:144])) > 0
    with pytest.raises(InputError, match="none was kept"):
        plots.crop_picture(CropTable(photographs, photo, box, keypoints, 100))


def test_estimated_coefficients_are_those_of_images_that_were_named(monkeypatch: pytest.MonkeyPatch) -> None:
    images = dead_leaves(3, (16, 16), 0)
    secret = SimpleNamespace(
        private=images,
        pair=np.array([[0, 1], [2, 0]]),
        coefficient=np.array([[0.5, 0.3, 0.2], [0.4, 0.1, 0.5]]),
    )
    recovered = images[[2, 0, 1]].astype(np.float32) / 127.5 - 1
    guess = np.array([[2, 1], [0, 2]])  # images 1, 0 and 2, 1: the last is wrong
    attack = AboutAttack({}, recovered, guess, np.array([[0.31, 0.52], [0.44, 0.2]], np.float32))
    seen: list[np.ndarray] = []
    monkeypatch.setattr(plots, "scatter_plot", lambda *both, **_: seen.extend(both))
    match = match_images(recovered, images)
    coefficients(secret, attack, match)
    assert seen[0].tolist() == [0.3, 0.5, 0.4]
    np.testing.assert_allclose(seen[1], [0.31, 0.52, 0.44], rtol=1e-6)
    assert coefficients(secret, attack._replace(coefficient=None), match) is None
