"""What notebooks show: pictures that nbval checks by hash, a slider, and explanations where they apply."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import nbformat
import numpy as np
import pytest
from dead_leaves import dead_leaves
from nbclient import NotebookClient

from instahide_nb.attacks.registry import Steps
from instahide_nb.attacks.result import AttackResult, on_the_grid
from instahide_nb.challenge.build import Challenge, build_challenge
from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.core.errors import InputError
from instahide_nb.core.params import GenDataParams
from instahide_nb.scheme.encryption import encrypt, pixel_values
from instahide_nb.scheme.streams import open_stream
from instahide_nb.show import notebook, plots
from instahide_nb.show.grids import absolute_pixels, contact_sheet, to_pixels


def draw(row: int) -> np.ndarray:
    return np.full((4, 6, 3), 10 * row, np.uint8)


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


CELL = """
import numpy as np
from instahide_nb.show.notebook import show
show(np.full((4, 6, 3), {value}, np.uint8), "one.png", "Grey")
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """An executed notebook of one picture."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.format(value=10))])
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    folder = tmp_path_factory.mktemp("recorded")
    return NotebookClient(book, resources={"metadata": {"path": str(folder)}}).execute()


def test_a_picture_is_in_the_output_with_words_for_it_and_a_line_with_its_hash(recorded: nbformat.NotebookNode) -> None:
    picture, line = recorded.cells[0].outputs
    assert picture.output_type == "display_data"
    np.testing.assert_array_equal(decoded(base64.b64decode(picture.data["image/png"])), draw(1))
    assert (picture.data["text/plain"], picture.metadata["image/png"]) == ("Grey", {"alt": "Grey"})
    assert line.text.startswith("one.png: 6 x 4 pixels, sha256 ")


def test_nbval_finds_a_changed_pixel_or_no_output_and_ignores_the_compressor(
    recorded: nbformat.NotebookNode, tmp_path: Path
) -> None:
    same, recompressed, changed, bare = (deepcopy(recorded.cells[0]) for _ in range(4))
    recompressed.outputs[0].data["image/png"] = base64.b64encode(b"from another compressor").decode()
    changed.source = CELL.format(value=11)
    bare.outputs = []
    book = nbformat.from_dict(recorded)
    book.cells = [same, recompressed, changed, bare]
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number}"
    nbformat.write(book, tmp_path / "book.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "-q", "-rA"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    ends = re.findall(r"^(PASSED|FAILED) book\.ipynb::Cell (\d)", done.stdout, re.M)
    assert sorted(ends, key=lambda end: end[1]) == [("PASSED", "0"), ("PASSED", "1"), ("FAILED", "2"), ("FAILED", "3")]


def test_nothing_to_show_is_said_and_written_nowhere_and_plots_have_no_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for nothing in (None, contact_sheet(np.empty((0, 8, 8, 3), np.uint8))):
        notebook.show(nothing, tmp_path / "a.png")
    notebook.pick(draw, 0, tmp_path / "a.png")
    for row in (-1, 20):
        with pytest.raises(InputError, match=r"row: .* choose 0 \.\. 19"):
            notebook.pick(draw, 20, tmp_path / "a.png", row=row)
    assert capsys.readouterr().out == "a.png: nothing to show here\n" * 3
    assert not (tmp_path / "a.png").exists()
    notebook.show(plots.similarity_histogram(np.arange(9.0), np.arange(5.0)), tmp_path / "deep" / "a.png")
    assert capsys.readouterr().out == "a.png: a plot\n"
    assert decoded((tmp_path / "deep" / "a.png").read_bytes()).shape[1] <= 700, "modest"


def test_slider_and_field_move_together_and_the_picture_follows() -> None:
    pytest.importorskip("ipywidgets")
    box = notebook.slider(draw, 20, 3)
    (place, number), picture = box.children[0].children, box.children[1]
    assert (place.value, number.value, place.max, number.max) == (3, 3, 19, 19)
    np.testing.assert_array_equal(decoded(picture.value), draw(3))
    for moved, value, shown in ((place, 7, 7), (number, 12, 12), (number, 99, 19)):
        moved.value = value
        assert place.value == number.value == shown, "what is beyond the last row becomes the last row"
        np.testing.assert_array_equal(decoded(picture.value), draw(shown))


def test_a_slider_has_a_picture_for_other_viewers_and_the_same_text_as_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ipywidgets")
    bundles: list[dict[str, object]] = []
    monkeypatch.setattr(notebook, "in_jupyterlab", lambda: True)
    monkeypatch.setattr("IPython.get_ipython", object)
    monkeypatch.setattr("IPython.display.display", lambda bundle, **options: bundles.append(bundle))
    notebook.pick(draw, 20, tmp_path / "one.png", row=3)
    with_slider, written = capsys.readouterr().out, (tmp_path / "one.png").read_bytes()
    assert with_slider.startswith("one.png: 6 x 4 pixels, sha256 ")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    notebook.pick(draw, 20, tmp_path / "one.png", row=3)
    assert capsys.readouterr().out == with_slider
    widget = "application/vnd.jupyter.widget-view+json"
    assert [widget in bundle for bundle in bundles] == [True, False]
    assert [bundle["image/png"] for bundle in bundles] == [written] * 2


def strip(images: list[np.ndarray], captions: list[str]) -> np.ndarray:
    return contact_sheet(np.stack([to_pixels(image) for image in images]), captions, tile=96)


@pytest.mark.parametrize("scheme", ["cross", "inside", "mixup"])
def test_what_is_in_an_encryption(scheme: str, gen_data_params: GenDataParams) -> None:
    """The sum of the images that are shown, by the weights below them, is the mixture that is shown."""
    k = {"cross": 4, "inside": 4, "mixup": 2}[scheme]
    made = build_challenge(gen_data_params.changed(scheme=scheme, k=k))
    release, secret, row = made.release, made.secret, 5
    images = [secret.private[i] for i in secret.pair[row]] + [secret.public[i] for i in secret.public_index[row]]
    mixture = np.einsum("j,jhwc->hwc", secret.coefficient[row].astype(float), pixel_values(np.stack(images)))
    x = release.encryption[row]
    captions = [f"{j + 1}: {c:.2f}" for j, c in enumerate(secret.coefficient[row])]
    expected = strip([*images, mixture, x, absolute_pixels(x)], [*captions, "mixture", "encryption", "absolute value"])
    np.testing.assert_array_equal(notebook.composed(release, secret, row), expected)


def test_an_image_and_its_views(challenge: Challenge, gen_data_params: GenDataParams) -> None:
    assert notebook.views(challenge.secret) is None
    secret = build_challenge(gen_data_params.changed(augment="crop_flip")).secret
    shown, captions = [secret.private[3]], ["image"]
    for e in range(5):
        row = 7 * e + int(np.flatnonzero(secret.pair[7 * e : 7 * e + 7, 0] == 3)[0])
        shown.append(secret.inside(row)[0])
        dy, dx, flip = secret.view[row, 0]
        captions.append(f"epoch {e}: {dy}, {dx}" + (", flip" if flip else ""))
    expected = contact_sheet(np.stack(shown), captions, columns=5, tile=96)
    np.testing.assert_array_equal(notebook.views(secret, image=3), expected)


def result_of(challenge: Challenge) -> AttackResult:
    """The truth, as an attack would return it."""
    recovered = on_the_grid(pixel_values(challenge.secret.private))
    pair = challenge.secret.pair.copy()
    return AttackResult("made", recovered, pair, recovered[pair[:, 1]], "O(1)")


def test_explanations_are_none_where_there_are_no_stages(challenge: Challenge) -> None:
    release, result = challenge.release, result_of(challenge)
    lost = AttackResult.not_found("lost", "O(1)", "no seed", release=release, seconds={}, details={})
    stages = "edge_maps cluster_matrix image_edges product_plot lifted_masks rounds predicted_public"
    assert [name for name in stages.split() if getattr(notebook, name)(None) is not None] == []
    assert notebook.rounds(lost) is notebook.answers(release, lost) is None
    cropped = SimpleNamespace(mixtures=SimpleNamespace(n_images=81 * 7), known=SimpleNamespace(n_images=7))
    walk = SimpleNamespace(now=cropped)
    assert notebook.cluster_matrix(walk) is notebook.image_edges(walk) is None
    assert notebook.own_report(lost) == "generator not found: no seed"
    details = {"sign_errors": [[10, 0], [20, 1]], "seed": 7, "estimated_slot_accuracy": 0.5}
    history = {"history": [("one", result.recovered), ("two", result.recovered)]}
    shown = replace(result, extras=history, details=details)
    both = contact_sheet(np.concatenate([result.recovered] * 2), columns=7)
    np.testing.assert_array_equal(notebook.rounds(shown), both)
    assert notebook.own_report(shown).splitlines()[-2:] == [
        "seed 7",
        "private images identified, by its own estimate: 50.0 %",
    ]


def test_every_stage_of_unmask_has_a_picture_and_is_named_while_it_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTAHIDE_NB_PROGRESS", "text")
    images = dead_leaves(8, (16, 16), 1)
    stream = open_stream("mt19937", seed=3, key="", states=None)
    info = ReleaseInfo(k=4, n_private=8, encryptions_per_image=30)
    made = encrypt(images, dead_leaves(60, (16, 16), 2), stream, info)
    steps = Steps("unmask", Release(made.encryption, None, info), dead_leaves(60, (16, 16), 3))
    assert notebook.edge_maps(steps("find_edges"), rows=4).shape[2] == 3
    walk = steps("find_first_codes")
    assert min(notebook.cluster_matrix(walk).shape[:2]) > 50
    assert notebook.image_edges(walk) is not None
    walk = steps("find_first_images")
    assert notebook.product_plot(walk) is not None
    assert notebook.lifted_masks(steps("refine"), rows=3) is not None
    assert "coupled signs" in capsys.readouterr().err
    walk = steps("share_public_images")
    assert notebook.predicted_public(walk, rows=3) is not None
    assert [name for name, _ in walk.history][:2] == ["squares", "independent signs"]
    assert notebook.rounds(walk, images=5).shape[0] > notebook.rounds(walk, images=5).shape[1]
    assert steps.result().method == "unmask"


def test_without_a_mask_the_features_are_the_channels_themselves() -> None:
    rng = np.random.default_rng(0)
    encryption = rng.uniform(-1, 1, (6, 8, 8, 3)).astype(np.float32)
    feature = np.ascontiguousarray(encryption.transpose(0, 3, 1, 2))
    walk = SimpleNamespace(encryption=encryption, energies=SimpleNamespace(feature=feature))
    assert notebook.edge_maps(walk, rows=4).ndim == 3
