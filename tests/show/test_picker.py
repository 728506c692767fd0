"""Picking an encryption: a slider where a person works in JupyterLab, the same picture and text everywhere else."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from instahide_nb.attacks.result import AttackResult, on_the_grid
from instahide_nb.challenge.build import Challenge, build_challenge
from instahide_nb.core.errors import InputError
from instahide_nb.core.params import GenDataParams
from instahide_nb.evaluate.metrics import score, signed_pixels
from instahide_nb.scheme.encryption import pixel_values
from instahide_nb.show import notebook as one_encryption
from instahide_nb.show import notebook as picker
from instahide_nb.show.grids import absolute_pixels, contact_sheet, to_pixels

ipywidgets = pytest.importorskip("ipywidgets")


def draw(row: int) -> np.ndarray:
    return np.full((4, 6, 3), 10 * row, np.uint8)


def shown(picture: object) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(picture.value, np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is displayed when a person works in JupyterLab, as far as the package can tell."""
    calls: list[object] = []
    monkeypatch.setattr(picker, "in_jupyterlab", lambda: True)
    monkeypatch.setattr(picker, "recording", lambda: False)
    monkeypatch.setattr("instahide_nb.show.notebook.recording", lambda: False)
    monkeypatch.setattr("IPython.display.display", lambda thing, raw=False: calls.append(thing))
    return calls


def test_slider_and_field_move_together_and_the_picture_follows() -> None:
    box = picker.slider(draw, 20, 3)
    (place, number), picture = box.children[0].children, box.children[1]
    assert (place.value, number.value, place.max, number.max) == (3, 3, 19, 19)
    np.testing.assert_array_equal(shown(picture), draw(3))
    place.value = 7
    assert number.value == 7
    np.testing.assert_array_equal(shown(picture), draw(7))
    number.value = 12
    assert place.value == 12
    np.testing.assert_array_equal(shown(picture), draw(12))
    number.value = 99
    assert place.value == 19, "what is beyond the last row becomes the last row"


def test_in_jupyterlab_a_widget_with_a_picture_for_other_viewers(
    displayed: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picker.pick(draw, 20, tmp_path / "deep" / "one.png", row=3)
    (bundle,) = displayed
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["image/png"] == (tmp_path / "deep" / "one.png").read_bytes()
    assert capsys.readouterr().out.startswith("one.png: 6 x 4 pixels, sha256 ")


def test_the_text_is_the_same_without_a_frontend_and_without_ipywidgets(
    displayed: list[object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picker.pick(draw, 20, tmp_path / "one.png", row=3)
    with_slider, written = capsys.readouterr().out, (tmp_path / "one.png").read_bytes()
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    picker.pick(draw, 20, tmp_path / "one.png", row=3)
    assert capsys.readouterr().out == with_slider
    assert type(displayed[1]).__name__ == "Image", "a picture is shown, no widget"
    monkeypatch.undo()
    picker.pick(draw, 20, tmp_path / "one.png", row=3)
    assert capsys.readouterr().out == with_slider
    assert (tmp_path / "one.png").read_bytes() == written
    assert len(displayed) == 2, "under pytest, as under nbval, nothing is displayed"


@pytest.mark.parametrize("row", [-1, 20])
def test_a_row_that_is_not_there_is_refused(row: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row: .* choose 0 \.\. 19"):
        picker.pick(draw, 20, tmp_path / "one.png", row=row)
    assert not (tmp_path / "one.png").exists()


def panels(picture: np.ndarray, reference: np.ndarray) -> None:
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, reference)


@pytest.mark.parametrize("scheme", ["cross", "inside", "mixup"])
def test_what_is_in_an_encryption(scheme: str, gen_data_params: GenDataParams) -> None:
    """The sum of the images that are shown, by the weights below them, is the mixture that is shown."""
    k = {"cross": 4, "inside": 4, "mixup": 2}[scheme]
    made = build_challenge(gen_data_params.changed(scheme=scheme, k=k))
    release, secret, row = made.release, made.secret, 5
    pool = secret.public if scheme == "cross" else secret.private
    images = np.stack(
        [secret.private[i] for i in secret.pair[row]] + [pool[i] for i in secret.public_index[row]]
    )
    mixture = np.einsum("j,jhwc->hwc", secret.coefficient[row].astype(float), pixel_values(images))
    x = release.encryption[row]
    captions = [f"{j + 1}: {c:.2f}" for j, c in enumerate(secret.coefficient[row])]
    tiles = np.stack([*images, to_pixels(mixture), to_pixels(x), absolute_pixels(x)])
    expected = contact_sheet(tiles, [*captions, "mixture", "encryption", "absolute value"], tile=96)
    panels(one_encryption.composed(release, secret, row), expected)


def test_what_an_attack_made_of_it(challenge: Challenge) -> None:
    release, secret = challenge.release, challenge.secret
    recovered = on_the_grid(signed_pixels(secret.private))
    assignment = secret.pair.copy()
    assignment[2, 1] = -1
    result = AttackResult("made", recovered, assignment, recovered[secret.pair[:, 0]], "O(1)")
    a, b = assignment[0]
    x = release.encryption[0]
    tiles = [to_pixels(x), absolute_pixels(x), to_pixels(result.decryption[0])]
    captions = ["encryption", "absolute value", "decryption"]
    both = contact_sheet(
        np.stack([*tiles, secret.private[a], secret.private[b]]),
        [*captions, f"image {a}", f"image {b}"],
        tile=96,
    )
    panels(one_encryption.answered(release, result, 0), both)
    wide = one_encryption.answered(release, result, 2).shape[1]
    assert wide < both.shape[1], "of an unknown image there is none to show"
    lifted = replace(result, extras={"signed": -release.encryption})
    assert one_encryption.answered(release, lifted, 0).shape[1] > both.shape[1]


def test_how_it_is_scored(challenge: Challenge) -> None:
    release, secret = challenge.release, challenge.secret
    decryption = on_the_grid(signed_pixels(secret.private))[secret.pair[:, 1]]
    scores = score(decryption, secret.private, secret.pair)
    x, (a, b) = release.encryption[4], secret.pair[4]
    first, second = scores.per_encryption[4, :2]
    assert second == pytest.approx(1)
    tiles = [to_pixels(x), absolute_pixels(x), to_pixels(decryption[4]), secret.private[a], secret.private[b]]
    captions = ["encryption", "absolute value", "decryption", f"private 1: {first:.3f}", "private 2: 1.000"]
    expected = contact_sheet(np.stack(tiles), captions, tile=96)
    panels(one_encryption.scored(release, secret, decryption, scores, 4), expected)
