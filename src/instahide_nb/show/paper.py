"""The table of a sweep, read for a figure: scores of each attack against one parameter, all others held fixed.

How a paper wants its figures: two widths, PNG and PDF, embedded fonts, no dates, a caption beside each.

Fonts are embedded as TrueType. The same numbers and the same versions give the same bytes.

Figures for a paper, from the folder of a run: PNG at 300 dpi and PDF, one and two columns wide, with captions.

``make_figures`` writes for each figure ``NAME-1col.png``, ``NAME-1col.pdf``, ``NAME-2col.png``, ``NAME-2col.pdf``
and ``NAME.txt``, the caption, which says where the numbers come from and gives the hashes of those files.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from instahide_nb.challenge.release import Release, load_release
from instahide_nb.challenge.secret import Secret, load_secret
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, make_folder, sha256_file, write_bytes
from instahide_nb.core.progress import progress
from instahide_nb.evaluate.leaderboard import load_published, load_rows
from instahide_nb.evaluate.metrics import match_images
from instahide_nb.show import plots as figures
from instahide_nb.show.grids import absolute_pixels, quantile_rows, to_pixels

_PARAMETERS = ("k", "encryptions_per_image", "n_private", "rng", "scheme")
_LARGEST = 64 * 2**20


@dataclass(frozen=True)
class SweepSeries:
    """Scores against one parameter.

    Attributes
    ----------
    series : dict of str to dict of float to list of float
        For each attack and each value of the parameter, the scores of its runs in the table's order.
    fixed : str
        At which values the other varied parameters were held: " at k = 6", or nothing.
    runs, failed : int
        How many runs are in `series`, and how many of those wanted had no score.
    """

    series: dict[str, dict[float, list[float]]]
    fixed: str
    runs: int
    failed: int


def sweep_series(path: Path | str, parameter: str, *, metric: str = "max_ssim") -> SweepSeries | None:
    """Scores against a parameter, from a sweep's CSV.

    Parameters
    ----------
    path : Path or str
        A CSV with a line of names and a row per run: columns ``method``, the parameters and the metrics. A run that
        failed has an empty metric.
    parameter : str
        The parameter along the axis, a number.
    metric : str
        The score.

    Returns
    -------
    SweepSeries or None
        None when the parameter is not in the table or has one value only. Of every other parameter that varies the
        value with the most rows is kept (of several such, the largest), so that a curve shows the effect of one.

    Raises
    ------
    InputError
        When the file is missing or no such table, or holds a value that is not a number where one is needed.
    """
    file = Path(path)
    table = _read(file)
    for column in ("method", metric):
        if column not in table[0]:
            raise InputError(f"{file}: has no column {column}; name the table that instahide-nb sweep wrote")
    if len({row.get(parameter) for row in table} - {None, ""}) < 2:
        return None
    fixed = []
    for other in _PARAMETERS:
        counts = Counter(row[other] for row in table if row.get(other))
        if other != parameter and len(counts) > 1:
            value = max(counts, key=lambda text: (counts[text], _order(text)))
            table = [row for row in table if row.get(other) == value]
            fixed.append(f"{other} = {value}")
    series: dict[str, dict[float, list[float]]] = {}
    failed = 0
    for row in table:
        if not row[metric]:
            failed += 1
            continue
        x, y = (_number(file, column, row[column]) for column in (parameter, metric))
        series.setdefault(row["method"], {}).setdefault(x, []).append(y)
    runs = sum(len(scores) for runs_of in series.values() for scores in runs_of.values())
    return SweepSeries(series, f" at {', '.join(fixed)}" if fixed else "", runs, failed)


def _read(file: Path) -> list[dict[str, str]]:
    try:
        if file.stat().st_size > _LARGEST:
            raise InputError(f"{file}: is larger than 64 MiB; a sweep's table is not")
        with open(file, encoding="utf-8", newline="") as stream:
            table = [
                {k: v for k, v in row.items() if k is not None} for row in csv.DictReader(stream, restval="")
            ]
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; name the table that instahide-nb sweep wrote") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: is no CSV that can be read ({error}); make it again") from None
    if not table:
        raise InputError(f"{file}: holds no run; make it again")
    return table


def _order(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return -math.inf, text


def _number(file: Path, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{file}: column {column} holds {text!r}; a number is expected")
    return value


Images = npt.NDArray[np.uint8]
Draw = Callable[[float], Figure]
"""A figure drawn for a width in inches."""

WIDTHS = {"1col": 3.5, "2col": 7.16}
"""Inches: a column and the full width of a page in two-column proceedings."""

_DPI = 300
_NAME, _GAP, _CAPTION = 0.2, 0.03, 0.15  # inches: left of a row, between images, below images


def save_figure(draw: Draw, folder: Path, name: str, caption: str) -> list[Path]:
    """Draw a figure at both widths, and write it as PNG and PDF beside its caption."""
    from instahide_nb import __version__

    written = []
    for suffix, width in WIDTHS.items():
        figure = draw(width)
        for kind in ("png", "pdf"):
            buffer = io.BytesIO()
            # No date and, in the PNG, no version: the bytes follow from the numbers.
            metadata: dict[str, Any] = (
                {"Software": None} if kind == "png" else {"CreationDate": None, "Title": name}
            )
            with figures.style():
                figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
            written.append(folder / f"{name}-{suffix}.{kind}")
            write_bytes(written[-1], buffer.getvalue())
    written.append(folder / f"{name}.txt")
    made = f"Made by instahide-nb {__version__} with Matplotlib {matplotlib.__version__}."
    write_bytes(written[-1], f"{caption}\n{made}\n".encode())
    return written


def image_table(
    rows: Sequence[tuple[str, Sequence[Images]]], captions: Sequence[Sequence[str]], *, width: float
) -> Figure:
    """Rows of small images with a name at the left, and below the images of a row their captions.

    Parameters
    ----------
    rows : sequence of (str, sequence of uint8 (h, w, 3))
        Name and images of each row.
    captions : sequence of sequence of str
        For each row a text per image, or an empty sequence.
    width : float
        Inches.
    """
    columns = len(rows[0][1])
    height, wide = rows[0][1][0].shape[:2]
    cell = (width - _NAME - (columns - 1) * _GAP) / columns
    tall = cell * height / wide
    below = [_CAPTION if texts else _GAP for texts in captions]
    total = tall * len(rows) + sum(below) + _GAP
    with figures.style():
        figure = Figure(figsize=(width, total), facecolor="white")
        top = total - _GAP
        for (name, images), texts, space in zip(rows, captions, below, strict=True):
            middle = (top - tall / 2) / total
            figure.text(0.35 * _NAME / width, middle, name, fontsize=7, rotation=90, ha="center", va="center")
            for column, image in enumerate(images):
                left = _NAME + column * (cell + _GAP)
                box = (left / width, (top - tall) / total, cell / width, tall / total)
                axis = figure.add_axes(box)
                axis.imshow(
                    image, interpolation="none", aspect="auto"
                )  # a PDF then holds the pixels themselves
                axis.set_axis_off()
                if texts:
                    place = ((left + cell / 2) / width, (top - tall - 0.015) / total)
                    figure.text(*place, texts[column], fontsize=6, ha="center", va="top")
            top -= tall + space
    return figure


_PAIRS_OF = 1000  # encryptions whose similarities are shown: half a million pairs


Plan = tuple[str, Draw, str]
"""Name, drawing and caption of a figure."""


@dataclass(frozen=True)
class _Run:
    """What the figures need of a run."""

    path: Path
    release: Release
    secret: Secret
    methods: tuple[str, ...]  # best first

    def best_ssim(self, method: str) -> npt.NDArray[np.float64]:
        table = load_array(
            self.path / "evaluate" / method / "per_encryption.npy", dtype=np.float64, shape=(None, 4)
        )
        best: npt.NDArray[np.float64] = table[:, :2].max(axis=1)
        return best

    def source(self, *names: str) -> str:
        """Where numbers come from: the run's name, and each file with the start of its hash."""
        return f"Data: run {self.path.resolve().name}, " + ", ".join(
            f"{name} (sha256 {sha256_file(self.path / name)[:16]})" for name in names
        )


def make_figures(run: Path | str, out: Path | str, *, sweep: Path | str | None = None) -> list[Path]:
    """Make every figure that a run, and a sweep's table, have numbers for.

    Parameters
    ----------
    run : Path or str
        A run's folder, with one evaluated attack or more.
    out : Path or str
        Where the figures go; the folder is made.
    sweep : Path or str, optional
        The table of a sweep (CSV, a row per run): adds the score against k and against encryptions per image, where
        the sweep varied them.

    Returns
    -------
    list of Path
        The files, in the order in which they were written.

    Raises
    ------
    InputError
        When the run has no evaluated attack, or one of its files or the sweep's table is missing or damaged.
    """
    data = _open(Path(run))
    plans = [
        _comparison(data),
        _attacks_side_by_side(data),
        _ssim(data),
        _similarity(data),
        _leaderboard(data),
    ]
    if sweep is not None:
        plans += _quality(Path(sweep))
    folder = make_folder(out)
    written: list[Path] = []
    for name, draw, caption in progress(plans, desc="figures"):
        written += save_figure(draw, folder, name, caption)
    return written


def similarities(
    release: Release, secret: Secret, *, encryptions: int = _PAIRS_OF
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Energy correlations of pairs of encryptions that share a private image, and of pairs that share none.

    Parameters
    ----------
    release, secret : Release, Secret
        The two halves of a challenge.
    encryptions : int
        Pairs are taken among so many, the first ones.

    Returns
    -------
    same, different : float64 (m1,), (m2,)
    """
    from instahide_nb.attacks.unmask.energy import correlation, features

    n = min(encryptions, len(release.encryption))
    table = features(release.encryption)[:n]
    similarity = np.asarray(correlation(table, table), np.float64)
    holds = np.zeros((n, len(secret.private)), np.int64)
    inside = secret.pair[:n]
    if release.info.scheme == "inside":  # there the others are private images too
        inside = np.hstack([inside, secret.public_index[:n]])
    np.put_along_axis(holds, inside, 1, axis=1)
    shared = (holds @ holds.T) > 0
    upper = np.triu(np.ones((n, n), bool), 1)
    return similarity[shared & upper], similarity[~shared & upper]


def _open(path: Path) -> _Run:
    if not (path / "release").is_dir():
        raise InputError(
            f"{path}: is no run; make one first (make reproduce, or instahide-nb reproduce --out {path})"
        )
    release, secret = load_release(path / "release"), load_secret(path / "secret")
    found = [file.parent.name for file in sorted(path.glob("evaluate/*/per_encryption.npy"))]
    found = [name for name in found if (path / "attack" / name / "recovered.npy").is_file()]
    if not found:
        raise InputError(f"{path}: holds no evaluated attack; run instahide-nb reproduce first")
    run = _Run(path, release, secret, tuple(found))
    means = {name: float(run.best_ssim(name).mean()) for name in found}
    return _Run(path, release, secret, tuple(sorted(found, key=lambda name: (-means[name], name))))


def _columns(width: float) -> int:
    return 4 if width < 5 else 8


def _comparison(run: _Run) -> Plan:
    method = run.methods[0]
    decryption = load_array(run.path / "attack" / method / "decryption.npy", dtype=np.float32)
    table = load_array(
        run.path / "evaluate" / method / "per_encryption.npy", dtype=np.float64, shape=(None, 4)
    )
    nearer = (table[:, 1] > table[:, 0]).astype(np.int64)
    best = run.best_ssim(method)

    def draw(width: float) -> Figure:
        chosen = quantile_rows(best, _columns(width))
        encryption = run.release.encryption[chosen]
        rows = [
            ("private", list(run.secret.private[run.secret.pair[chosen, nearer[chosen]]])),
            ("encryption", list(to_pixels(encryption))),
            ("absolute", list(absolute_pixels(encryption))),
            ("decryption", list(to_pixels(decryption[chosen]))),
        ]
        return image_table(rows, [[], [], [], [f"{best[i]:.3f}" for i in chosen]], width=width)

    caption = (
        "Encryptions from the best decrypted (left) to the worst (right), evenly spaced in rank among "
        f"{len(best):,}: the private image that the decryption is nearer to, the encryption, its absolute value, and "
        f"the decryption by {method}. Numbers: SSIM over [0, 1]. Encryptions are shown from -1 (black) to 1 (white), "
        "absolute values from 0 to 1. "
    )
    files = (
        "release/encryption.npy",
        f"attack/{method}/decryption.npy",
        f"evaluate/{method}/per_encryption.npy",
    )
    return "comparison", draw, caption + run.source(*files, "secret/private.npy") + "."


def _attacks_side_by_side(run: _Run) -> Plan:
    private = run.secret.private
    files = [f"attack/{method}/recovered.npy" for method in run.methods]
    recovered = [load_array(run.path / file, dtype=np.float32, shape=(None, None, None, 3)) for file in files]
    matched = [match_images(images, private) for images in recovered]
    total = np.zeros(len(private))
    for _, ssim in matched:
        total += ssim

    def draw(width: float) -> Figure:
        chosen = quantile_rows(total, _columns(width))
        rows = [("private", list(private[chosen]))]
        captions: list[list[str]] = [[]]
        for method, images, (place, ssim) in zip(run.methods, recovered, matched, strict=True):
            rows.append((method, list(to_pixels(images[place[chosen]]))))
            captions.append([f"{ssim[i]:.3f}" for i in chosen])
        return image_table(rows, captions, width=width)

    means = ", ".join(f"{m} {float(s.mean()):.3f}" for m, (_, s) in zip(run.methods, matched, strict=True))
    caption = (
        "Private images and what each attack recovered of them, evenly spaced in rank by mean SSIM over attacks. "
        f"Below each its SSIM over [0, 1]; mean over all {len(private)} images: {means}. "
    )
    return "attacks", draw, caption + run.source(*files, "secret/private.npy") + "."


def _ssim(run: _Run) -> Plan:
    best = {method: run.best_ssim(method) for method in run.methods}
    caption = "SSIM over [0, 1] of each decryption to the nearer of its private images, as shares of all encryptions. "
    files = [f"evaluate/{method}/per_encryption.npy" for method in run.methods]

    def draw(width: float) -> Figure:
        return figures.ssim_histogram(best, width=width)

    return "ssim", draw, caption + run.source(*files) + "."


def _similarity(run: _Run) -> Plan:
    same, different = similarities(run.release, run.secret)
    among = min(_PAIRS_OF, len(run.release.encryption))
    caption = (
        "Correlation of the energies of local differences, for pairs of encryptions that share a private image "
        f"({len(same):,} pairs) and that share none ({len(different):,} pairs), among the first {among:,} "
        "encryptions. d′ is the distance of the means in standard deviations. "
    )

    def draw(width: float) -> Figure:
        return figures.similarity_histogram(same, different, width=width)

    return "similarity", draw, caption + run.source("release/encryption.npy", "secret/pair.npy") + "."


def _leaderboard(run: _Run) -> Plan:
    rows = load_published() + load_rows(run.path / f"evaluate/{method}/row.json" for method in run.methods)
    caption = (
        "Max_SSIM of attacks. Measured here (filled): on this run's challenge. Reported (hatched): by their authors "
        "on the challenge of 2020, https://arxiv.org/abs/2011.05315. "
    )

    def draw(width: float) -> Figure:
        return figures.attack_comparison(rows, width=width)

    # The rows hold wall times, so what is named is where their figures come from.
    metrics = [f"evaluate/{method}/metrics.json" for method in run.methods]
    return "leaderboard", draw, caption + run.source(*metrics) + "."


def _quality(sweep: Path) -> list[Plan]:
    plans: list[Plan] = []
    for parameter, label in (
        ("k", "images mixed, k"),
        ("encryptions_per_image", "encryptions per private image"),
    ):
        found = sweep_series(sweep, parameter)
        if found is None:
            continue

        def draw(width: float, found: Any = found, label: str = label) -> Figure:
            return figures.quality_curve(found.series, xlabel=label, width=width)

        caption = (
            f"Max_SSIM against {label}{',' if found.fixed else ''}{found.fixed}. "
            f"Lines join the means of {found.runs} runs; bars go from the worst to the best run. "
            f"Runs that failed and are left out: {found.failed}. "
            f"Data: {sweep.name} (sha256 {sha256_file(sweep)[:16]})."
        )
        plans.append((f"quality-{parameter.replace('_', '-')}", draw, caption))
    if not plans:
        raise InputError(f"{sweep}: varies neither k nor encryptions_per_image; name a sweep that does")
    return plans
