"""Figures for a paper, from the folder of a run: PNG at 300 dpi and PDF, one and two columns wide.

Beside ``NAME-1col.png``, ``.pdf`` and ``NAME-2col.png``, ``.pdf`` there is ``NAME.txt``, a caption that names the data
files and their hashes. Fonts are embedded as TrueType. The same data and versions give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from instahide_nb import __version__
from instahide_nb.challenge.release import Release, load_release
from instahide_nb.challenge.secret import Secret, load_secret
from instahide_nb.core.arrays import Float32, Float64
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, make_folder, sha256_file, write_bytes
from instahide_nb.core.progress import progress
from instahide_nb.evaluate.leaderboard import load_published, load_rows
from instahide_nb.show import plots
from instahide_nb.show.grids import Comparison, compare_attacks, compare_encryptions
from instahide_nb.show.notebook import similarities

if TYPE_CHECKING:
    from pandas import DataFrame

WIDTHS = {"1col": 3.5, "2col": 7.16}
"""Inches: one column, and the full width of a page of two columns."""

_DPI = 300
_PARAMETERS = ("k", "encryptions_per_image", "n_private", "rng", "scheme")
_AXES = ("k", "encryptions_per_image")


class Plan(NamedTuple):
    """A figure to be drawn: its name, a function of its `width` in inches, and its caption."""

    name: str
    draw: Callable[..., Figure]
    caption: str


def sweep_table(path: Path | str) -> DataFrame:
    """The CSV table of ``instahide-nb sweep``; an InputError if the file is missing or not such a table."""
    import pandas

    try:
        table = pandas.read_csv(path)
        for column in ("max_ssim", *table.columns.intersection(_AXES)):
            table[column] = pandas.to_numeric(table[column])
        table["method"] = table["method"].astype(str)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the table that instahide-nb sweep wrote") from None
    except (OSError, ValueError, KeyError) as error:
        wrong = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: is not the table of a sweep ({wrong}); run the sweep again") from None
    if table.empty:
        raise InputError(f"{path}: contains no run; run the sweep again")
    return table


def hold_others(table: DataFrame, parameter: str) -> tuple[DataFrame, str]:
    """The rows in which every other parameter has its most frequent (or largest) value; these values in words."""
    fixed = []
    for other in table.columns.intersection([name for name in _PARAMETERS if name != parameter]):
        counts = table[other].value_counts()
        if len(counts) > 1:
            value = counts.index[counts == counts.max()].max()
            table = table[table[other] == value]
            fixed.append(f"{other} = {value}")
    return table, f", at {', '.join(fixed)}" if fixed else ""


def save_figure(plan: Plan, folder: Path) -> list[Path]:
    """Draw a figure at both widths, and write it as PNG and PDF beside its caption."""
    written = []
    for suffix, width in WIDTHS.items():
        figure = plan.draw(width=width)
        for kind in ("png", "pdf"):
            written.append(folder / f"{plan.name}-{suffix}.{kind}")
            write_bytes(written[-1], plots.figure_bytes(figure, kind=kind, dpi=_DPI, title=plan.name))
    written.append(folder / f"{plan.name}.txt")
    made = f"Made by instahide-nb {__version__} with Matplotlib {matplotlib.__version__}."
    write_bytes(written[-1], f"{plan.caption}\n{made}\n".encode())
    return written


@plots.styled
def image_table(compare: Callable[[int], Comparison], *, width: float) -> Figure:
    """A table of small images: a row for each column of a `Comparison`, with its name at the left and SSIM below.

    `width` is in inches; `compare` takes the number of images.
    """
    shown = compare(4 if width < 5 else 8)
    rows, columns = len(shown.images), len(shown.chosen)
    height, wide = next(iter(shown.images.values())).shape[1:3]
    tall = rows * (width - 0.2) / columns * height / wide + 0.13 * len(shown.ssim)  # captions below some rows
    figure = Figure(figsize=(width, tall), layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0))
    axes = figure.subplots(rows, columns, squeeze=False)
    for line, (name, images) in zip(axes, shown.images.items(), strict=True):
        line[0].set_ylabel(name.removesuffix(" image").removesuffix(" value"), fontsize=7)
        for column, (axis, image) in enumerate(zip(line, images, strict=True)):
            axis.imshow(image, interpolation="none")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if name in shown.ssim:
                axis.set_xlabel(f"{shown.ssim[name][column]:.3f}", fontsize=6, labelpad=1)
    return figure


@dataclass(frozen=True)
class _Run:
    """The data of a run that figures need; `ssim` (n, p) by method, from the best to the worst."""

    path: Path
    release: Release
    secret: Secret
    ssim: dict[str, Float64]

    def array(self, name: str) -> Float32:
        return load_array(self.path / name, dtype=np.float32, shape=(None, None, None, 3))

    def source(self, *names: str) -> str:
        """The run's name, and each file with the start of its hash."""
        files = ", ".join(f"{name} (sha256 {sha256_file(self.path / name)[:16]})" for name in names)
        return f" Data: run {self.path.resolve().name}, {files}."


def _open(path: Path) -> _Run:
    if not (path / "release").is_dir():
        raise InputError(f"{path}: is not a run; make one with instahide-nb reproduce --out {path}")
    release, secret = load_release(path / "release"), load_secret(path / "secret")
    ssim = {}
    for file in path.glob("evaluate/*/per_encryption.npy"):
        name = file.parent.name
        if (path / "attack" / name / "recovered.npy").is_file():
            table = load_array(file, dtype=np.float64, shape=(len(release.encryption), None))
            ssim[name] = table[:, : table.shape[1] // 2]
    if not ssim:
        raise InputError(f"{path}: contains no evaluated attack; run instahide-nb reproduce first")
    order = sorted(ssim, key=lambda name: (-float(ssim[name].max(axis=1).mean()), name))
    return _Run(path, release, secret, {name: ssim[name] for name in order})


def make_figures(run: Path | str, out: Path | str, *, sweep: Path | str | None = None) -> list[Path]:
    """Make all figures of a run and of the CSV table of a sweep over k or encryptions per image; return the files.

    An InputError says that the run has no evaluated attack, or that a file is missing or damaged.
    """
    data = _open(Path(run))
    makers = (_comparison, _attacks, _ssim, _similarity, _leaderboard)
    plans = [maker(data) for maker in makers] + (_quality(Path(sweep)) if sweep is not None else [])
    folder = make_folder(out)
    return [path for plan in progress(plans, desc="figures") for path in save_figure(plan, folder)]


def _comparison(run: _Run) -> Plan:
    method, ssim = next(iter(run.ssim.items()))
    files = (f"attack/{method}/decryption.npy", f"evaluate/{method}/per_encryption.npy")
    arrays = run.release.encryption, run.array(files[0]), *run.secret.mixed(), ssim
    caption = (
        "Encryptions from the best decrypted (left) to the worst (right), evenly spaced in rank among "
        f"{len(ssim):,}: the private image with the larger SSIM, the encryption, its absolute value, and the "
        f"decryption by {method}. Numbers: SSIM over [0, 1]. Encryptions are shown from -1 (black) to 1 (white), "
        "absolute values from 0 to 1."
    )
    source = run.source("release/encryption.npy", *files, "secret/private.npy")
    return Plan("comparison", partial(image_table, partial(compare_encryptions, *arrays)), caption + source)


def _attacks(run: _Run) -> Plan:
    private, files = run.secret.private, {method: f"attack/{method}/recovered.npy" for method in run.ssim}
    recovered = {method: run.array(file) for method, file in files.items()}
    compare = partial(compare_attacks, private, recovered, augment=run.secret.augment)
    means = ", ".join(f"{method} {mean:.3f}" for method, mean in compare(1).mean.items())
    caption = (
        "Private images and what each attack recovered of them, evenly spaced in rank by mean SSIM over attacks. "
        f"Below each its SSIM over [0, 1]; mean over all {len(private)} images: {means}."
    )
    return Plan("attacks", partial(image_table, compare), caption + run.source(*files.values(), "secret/private.npy"))


def _ssim(run: _Run) -> Plan:
    caption = "SSIM over [0, 1] of each decryption with the nearer of its private images, as shares of all encryptions."
    best = {method: ssim.max(axis=1) for method, ssim in run.ssim.items()}
    files = [f"evaluate/{method}/per_encryption.npy" for method in run.ssim]
    return Plan("ssim", partial(plots.ssim_histogram, best), caption + run.source(*files))


def _similarity(run: _Run) -> Plan:
    among = min(1000, len(run.release.encryption))
    same, different = similarities(run.release, run.secret.pair, encryptions=among)
    caption = (
        "Correlation of the whitened energies of local differences, for pairs of encryptions that share a private "
        f"image ({len(same):,} pairs) and that share none ({len(different):,} pairs), among the first {among:,} "
        "encryptions. d′ is the difference of the means in standard deviations."
    )
    source = run.source("release/encryption.npy", "secret/pair.npy")
    return Plan("similarity", partial(plots.similarity_histogram, same, different), caption + source)


def _leaderboard(run: _Run) -> Plan:
    rows = load_published() + load_rows(run.path / f"evaluate/{method}/row.json" for method in run.ssim)
    caption = (
        "Max_SSIM of attacks. Measured here (filled): on this run's challenge. Reported (hatched): by their authors "
        "on the challenge of 2020, https://arxiv.org/abs/2011.05315."
    )
    # Rows hold wall times, so the files named are those that their scores come from.
    source = run.source(*(f"evaluate/{method}/metrics.json" for method in run.ssim))
    return Plan("leaderboard", partial(plots.attack_comparison, rows), caption + source)


def _quality(sweep: Path) -> list[Plan]:
    plans: list[Plan] = []
    table = sweep_table(sweep)
    for parameter in table.columns.intersection(_AXES):
        if table[parameter].nunique() < 2:
            continue
        kept, fixed = hold_others(table, parameter)
        failed = int(kept["max_ssim"].isna().sum())
        caption = (
            f"Max_SSIM against {plots.title_of(parameter)}{fixed}. Lines join the means of {len(kept) - failed} runs; "
            f"bars go from the worst to the best run. Failed runs, left out: {failed}. "
            f"Data: {sweep.name} (sha256 {sha256_file(sweep)[:16]})."
        )
        name = f"quality-{parameter.replace('_', '-')}"
        plans.append(Plan(name, partial(plots.sweep_plot, kept, parameter), caption))
    if not plans:
        raise InputError(f"{sweep}: varies neither k nor encryptions_per_image; choose a sweep that does")
    return plans
