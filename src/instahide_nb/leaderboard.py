"""The leaderboard: the rows published in 2020, those of this run, and the tables made from them.

The published rows ship in the package, a JSON file each (``published/``); see :mod:`instahide_nb.leaderboard_row` for
what a row holds. Reported and measured figures stand in one table and are told apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict
from importlib.resources import files

from instahide_nb.leaderboard_row import Row, load_rows, measured_row, parse_row, save_row
from instahide_nb.metrics import METRICS, Scores

__all__ = [
    "Row",
    "load_published",
    "load_rows",
    "markdown_table",
    "measured_row",
    "parse_row",
    "rank",
    "save_row",
    "score_table",
    "sort_rows",
    "to_json",
    "to_markdown",
    "to_text",
]


def load_published() -> list[Row]:
    """The rows published on the challenge's leaderboard in 2020, best first.

    Examples
    --------
    >>> [(row.attack, row.max_ssim) for row in load_published()]
    [('PRNG attack', 0.98), ('Carlini et al. ver.1', 0.9), ('Carlini et al. ver.2', 0.79)]
    """
    folder = files("instahide_nb") / "published"
    found = sorted(
        (item for item in folder.iterdir() if item.name.endswith(".json")), key=lambda item: item.name
    )
    return sort_rows(parse_row(json.loads(item.read_text(encoding="utf-8")), item.name) for item in found)


def sort_rows(rows: Iterable[Row]) -> list[Row]:
    """Best first: by max_ssim, then mean_ssim, then the smaller min_l2; rows that tie in all go by name."""
    return sorted(
        rows, key=lambda row: (-row.max_ssim, -row.mean_ssim, row.min_l2, row.attack, row.challenge)
    )


def rank(max_ssim: float, rows: Iterable[Row]) -> int:
    """The place that a score takes among `rows`: 1 and the number of rows with a larger max_ssim.

    Examples
    --------
    >>> rank(0.95, load_published())
    2
    """
    return 1 + sum(row.max_ssim > max_ssim for row in rows)


def to_json(rows: Iterable[Row]) -> str:
    """What ``leaderboard.json`` holds: ``{"rows": [...]}``, best first."""
    content = {"rows": [asdict(row) for row in sort_rows(rows)]}
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


_TITLES = {
    "max_ssim": "Max_SSIM",
    "mean_ssim": "Mean_SSIM",
    "min_l2": "Min_L2",
    "max_l2": "Max_L2",
    "mean_l2": "Mean_L2",
}
_BEHIND = ("Complexity", "Time", "Hardware", "Challenge", "Date")
_HEADINGS = ("#", "Attack", "Figures", *(_TITLES[name] for name in METRICS), *_BEHIND)
_COSTS = {"Complexity", "Time", "Hardware"}
_NUMERIC = {"#", *_TITLES.values()}


def to_markdown(rows: Iterable[Row], *, costs: bool = True) -> str:
    """The table in Markdown, aligned for reading as plain text too; measured attacks are in bold.

    Parameters
    ----------
    rows : iterable of Row
        In any order.
    costs : bool
        False leaves out complexity, time and hardware.
    """
    ordered = sort_rows(rows)
    kept = [i for i, heading in enumerate(_HEADINGS) if costs or heading not in _COSTS]
    headings = [_HEADINGS[i] for i in kept]
    cells = [_cells(str(place), row) for place, row in enumerate(ordered, 1)]
    lines = [markdown_table(headings, [[entry[i] for i in kept] for entry in cells], _NUMERIC), ""]
    lines += [
        "Reported: the authors' figures for the challenge of 2020, from its leaderboard (they gave no Max_L2). "
        "Measured, in bold: by this package, on the challenge whose encryptions have the sha256 that begins as shown.",
    ]
    lines += [f"\n{_escape(row.attack)}: {_escape(row.note)}" for row in ordered if row.note]
    return "\n".join(lines) + "\n"


def markdown_table(headings: Sequence[str], body: Iterable[Sequence[str]], right: Container[str] = ()) -> str:
    """Aligned lines of a Markdown table; the columns named in `right` are set to the right.

    Examples
    --------
    >>> print(markdown_table(["what", "time"], [["attack", "9 s"]], right=["time"]))
    | what   | time |
    | ------ | ---: |
    | attack |  9 s |
    """
    table = [list(headings), *(list(cells) for cells in body)]
    widths = [max(3, *(len(cells[i]) for cells in table)) for i in range(len(headings))]
    table.insert(
        1,
        ["-" * (w - 1) + ":" if h in right else "-" * w for h, w in zip(headings, widths, strict=True)],
    )
    lines = []
    for cells in table:
        padded = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(cells, widths, headings, strict=True)
        ]
        lines.append("| " + " | ".join(padded) + " |")
    return "\n".join(lines)


def _cells(place: str, row: Row) -> list[str]:
    digits = 2 if row.kind == "reported" else 3
    title = _escape(row.attack)
    if row.source.startswith(("https://", "http://")):
        title = f"[{title}]({row.source})"
    figures = ["–" if getattr(row, name) is None else f"{getattr(row, name):.{digits}f}" for name in METRICS]
    return [
        place,
        f"**{title}**" if row.kind == "measured" else title,
        row.kind,
        *figures,
        _escape(row.complexity),
        _escape(row.time),
        _escape(row.hardware),
        row.challenge if row.challenge == "2020" else f"`{row.challenge[:8]}`",
        row.date,
    ]


def _escape(text: str) -> str:
    """Text that neither ends a cell nor starts a link, emphasis or HTML."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


def to_text(rows: Iterable[Row]) -> str:
    """A short table without times, for places where the same text is expected each time."""
    lines = [
        f"    {'attack':<22} {'figures':<9} {'Max_SSIM':>8} {'Mean_SSIM':>9} {'Min_L2':>7} {'Mean_L2':>8}"
    ]
    for place, row in enumerate(sort_rows(rows), 1):
        four = f"{row.max_ssim:8.2f} {row.mean_ssim:9.2f} {row.min_l2:7.2f} {row.mean_l2:8.2f}"
        lines.append(f"{place:>2}  {row.attack:<22} {row.kind:<9} {four}")
    return "\n".join(lines)


def score_table(scores: Scores, rows: Iterable[Row] | None = None) -> str:
    """The answer of ``instahide-nb score``: the figures in both readings of SSIM, and the place they would take.

    Parameters
    ----------
    scores : Scores
        From :func:`instahide_nb.metrics.score`.
    rows : iterable of Row, optional
        Rows to be ranked among; the published ones when left out.
    """
    metrics = scores.metrics()
    others = sort_rows(load_published() if rows is None else rows)
    place = rank(metrics["max_ssim"], others)
    lines = []
    for name in METRICS:
        signed = (
            f"   ({metrics[name + '_signed']:.4f} with images in [-1, 1])" if name.endswith("ssim") else ""
        )
        lines.append(f"{_TITLES[name]:<10} {metrics[name]:.4f}{signed}")
    above = others[place - 2] if place > 1 else None
    tail = f", below {above.attack} ({above.max_ssim:.2f})" if above else ", above all others"
    lines.append(f"{'Rank':<10} {place} of {len(others) + 1}{tail if others else ''}")
    return "\n".join(lines)
