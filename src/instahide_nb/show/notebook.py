"""What the notebooks show: pictures in cell outputs, a slider over encryptions, and explanations of an attack.

:func:`show` puts a PNG with alternative text into the cell's output, and below it a line with the size and the hash of
the pixels. nbval compares the line and leaves images out, so a changed pixel fails a check and a changed compressor
does not. Explanations return None where they do not apply to an attack or a challenge; ``show`` then says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.result import AttackResult
from instahide_nb.challenge.release import Release
from instahide_nb.challenge.secret import Secret
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import make_folder, sha256_array, write_bytes
from instahide_nb.core.progress import in_jupyterlab
from instahide_nb.evaluate.metrics import Scores
from instahide_nb.evaluate.report import private_inside
from instahide_nb.show.grids import Images, absolute_pixels, contact_sheet, enlarge, png_bytes, to_pixels

if TYPE_CHECKING:  # plots load slowly, and no notebook needs them before its first plot
    import ipywidgets
    from matplotlib.figure import Figure

UInt8 = npt.NDArray[np.uint8]
Draw = Callable[[int], UInt8]
"""The picture of one encryption, from its row in the release."""

_TILE = 96  # pixels of a 32 x 32 image enlarged three times


def _display(data: bytes, alt: str, widget: dict[str, object] | None = None) -> None:
    """Put a picture into the cell's output; outside IPython there is none."""
    if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
        return
    from IPython.display import display

    bundle = (widget or {}) | {"image/png": data, "text/plain": alt}
    display(bundle, metadata={"image/png": {"alt": alt}}, raw=True)  # type: ignore[no-untyped-call]


def show(
    picture: UInt8 | Figure | None,
    path: Path | str,
    alt: str = "",
    *,
    exact: bool = True,
    widget: dict[str, object] | None = None,
) -> None:
    """Write a picture or plot as PNG, show it, and print its size and the hash of its pixels.

    Parameters
    ----------
    picture : uint8 (height, width, 3), matplotlib Figure or None
        None, or a picture without pixels, prints "nothing to show" and writes nothing.
    path : Path or str
        The PNG file; its folder is made.
    alt : str
        Alternative text: the picture in words. The file's name by default.
    exact : bool
        False for a picture that may differ between machines: no hash is printed. Plots never have one, since
        Matplotlib draws letters differently from version to version.
    widget : dict, optional
        Output of a widget, for viewers that can show it in place of the picture.
    """
    path = Path(path)
    if picture is None or (isinstance(picture, np.ndarray) and not picture.size):
        print(f"{path.name}: nothing to show here")
        return
    if isinstance(picture, np.ndarray):
        digest = f", sha256 {sha256_array(picture)[:16]}" if exact else ""
        data, line = png_bytes(picture), f"{picture.shape[1]} x {picture.shape[0]} pixels{digest}"
    else:
        from instahide_nb.show.plots import figure_bytes

        data, line = figure_bytes(picture), "a plot"
    make_folder(path.parent)
    write_bytes(path, data)
    _display(data, alt or path.stem, widget)
    print(f"{path.name}: {line}")


def pick(draw: Draw, rows: int, path: Path | str, alt: str = "", *, row: int = 0) -> None:
    """Show one encryption and, in JupyterLab with ipywidgets, a slider to pick another.

    What is written and printed is the same with and without the slider; viewers without widgets see the picture.

    Parameters
    ----------
    draw : callable
        Takes a row, returns the picture: uint8 (height, width, 3).
    rows : int
        Number of encryptions; 0 prints "nothing to show".
    path, alt : Path or str, str
        As for :func:`show`.
    row : int
        The encryption that is shown first.

    Raises
    ------
    InputError
        When there is no such row.
    """
    if not rows:
        show(None, path)
        return
    if not 0 <= row < rows:
        raise InputError(f"row: {row} is not among the {rows} encryptions; choose 0 .. {rows - 1}")
    box = slider(draw, rows, row) if in_jupyterlab() else None
    show(draw(row), path, alt, widget=box._repr_mimebundle_() if box is not None else None)


def slider(draw: Draw, rows: int, row: int = 0) -> ipywidgets.VBox | None:
    """A slider and a number field above the picture that follows them; None without ipywidgets."""
    try:
        import ipywidgets
    except ImportError:
        return None
    place = ipywidgets.IntSlider(
        row, 0, rows - 1, description="encryption", readout=False, layout={"width": "420px"}
    )
    number = ipywidgets.BoundedIntText(row, 0, rows - 1, layout={"width": "90px"})
    picture = ipywidgets.Image(value=png_bytes(draw(row)), format="png", layout={"object_fit": "none"})
    ipywidgets.link((place, "value"), (number, "value"))

    def follow(change: dict[str, int]) -> None:
        picture.value = png_bytes(draw(change["new"]))

    place.observe(follow, "value")
    return ipywidgets.VBox([ipywidgets.HBox([place, number]), picture])


def _strip(parts: dict[str, Images]) -> UInt8:
    """Images side by side, captions below."""
    return contact_sheet(np.stack([to_pixels(image) for image in parts.values()]), list(parts), tile=_TILE)


def composed(release: Release, secret: Secret, row: int) -> UInt8:
    """The images inside encryption `row` with their coefficients, their mixture, the encryption and its |x|."""
    pool = secret.public if release.info.scheme == "cross" else secret.private
    images = [secret.private[i] for i in secret.pair[row]] + [pool[i] for i in secret.public_index[row]]
    parts: dict[str, Images] = {
        f"{j}: {weight:.2f}": image
        for j, (weight, image) in enumerate(zip(secret.coefficient[row], images, strict=True), 1)
    }
    x = release.encryption[row]
    signs = np.unpackbits(secret.mask[row], count=x.size).reshape(x.shape)
    parts["mixture"] = x * np.where(signs, np.float32(1), np.float32(-1))
    return _strip(parts | {"encryption": x, "absolute value": absolute_pixels(x)})


def answered(release: Release, result: AttackResult, row: int) -> UInt8:
    """Encryption `row`, its absolute value, its decryption, and the images that the attack assigned to it.

    Where the attack inferred signs (``result.extras["signed"]``), the encryption with these signs too.
    """
    x = release.encryption[row]
    parts: dict[str, Images] = {"encryption": x, "absolute value": absolute_pixels(x)}
    if "signed" in result.extras:
        parts["mask lifted"] = result.extras["signed"][row]
    parts["decryption"] = result.decryption[row]
    return _strip(parts | {f"image {i}": result.recovered[i] for i in result.assignment[row] if i >= 0})


def scored(
    release: Release, secret: Secret, decryption: npt.NDArray[np.floating], scores: Scores, row: int
) -> UInt8:
    """Encryption `row`, its absolute value, its decryption, and the private images inside with their SSIM."""
    x = release.encryption[row]
    parts: dict[str, Images] = {
        "encryption": x,
        "absolute value": absolute_pixels(x),
        "decryption": decryption[row],
    }
    for slot, image in enumerate(private_inside(secret)[row]):
        parts[f"private {slot + 1}: {scores.ssim[row, slot]:.3f}"] = secret.private[image]
    return _strip(parts)


def sign_agreement(images: UInt8) -> float:
    """How often two neighbouring values of images (n, h, w, 3), taken in [-1, 1], have the same sign.

    Examples
    --------
    >>> sign_agreement(np.full((1, 4, 4, 3), 200, np.uint8))
    1.0
    """
    light = images > 127
    agree = [light[:, 1:] == light[:, :-1], light[:, :, 1:] == light[:, :, :-1]]
    return sum(int(a.sum()) for a in agree) / sum(a.size for a in agree)


def _explained(release: Release, result: AttackResult) -> bool:
    """Whether the explanations of `unmask` apply: its scheme, labels, and two known images in each encryption."""
    return release.info.scheme == "cross" and bool(len(result.recovered) and (result.assignment >= 0).all())


def _whitened_similarity(release: Release, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Correlations of the whitened energies of some encryptions, as `unmask` computes them."""
    from instahide_nb.attacks.unmask.edges import edge_features, edge_filter, similarity

    feature = edge_features(release.encryption)
    return similarity(feature[rows], edge_filter(feature))


def similarities(
    release: Release, inside: npt.NDArray[np.int64], *, encryptions: int = 1000
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Correlations of whitened energies of pairs of encryptions: those that share a private image, and the others.

    `inside` (n, p) names the private images of each encryption. The first `encryptions` rows are compared.
    """
    n = min(encryptions, len(release.encryption))
    similarity = _whitened_similarity(release, np.arange(n))
    holds = np.zeros((n, int(inside.max()) + 1), np.int64)
    np.put_along_axis(holds, inside[:n], 1, axis=1)
    shared, upper = (holds @ holds.T) > 0, np.triu(np.ones((n, n), bool), 1)
    return similarity[shared & upper], similarity[~shared & upper]


def sharing_histogram(release: Release, result: AttackResult) -> Figure | None:
    """Distribution of :func:`similarities`; which pairs share an image is the attack's own result."""
    if not _explained(release, result):
        return None
    from instahide_nb.show.plots import similarity_histogram

    return similarity_histogram(*similarities(release, result.assignment))


def cluster_matrix(
    release: Release, result: AttackResult, *, strongest: int = 12, images: int = 12
) -> UInt8 | None:
    """Correlations of the encryptions in which an image is strongest, image by image: bright squares are clusters.

    Parameters
    ----------
    strongest : int
        Number of encryptions of each image, those with its largest coefficients.
    images : int
        Number of images, the first ones.

    Returns
    -------
    uint8 (side, side, 3) or None
        Grey; white is the largest correlation off the diagonal, black is 0 or less.
    """
    if not _explained(release, result):
        return None
    from instahide_nb.attacks.unmask.matching import read_slots

    coefficient = read_slots(release.label, release.info.n_private).coefficient
    rows: list[int] = []
    for image in range(min(images, len(result.recovered))):
        strength = np.where(result.assignment == image, coefficient, 0).max(axis=1)
        order = np.argsort(-strength, kind="stable")[:strongest]
        rows += order[strength[order] > 0].tolist()
    similarity = np.clip(_whitened_similarity(release, np.array(rows)), 0, None)
    np.fill_diagonal(similarity, 0)
    grey = np.floor(255 * np.minimum(similarity / similarity.max(), 1) + 0.5).astype(np.uint8)
    return enlarge(grey[..., None].repeat(3, axis=2), max(1, 480 // len(grey)))


def eigenvector_plot(
    release: Release, result: AttackResult, pixel: tuple[int, int, int] | None = None
) -> Figure | None:
    """Products of one pixel (y, x, channel; default: the centre, green) in pairs of private images.

    The encryptions estimate the product of the pixel's values in images a and b; the recovered images give it again.
    Both agree where the matrix of products has rank one.
    """
    if not _explained(release, result):
        return None
    from instahide_nb.attacks.mixtures import Mixtures
    from instahide_nb.attacks.unmask.matching import read_slots
    from instahide_nb.attacks.unmask.squares import pixel_matrix
    from instahide_nb.show.plots import product_plot

    height, width = release.encryption.shape[1:3]
    y, x, channel = pixel or (height // 2, width // 2, 1)
    slots = read_slots(release.label, release.info.n_private)
    known = np.where(slots.shared[:, None], -1, result.assignment)
    mixtures = Mixtures(known, slots.coefficient, len(result.recovered))
    product, weight = pixel_matrix(release.encryption, mixtures, (y, x, channel))
    value = result.recovered[:, y, x, channel]
    seen = np.triu(weight > np.quantile(weight[weight > 0], 0.5), 1)
    return product_plot(np.outer(value, value)[seen], product[seen])


def lifted_masks(release: Release, result: AttackResult, *, rows: int = 10) -> UInt8 | None:
    """The first encryptions, and below each the same with the mask removed as the attack inferred it."""
    if "signed" not in result.extras:
        return None
    both = [release.encryption[:rows], result.extras["signed"][:rows]]
    return contact_sheet(np.concatenate(both), columns=len(both[0]))


def rounds(result: AttackResult, *, images: int = 10) -> UInt8 | None:
    """The first images after each stage of the attack, a row per stage."""
    if "history" not in result.extras:
        return None
    history = [to_pixels(stage[:images]) for stage in result.extras["history"]]
    return contact_sheet(np.concatenate(history), columns=len(history[0]))


def answers(release: Release, result: AttackResult, *, images: int = 10) -> UInt8 | None:
    """Encryptions from all of the release, and below each its decryption."""
    if not len(result.decryption):
        return None
    n = len(release.encryption)
    some = np.arange(0, n, max(1, n // images))[:images]
    return contact_sheet(
        np.concatenate([release.encryption[some], result.decryption[some]]), columns=len(some)
    )


def error_rates(result: AttackResult) -> Figure | None:
    """The share of wrong signs among the most confident ones, as `prng-state` counted it once the masks were known."""
    if "sign_errors" not in result.details:
        return None
    from instahide_nb.show.plots import error_plot

    return error_plot(result.details["sign_errors"])
