"""What the notebooks show: pictures in cell outputs, a slider over encryptions, and explanations of an attack.

:func:`show` puts a PNG with alternative text into the cell's output, and below it a line with the size and the hash of
its pixels. nbval compares the line, not the image: a changed pixel fails a check, a changed compressor does not.
Explanations return None if they do not apply to the attack or the challenge; ``show`` then says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from instahide_nb.attacks.result import AttackResult
from instahide_nb.challenge.release import Release
from instahide_nb.challenge.secret import Secret
from instahide_nb.core.arrays import Float32, Float64, Floats, Int64, UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import make_folder, sha256_array, write_bytes
from instahide_nb.core.progress import in_jupyterlab
from instahide_nb.evaluate.metrics import Match, Scores
from instahide_nb.evaluate.submission import AboutAttack
from instahide_nb.scheme.views import apply_views
from instahide_nb.show.grids import Images, absolute_pixels, contact_sheet, enlarge, png_bytes, to_pixels

if TYPE_CHECKING:  # plots load slowly, and no notebook needs them before its first plot
    import ipywidgets
    from matplotlib.figure import Figure

    from instahide_nb.attacks.unmask.attack import Unmask

Shown = TypeVar("Shown")
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
    picture: UInt8 | Figure | None, path: Path | str, alt: str = "", *, widget: dict[str, object] | None = None
) -> None:
    """Write a picture or plot as PNG, show it, and print its size and the hash of its pixels (not those of plots).

    None, or a picture without pixels, prints "nothing to show" and writes nothing. `alt` is the alternative text (the
    file's name by default); `widget` is the output of a widget, which some viewers show in place of the picture.
    """
    path = Path(path)
    if picture is None or (isinstance(picture, np.ndarray) and not picture.size):
        print(f"{path.name}: nothing to show here")
        return
    if isinstance(picture, np.ndarray):
        size = f"{picture.shape[1]} x {picture.shape[0]} pixels"
        data, line = png_bytes(picture), f"{size}, sha256 {sha256_array(picture)[:16]}"
    else:
        from instahide_nb.show.plots import figure_bytes

        data, line = figure_bytes(picture), "a plot"
    make_folder(path.parent)
    write_bytes(path, data)
    _display(data, alt or path.stem, widget)
    print(f"{path.name}: {line}")


def pick(draw: Draw, rows: int, path: Path | str, alt: str = "", *, row: int = 0) -> None:
    """Show encryption `row` as :func:`show` does and, in JupyterLab with ipywidgets, a slider to pick another.

    The file and the printed line are the same without the slider. An InputError says that there is no such row.
    """
    if not rows:
        show(None, path)
        return
    if not 0 <= row < rows:
        raise InputError(f"row: {row} is not among the {rows} encryptions; choose 0 .. {rows - 1}")
    box = slider(draw, rows, row) if in_jupyterlab() else None
    show(draw(row), path, alt, widget=box._repr_mimebundle_() if box is not None else None)


def slider(draw: Draw, rows: int, row: int = 0) -> ipywidgets.VBox | None:
    """A slider and a number field above a picture; None without ipywidgets."""
    try:
        import ipywidgets
    except ImportError:
        return None
    place = ipywidgets.IntSlider(row, 0, rows - 1, description="encryption", readout=False, layout={"width": "420px"})
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


def _masked(x: Float32) -> dict[str, Images]:
    return {"encryption": x, "absolute value": absolute_pixels(x)}


def composed(release: Release, secret: Secret, row: int) -> UInt8:
    """The images in encryption `row` with their coefficients, their mixture, the encryption and its |x|."""
    weighted = enumerate(zip(secret.coefficient[row], secret.inside(row), strict=True), 1)
    parts: dict[str, Images] = {f"{j}: {weight:.2f}": image for j, (weight, image) in weighted}
    x = release.encryption[row]
    signs = np.unpackbits(secret.mask[row], count=x.size).reshape(x.shape)
    parts["mixture"] = x * np.where(signs, np.float32(1), np.float32(-1))
    return _strip(parts | _masked(x))


def views(secret: Secret, *, image: int = 0) -> UInt8 | None:
    """A private image, and the views of it that were mixed in the first nine epochs; None without augmentation."""
    if secret.view is None:
        return None
    epochs, drawn = np.nonzero(secret.pair == image), secret.view
    _, first = np.unique(epochs[0] // len(secret.private), return_index=True)
    shown = np.stack([drawn[row, slot] for row, slot in np.stack(epochs, axis=1)[first[:9]]])
    mixed = apply_views(secret.private[[image] * len(shown)], shown)
    names = ["image"] + [f"epoch {e}: {dy}, {dx}" + ", flip" * flip for e, (dy, dx, flip) in enumerate(shown.tolist())]
    return contact_sheet(np.concatenate([secret.private[[image]], mixed]), names, columns=5, tile=_TILE)


def answered(release: Release, result: AttackResult, row: int) -> UInt8:
    """Encryption `row`, its absolute value, its decryption, and the images that the attack assigned to it.

    Where the attack inferred signs (``result.extras["signed"]``), the encryption with these signs too.
    """
    parts = _masked(release.encryption[row])
    if "signed" in result.extras:
        parts["mask lifted"] = result.extras["signed"][row]
    parts["decryption"] = result.decryption[row]
    return _strip(parts | {f"image {i}": result.recovered[i] for i in result.assignment[row] if i >= 0})


def scored(release: Release, secret: Secret, decryption: Floats, scores: Scores, row: int) -> UInt8:
    """Encryption `row`, its absolute value, its decryption, and its private images with their SSIM."""
    parts = _masked(release.encryption[row]) | {"decryption": decryption[row]}
    for slot, image in enumerate(secret.inside(row)[: secret.pair.shape[1]]):
        parts[f"private {slot + 1}: {scores.ssim[row, slot]:.3f}"] = image
    return _strip(parts)


def labels(release: Release, *, rows: int = 3) -> str:
    """The labels of the first encryptions in words."""
    if release.label is None:
        return "no labels are published"
    names = release.info.class_names or tuple(f"class {c}" for c in range(release.label.shape[1]))
    return "\n".join(", ".join(f"{names[c]} {row[c]:.7g}" for c in np.flatnonzero(row)) for row in release.label[:rows])


def own_report(result: AttackResult) -> str:
    """An attack's own estimates of its success, one per line."""
    details = result.details
    lines = [] if result.recovered_generator is not False else [f"generator not found: {result.reason}"]
    lines += [f"{count:>13,}  {name}" for name, count in details.get("funnel", {}).items()]
    if "bits_used" in details:
        right = f"{details['bits_agreeing']:,} of {details['bits_checked']:,}"
        lines.append(f"{details['bits_used']:,} equations from {details['bits_from']}; {right} other bits predicted")
    lines += [
        f"{wrong:,} of the {taken:,} most certain signs are wrong" for taken, wrong in details.get("sign_errors", [])
    ]
    if details.get("seed") is not None:
        lines.append(f"seed {details['seed']}")
    if "estimated_slot_accuracy" in details:
        right = f"{100 * details['estimated_slot_accuracy']:.1f} %"
        lines.append(f"private images identified, by its own estimate: {right}")
    return "\n".join(lines or ["nothing to report"])


def sign_agreement(images: UInt8) -> float:
    """How often two neighbouring values of images (n, h, w, 3), taken in [-1, 1], have the same sign."""
    light = images > 127
    agree = [light[:, 1:] == light[:, :-1], light[:, :, 1:] == light[:, :, :-1]]
    return sum(int(a.sum()) for a in agree) / sum(a.size for a in agree)


def similarities(release: Release, inside: Int64, *, encryptions: int = 1000) -> tuple[Float64, Float64]:
    """Correlations of whitened edge energies of pairs of encryptions: pairs that share a private image, and the others.

    `inside` (n, p) names the private images of each encryption. All pairs of the first `encryptions` rows are compared.
    """
    from instahide_nb.attacks.unmask.codes import product_table
    from instahide_nb.attacks.unmask.edges import edge_features, edge_filter, similarity

    n = min(encryptions, len(release.encryption))
    feature = edge_features(release.encryption, release.info.k > release.info.private_per_row)
    correlation = similarity(product_table(feature[:n], edge_filter(feature))).astype(np.float64)
    holds = np.zeros((n, int(inside.max()) + 1), np.int64)
    np.put_along_axis(holds, inside[:n], 1, axis=1)
    shared, upper = (holds @ holds.T) > 0, np.triu(np.ones((n, n), bool), 1)
    return correlation[shared & upper], correlation[~shared & upper]


def _two_rows(above: Images, below: Images) -> UInt8:
    return contact_sheet(np.concatenate([above, below]), columns=len(above))


def _grey(values: Floats) -> UInt8:
    """Values from 0 to their maximum as grey pixels."""
    level = np.floor(255 * np.clip(values / max(float(values.max()), 1e-9), 0, 1) + 0.5).astype(np.uint8)
    return level[..., None].repeat(3, axis=-1)


def _energy(feature: Float32) -> Float32:
    """Sum of the four edge energies of features (n, planes, h, w), from 0; without a mask, of the three channels."""
    total = np.zeros_like(feature[:, 0])
    for plane in range(min(4, feature.shape[1])):
        total += feature[:, plane]
    return total - total.min(axis=(1, 2), keepdims=True)


def _of_unmask(explain: Callable[..., Shown]) -> Callable[..., Shown | None]:
    """An explanation that is None if the attack is not `unmask`."""

    @wraps(explain)
    def explained(walk: Unmask | None, **options: int) -> Shown | None:
        return None if walk is None else explain(walk, **options)

    return explained


@_of_unmask
def edge_maps(walk: Unmask, *, rows: int = 10) -> UInt8:
    """The absolute values of the first encryptions, and below each the energy of its edges."""
    energy = _energy(walk.energies.feature[:rows])
    maps = np.zeros((len(energy), *walk.encryption.shape[1:]), np.uint8)
    maps[:, : energy.shape[1], : energy.shape[2]] = [_grey(one) for one in energy]
    return _two_rows(to_pixels(2 * np.abs(walk.encryption[:rows]) - 1), maps)


def _cropped(walk: Unmask) -> bool:
    """Whether encryptions show images at different places, so that they cannot be compared pixel by pixel."""
    return walk.now.mixtures.n_images > 2 * walk.now.known.n_images


@_of_unmask
def cluster_matrix(walk: Unmask) -> UInt8 | None:
    """Correlations of encryptions, sorted by their strongest image: bright squares are clusters.

    For each of the first 12 private images, the 12 encryptions with its largest coefficients are shown.
    """
    from instahide_nb.attacks.unmask.codes import product_table
    from instahide_nb.attacks.unmask.edges import similarity

    if _cropped(walk):
        return None
    held, share = walk.now.mixtures.assignment[:, 0] % walk.now.known.n_images, walk.now.mixtures.coefficient[:, 0]
    order = np.argsort(-share, kind="stable")
    chosen = np.concatenate([order[held[order] == i][:12] for i in range(min(12, walk.now.known.n_images))])
    table = similarity(product_table(walk.energies.feature[chosen], walk.energies.local))
    np.fill_diagonal(table, 0)
    return enlarge(_grey(table), max(1, 480 // len(chosen)))


@_of_unmask
def image_edges(walk: Unmask, *, images: int = 20) -> UInt8 | None:
    """Edge energies of private images, by least squares from those of the encryptions, before any sign is known."""
    if _cropped(walk):
        return None
    energy = _energy(walk.energies.fit(walk.now.mixtures).image[:images])
    return contact_sheet(np.stack([_grey(one) for one in energy]))


@_of_unmask
def product_plot(walk: Unmask) -> Figure | None:
    """Products of the central pixel (green) in pairs of private images: of the first images, and of encryptions.

    They agree if the matrix of products estimated from encryptions has rank one.
    """
    if walk.history[0][0] != "squares":
        return None
    from instahide_nb.attacks.unmask.squares import pixel_matrix
    from instahide_nb.show import plots

    y, x = walk.encryption.shape[1] // 2, walk.encryption.shape[2] // 2
    product, weight = pixel_matrix(walk.encryption, walk.now.mixtures, (y, x, 1))
    first = walk.history[0][1]
    value = np.concatenate([first[:, y, x, 1], first[:, y, -1 - x, 1]])[: len(product)]
    seen = np.triu(weight > np.quantile(weight[weight > 0], 0.5), 1)
    return plots.scatter_plot(
        np.outer(value, value)[seen],
        product[seen],
        size=(6.0, 3.0),
        reach=(-1, 1),
        xlabel="product of the pixel in two first images",
        ylabel="as estimated from the encryptions' squares",
        ylim=(-2, 2),
    )


@_of_unmask
def lifted_masks(walk: Unmask, *, rows: int = 10) -> UInt8 | None:
    """The first encryptions, and below each the same with the mask removed as the attack inferred it."""
    if not walk.masked:
        return None
    signed = np.ascontiguousarray(walk.now.signed[:rows].transpose(0, 2, 3, 1))
    return _two_rows(walk.encryption[:rows], signed)


def rounds(attack: Unmask | AttackResult | None, *, images: int = 10) -> UInt8 | None:
    """The first images after each stage, one row per stage, of `unmask` so far or of `carlini-*`."""
    history = attack.extras.get("history") if isinstance(attack, AttackResult) else attack and attack.history
    if not history:
        return None
    rows = [to_pixels(stage[:images]) for _, stage in history]
    return contact_sheet(np.concatenate(rows), columns=len(rows[0]))


@_of_unmask
def predicted_public(walk: Unmask, *, rows: int = 10) -> UInt8 | None:
    """The public part of the first encryptions, and below it the prediction from other rows."""
    if walk.now.expected is None:
        return None
    expected = walk.now.expected[:rows]
    rest = walk.now.residual(slice(0, rows)) + expected
    return _two_rows(2 * rest.transpose(0, 2, 3, 1), 2 * expected.transpose(0, 2, 3, 1))


def answers(release: Release, result: AttackResult, *, images: int = 10) -> UInt8 | None:
    """Encryptions evenly spaced in the release, and below each its decryption."""
    if not len(result.decryption):
        return None
    n = len(release.encryption)
    some = np.arange(0, n, max(1, n // images))[:images]
    return _two_rows(release.encryption[some], result.decryption[some])


def coefficients(secret: Secret, attack: AboutAttack, match: Match | None) -> Figure | None:
    """Estimated against true coefficients, for the private images that the attack assigned correctly."""
    if match is None or attack.recovered is None or attack.assignment is None or attack.coefficient is None:
        return None
    from instahide_nb.show.plots import scatter_plot

    number = np.full(len(attack.recovered), -1)
    number[match.place] = np.arange(len(match.place))
    same = number[attack.assignment][:, :, None] == secret.pair[:, None]
    row, guess, truth = np.nonzero(same)
    true, estimated = secret.coefficient[row, truth], attack.coefficient[row, guess]
    names = {"xlabel": "true coefficient", "ylabel": "estimated coefficient"}
    return scatter_plot(true, estimated, size=(4.5, 3.0), reach=(0, 1), xlim=(0, 0.8), ylim=(0, 0.8), **names)
