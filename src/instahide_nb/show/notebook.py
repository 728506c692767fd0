"""Pictures in notebooks: kept as a file, shown to whoever looks, named by a hash in what is recorded.

Picking an encryption to look at: a slider in JupyterLab, one fixed picture wherever nobody can move one.

One encryption from three sides: what its maker put in, what an attack made of it, and how that is scored.

What the attack notebook shows of how an attack works: each a number, a picture or a plot of public things only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.result import AttackResult
from instahide_nb.attacks.unmask import energy, textures
from instahide_nb.attacks.unmask.assignment import read_slots
from instahide_nb.attacks.unmask.spectral import pixel_matrix
from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import make_folder, sha256_array, write_bytes
from instahide_nb.core.progress import in_jupyterlab
from instahide_nb.show import grids
from instahide_nb.show.grids import absolute_pixels, contact_sheet, png_bytes, to_pixels, write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def recording() -> bool:
    """True where outputs are recorded or compared (``make notebooks``, nbval): text then stands for the pictures."""
    return "INSTAHIDE_NB_RECORD" in os.environ or "PYTEST_VERSION" in os.environ


def _display(path: Path) -> None:
    if not recording():
        from IPython.display import Image, display

        display(Image(filename=str(path)))  # type: ignore[no-untyped-call]


def write_picture(image: npt.NDArray[np.uint8], path: Path | str, *, exact: bool = True) -> None:
    """Write a picture, and print its size and the hash of its pixels; see :func:`show`."""
    path = Path(path)
    make_folder(path.parent)
    write_png(path, image)
    digest = f", sha256 {sha256_array(image)[:16]}" if exact else ""
    print(f"{path.name}: {image.shape[1]} x {image.shape[0]} pixels{digest}")


def show(image: npt.NDArray[np.uint8], path: Path | str, *, exact: bool = True) -> None:
    """Write a picture, print its size and the hash of its pixels, and show it.

    Parameters
    ----------
    image : (height, width, 3) uint8 array
        RGB.
    path : Path or str
        The PNG file; its folder is made.
    exact : bool
        False for a picture that may differ between machines; no hash is printed then.
    """
    write_picture(image, path, exact=exact)
    _display(Path(path))


def show_plot(figure: Figure, path: Path | str) -> None:
    """Write a plot and show it; no hash, since a plot's letters differ between versions of matplotlib.

    Parameters
    ----------
    figure : matplotlib Figure
        Closed afterwards.
    path : Path or str
        The PNG file; its folder is made.
    """
    import io

    import matplotlib.pyplot as plt

    path = Path(path)
    make_folder(path.parent)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"dpi": 110, "metadata": {"Software": None}}
    figure.savefig(buffer, format="png", **options)
    plt.close(figure)
    write_bytes(path, buffer.getvalue())
    print(f"{path.name}: a plot")
    _display(path)


Draw = Callable[[int], npt.NDArray[np.uint8]]
"""The picture of one encryption, from its row in the release."""


def pick(draw: Draw, rows: int, path: Path | str, *, row: int = 0) -> None:
    """Show one encryption and, in JupyterLab, let the reader pick another.

    Under papermill and nbval, and where ipywidgets is not installed, this is :func:`show` for `row`. What is written
    and printed is the same with and without a slider.

    Parameters
    ----------
    draw : callable
        Takes a row, returns the picture: (height, width, 3) uint8.
    rows : int
        How many encryptions there are.
    path : Path or str
        The PNG file of `row`; its folder is made.
    row : int
        The encryption that is shown first.

    Raises
    ------
    InputError
        When there is no such row.
    """
    if not 0 <= row < rows:
        raise InputError(f"row: {row} is not among the {rows} encryptions; choose 0 .. {rows - 1}")
    widget = slider(draw, rows, row) if in_jupyterlab() and not recording() else None
    if widget is None:
        show(draw(row), path)
        return
    from IPython.display import display

    write_picture(draw(row), path)
    # Viewers that know no widgets (a file on GitHub, a print) show the picture instead.
    bundle = widget._repr_mimebundle_() | {"image/png": Path(path).read_bytes()}
    display(bundle, raw=True)  # type: ignore[no-untyped-call]


def slider(draw: Draw, rows: int, row: int = 0) -> Any:
    """A slider and a field for the row, above the picture that follows them; None without ipywidgets.

    Returns
    -------
    ipywidgets.VBox or None
        Its children: a box of slider and field, then the picture.
    """
    try:
        import ipywidgets
    except ImportError:
        return None
    place = ipywidgets.IntSlider(
        row, 0, rows - 1, description="encryption", readout=False, layout=ipywidgets.Layout(width="420px")
    )
    number = ipywidgets.BoundedIntText(row, 0, rows - 1, layout=ipywidgets.Layout(width="90px"))
    picture = ipywidgets.Image(value=png_bytes(draw(row)), format="png", layout={"object_fit": "none"})
    ipywidgets.link((place, "value"), (number, "value"))

    def follow(change: dict[str, Any]) -> None:
        picture.value = png_bytes(draw(change["new"]))

    place.observe(follow, "value")
    return ipywidgets.VBox([ipywidgets.HBox([place, number]), picture])


if TYPE_CHECKING:
    from instahide_nb.attacks.result import AttackResult
    from instahide_nb.challenge.release import Release
    from instahide_nb.challenge.secret import Secret
    from instahide_nb.evaluate.metrics import Scores


UInt8 = npt.NDArray[np.uint8]
_TILE = 96  # 32 pixels three times enlarged


def _strip(parts: dict[str, npt.NDArray[Any]]) -> UInt8:
    """Captions and their images, side by side."""
    return contact_sheet(np.stack([to_pixels(image) for image in parts.values()]), list(parts), tile=_TILE)


def composed(release: Release, secret: Secret, row: int) -> UInt8:
    """The images inside an encryption with their coefficients, their mixture, the encryption and its absolute value.

    Parameters
    ----------
    release, secret : Release, Secret
        The two halves of a challenge.
    row : int
        Which encryption.

    Returns
    -------
    (height, width, 3) uint8 array
    """
    second = secret.public if release.info.scheme == "cross" else secret.private
    images = [secret.private[i] for i in secret.pair[row]] + [second[i] for i in secret.public_index[row]]
    parts: dict[str, npt.NDArray[Any]] = {
        f"{j + 1}: {weight:.2f}": image
        for j, (weight, image) in enumerate(zip(secret.coefficient[row], images, strict=True))
    }
    x = release.encryption[row]
    signs = np.unpackbits(secret.mask[row], count=x.size).reshape(x.shape)
    parts["mixture"] = x * np.where(signs, np.float32(1), np.float32(-1))
    return _strip(parts | {"encryption": x, "absolute value": absolute_pixels(x)})


def answered(release: Release, result: AttackResult, row: int) -> UInt8:
    """An encryption, its absolute value, the answer to it, and the images that the attack sees inside.

    Parameters
    ----------
    release : Release
        What was published.
    result : AttackResult
        What the attack made of it; with ``signed`` among its extras, the lifted mask is shown too.
    row : int
        Which encryption.

    Returns
    -------
    (height, width, 3) uint8 array
    """
    x = release.encryption[row]
    parts: dict[str, npt.NDArray[Any]] = {"encryption": x, "absolute value": absolute_pixels(x)}
    if "signed" in result.extras:
        parts["mask lifted"] = result.extras["signed"][row]
    parts["decryption"] = result.decryption[row]
    parts |= {f"image {i}": result.recovered[i] for i in result.assignment[row] if i >= 0}
    return _strip(parts)


def scored(
    release: Release, secret: Secret, decryption: npt.NDArray[np.floating], scores: Scores, row: int
) -> UInt8:
    """An encryption, its absolute value, its decryption, and both private images with the SSIM to them.

    Parameters
    ----------
    release, secret : Release, Secret
        The two halves of a challenge.
    decryption : floating (n, h, w, 3)
        In [-1, 1].
    scores : Scores
        From :func:`instahide_nb.evaluate.metrics.score`.
    row : int
        Which encryption.

    Returns
    -------
    (height, width, 3) uint8 array
    """
    x = release.encryption[row]
    parts = {"encryption": x, "absolute value": absolute_pixels(x), "decryption": decryption[row]}
    for slot, image in enumerate(secret.pair[row]):
        parts[f"private {slot + 1}: {scores.per_encryption[row, slot]:.3f}"] = secret.private[image]
    return _strip(parts)


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sign_agreement(images: UInt8) -> float:
    """How often two neighbouring values of natural images, as values in [-1, 1], have the same sign.

    Parameters
    ----------
    images : (n, h, w, 3) uint8 array
        Photographs; neighbours are those to the right and below.

    Examples
    --------
    >>> sign_agreement(np.full((1, 4, 4, 3), 200, np.uint8))
    1.0
    """
    light = images > 127
    agree = int((light[:, 1:] == light[:, :-1]).sum()) + int((light[:, :, 1:] == light[:, :, :-1]).sum())
    return agree / (light[:, 1:].size + light[:, :, 1:].size)


def _sharing(assignment: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(n, n): whether two encryptions hold a private image in common, as the attack assigned them."""
    n, count = len(assignment), int(assignment.max()) + 1
    holds = np.zeros((n, count), np.int32)
    np.put_along_axis(holds, assignment, 1, axis=1)
    return (holds @ holds.T) > 0


def _whitened_similarity(release: Release, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Correlations of the whitened energies of some encryptions, as `unmask` sees them."""
    feature = energy.planes(energy.features(release.encryption), *release.encryption.shape[1:3])
    return textures.similarity(feature[rows], textures.texture_filter(feature))


def sharing_histogram(release: Release, result: AttackResult, *, encryptions: int = 1000) -> Figure:
    """Correlation of whitened energies of pairs of encryptions, those that share an image and those that share none.

    Which pairs share an image is the attack's own finding. The first `encryptions` rows are compared.
    """
    from instahide_nb.show.plots import similarity_histogram

    similarity = _whitened_similarity(release, np.arange(min(encryptions, len(release.encryption))))
    upper = np.triu(np.ones(similarity.shape, bool), 1)
    share = _sharing(result.assignment[:encryptions])
    same, other = similarity[share & upper], similarity[~share & upper]
    return similarity_histogram(same.astype(np.float64), other.astype(np.float64))


def cluster_matrix(release: Release, result: AttackResult, *, strongest: int = 12, images: int = 12) -> UInt8:
    """Correlations of the encryptions in which an image is strongest, image by image: bright squares are clusters.

    Parameters
    ----------
    strongest : int
        How many encryptions of each image, those with its largest coefficients.
    images : int
        How many images, the first ones.

    Returns
    -------
    (side, side, 3) uint8 array
        Grey; white is the largest correlation beside the diagonal, black is 0 or less.
    """
    slots = read_slots(release.label, release.info.n_private)
    rows: list[int] = []
    for image in range(min(images, len(result.recovered))):
        held = np.flatnonzero((result.assignment == image).any(axis=1))
        place = (result.assignment[held, 1] == image).astype(np.int64)
        strength = slots.coefficient[held, place]
        rows += held[np.argsort(-strength, kind="stable")[:strongest]].tolist()
    similarity = np.clip(_whitened_similarity(release, np.array(rows)), 0, None)
    np.fill_diagonal(similarity, 0)
    grey = np.floor(255 * np.minimum(similarity / similarity.max(), 1) + 0.5).astype(np.uint8)
    factor = max(1, 480 // len(grey))
    return np.repeat(np.repeat(grey, factor, axis=0), factor, axis=1)[..., None].repeat(3, axis=2)


def eigenvector_plot(release: Release, result: AttackResult, pixel: tuple[int, int, int]) -> Figure:
    """The products of one pixel's values in pairs of private images, against the images that came of them.

    Parameters
    ----------
    pixel : (y, x, channel)
        In each image. The encryptions estimate the product of its values in images a and b; the recovered images
        give the same product again, and both agree when the matrix is of rank one.
    """
    from instahide_nb.show.plots import OKABE_ITO, style

    slots = read_slots(release.label, release.info.n_private)
    product, weight = pixel_matrix(release.encryption, slots, result.assignment, pixel)
    value = result.recovered[(slice(None), *pixel)]
    seen = np.triu(weight > np.quantile(weight[weight > 0], 0.5), 1)
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.0, 3.2), layout="constrained", facecolor="white")
        axis = figure.subplots()
        axis.plot(np.outer(value, value)[seen], product[seen], ".", color=OKABE_ITO[0], markersize=3)
        axis.plot([-1, 1], [-1, 1], color="#777777", linewidth=0.8)
        axis.set_xlabel("product of the pixel in the two recovered images")
        axis.set_ylabel("as estimated from the encryptions' squares")
        axis.set_ylim(-2, 2)
    return figure


def lifted_masks(release: Release, result: AttackResult, rows: npt.NDArray[np.int64]) -> UInt8:
    """Encryptions, and below each the same with its mask lifted as the attack inferred it."""
    signed = result.extras["signed"][rows]
    return grids.contact_sheet(np.concatenate([release.encryption[rows], signed]), columns=len(rows))


def error_rates(curve: list[list[int]]) -> Figure:
    """The share of wrong signs among the surest ones, as counted once the masks were known.

    Parameters
    ----------
    curve : list of [signs, wrong]
        ``details["sign_errors"]`` of `prng-state`, for growing numbers of signs. Where none is wrong, a hollow mark
        stands at one in so many: the rate is below it.
    """
    from instahide_nb.show.plots import OKABE_ITO, style

    count, wrong = np.array(curve, np.float64).T
    none = wrong == 0
    rate = np.where(none, 1, wrong) / count
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.0, 3.2), layout="constrained", facecolor="white")
        axis = figure.subplots()
        axis.plot(count[~none], 100 * rate[~none], "o-", color=OKABE_ITO[0], markersize=4, label="wrong")
        axis.plot(
            count[none],
            100 * rate[none],
            "v",
            color=OKABE_ITO[0],
            markersize=4,
            fillstyle="none",
            label="none wrong: below this",
        )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("how many of the surest are taken")
        axis.set_ylabel("wrong ones (%)")
        axis.legend()
    return figure


def rounds(result: AttackResult, *, images: int = 10) -> UInt8:
    """The first images after each stage of the attack, a row a stage."""
    history = [to_pixels(stage[:images]) for stage in result.extras["history"]]
    return grids.contact_sheet(np.concatenate(history), columns=min(images, len(history[0])))
