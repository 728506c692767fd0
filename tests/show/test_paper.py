"""Figures for a paper: what is written, in which size, with which fonts, and from which numbers."""

from __future__ import annotations

import hashlib
import re

import cv2
import numpy as np
import pytest

from instahide_nb.attacks.result import AttackResult, on_the_grid, save_result
from instahide_nb.challenge.build import build_challenge, save_challenge
from instahide_nb.core.errors import InputError
from instahide_nb.core.params import GenDataParams
from instahide_nb.evaluate.leaderboard import save_evaluation
from instahide_nb.evaluate.metrics import score
from instahide_nb.scheme.encryption import pixel_values
from instahide_nb.show import paper, plots
from instahide_nb.show.paper import Plan, make_figures, save_figure, sweep_table

SWEEP = """run,method,k,encryptions_per_image,rng,max_ssim,error
1,unmask,2,50,mt19937,0.9,
2,unmask,6,50,mt19937,0.8,
3,unmask,6,50,mt19937,0.6,
4,unmask,6,10,mt19937,0.3,
5,"a, b",2,50,mt19937,0.5,
6,"a, b",6,50,mt19937,,"it, failed"
7,"a, b",6,10,mt19937,0.2,
"""
NAMES = ("comparison", "attacks", "ssim", "similarity", "leaderboard")


@pytest.fixture(scope="module")
def challenge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    images = np.stack([cv2.blur(image, (3, 3)) for image in rng.integers(0, 256, (64, 32, 32, 3), np.uint8)])
    np.savez(folder / "private.npz", images=images[:8], labels=np.arange(8) % 2)
    np.savez(folder / "public.npz", images=images[8:])
    sources = {f"{half}_source": str(folder / f"{half}.npz") for half in ("private", "public")}
    sizes = {"n_private": 8, "encryptions_per_image": 4, "n_public": 50}
    return build_challenge(GenDataParams(**sources | sizes))


@pytest.fixture(scope="module")
def run(challenge, tmp_path_factory):
    """A run in which one attack answered well and another badly."""
    folder = tmp_path_factory.mktemp("runs") / "made"
    save_challenge(folder, challenge)
    release, secret = challenge.release, challenge.secret
    for name, noise in (("poor", 0.9), ("good", 0.1)):
        wrong = np.random.default_rng(1).normal(0, noise, secret.private.shape)
        recovered = on_the_grid(pixel_values(secret.private) + wrong)
        decryption = recovered[secret.pair[:, 0]]
        result = AttackResult(name, recovered, secret.pair, decryption, "O(1)", {"guess": 1.0})
        save_result(folder / "attack" / name, result)
        scores = score(decryption, secret.private, secret.pair)
        save_evaluation(folder / "evaluate" / name, name, scores, release, {"method": name})
    return folder


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """All figures in one column; drawing each at both widths takes twice as long."""
    folder = tmp_path_factory.mktemp("figures")
    sweep = tmp_path_factory.mktemp("sweep") / "table.csv"
    sweep.write_text(SWEEP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "WIDTHS", {"1col": 3.5})
        return folder, make_figures(run, folder, sweep=sweep), sweep


def draw(width):
    return plots.similarity_histogram(np.arange(9.0), np.arange(5.0), width=width)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One figure at both widths, and the folder."""
    folder = tmp_path_factory.mktemp("one")
    return folder, save_figure(Plan("a", draw, "Caption."), folder)


def test_each_figure_comes_in_both_formats_with_a_caption(made, one):
    folder, written, _ = made
    names = (*NAMES, "quality-k", "quality-encryptions-per-image")
    expected = {f"{name}{end}" for name in names for end in ("-1col.png", "-1col.pdf", ".txt")}
    assert {path.name for path in written} == {path.name for path in folder.iterdir()} == expected
    assert [path.name for path in one[1]] == ["a-1col.png", "a-1col.pdf", "a-2col.png", "a-2col.pdf", "a.txt"]


def test_files_have_the_width_of_the_column_and_no_date(made, one):
    for file in (*made[1], *one[1]):
        inches, data = 7.16 if "2col" in file.name else 3.5, file.read_bytes()
        if file.suffix == ".png":
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert picture.shape[1] == int(inches * 300), file.name
            per_metre = int.from_bytes(data[data.index(b"pHYs") + 4 :][:4], "big")
            assert round(per_metre * 0.0254) == 300
            assert b"tEXt" not in data, "neither a date nor a version"
        elif file.suffix == ".pdf":
            fonts = set(re.findall(rb"/Subtype /(Type3|TrueType|CIDFontType2|Type1)\b", data))
            assert fonts, file.name
            assert fonts <= {b"TrueType", b"CIDFontType2"}
            assert b"/FontFile2" in data, "embedded"
            assert not re.search(rb"/(CreationDate|ModDate)|D:20\d\d", data)
            box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", data)
            assert float(box[1]) == pytest.approx(72 * inches, abs=0.5)


def test_a_pdf_keeps_the_images_own_pixels(made):
    sizes = re.findall(rb"/Height (\d+)|/Width (\d+)", (made[0] / "attacks-1col.pdf").read_bytes())
    assert sizes.count((b"32", b"")) == sizes.count((b"", b"32")) == 3 * 4, "private, good and poor"


def test_the_same_numbers_give_the_same_bytes(one, tmp_path):
    again = save_figure(Plan("a", draw, "Caption."), tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in one[1]]
    assert (tmp_path / "a.txt").read_text().startswith("Caption.\nMade by instahide-nb ")


def test_captions_say_where_the_numbers_come_from(made, run):
    folder, _, sweep = made
    digest = hashlib.sha256((run / "evaluate/good/per_encryption.npy").read_bytes()).hexdigest()[:16]
    text = (folder / "comparison.txt").read_text()
    assert f"evaluate/good/per_encryption.npy (sha256 {digest})" in text
    assert "the decryption by good" in text, "the better attack is shown"
    assert "run made" in text
    assert "Reported (hatched)" in (folder / "leaderboard.txt").read_text()
    text = (folder / "quality-k.txt").read_text()
    assert "at encryptions_per_image = 50" in text
    assert "means of 4 runs" in text
    assert "Failed runs, left out: 1." in text
    assert hashlib.sha256(sweep.read_bytes()).hexdigest()[:16] in text
    for file in folder.glob("*.txt"):
        assert str(run.parent) not in file.read_text(), "no path of this machine"
        assert "Made by instahide-nb" in file.read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method,k,max_ssim\n", "contains no run"),
        ("method,k\na,2\n", "no column 'max_ssim'"),
        ("method,k,max_ssim\na,2,0.5\na,4,high\n", "'high'"),
        ("\xff\xfe\x00", "decode"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, said):
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=rf"t\.csv: .*{said}"):
        sweep_table(tmp_path / "t.csv")


def test_missing_and_foreign_tables(tmp_path, run):
    with pytest.raises(InputError, match="no such file"):
        sweep_table(tmp_path / "none.csv")
    (tmp_path / "c.csv").write_text("method,k,max_ssim\na,2,0.5\n")
    with pytest.raises(InputError, match="varies neither"):
        make_figures(run, tmp_path / "out", sweep=tmp_path / "c.csv")
    assert not (tmp_path / "out").exists()


def test_a_run_without_an_evaluated_attack_is_refused(challenge, tmp_path):
    with pytest.raises(InputError, match=r"run: is not a run; make one with instahide-nb"):
        make_figures(tmp_path / "run", tmp_path / "out")
    save_challenge(tmp_path / "run", challenge)
    with pytest.raises(InputError, match="no evaluated attack"):
        make_figures(tmp_path / "run", tmp_path / "out")
