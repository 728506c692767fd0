"""One row of the leaderboard: its fields, its file and the check of both.

A row is one JSON file. Reported rows say what their authors wrote about the challenge of 2020; measured rows what
`metrics` found on the challenge whose encryptions have the given sha256. Measured rows hold wall
times, so they do not belong among a run's hashed files.

The leaderboard: the rows published in 2020, those of this run, and the tables made from them.

The published rows ship in the package, a JSON file each (``published/``); see `leaderboard` for
what a row holds. Reported and measured figures stand in one table and are told apart.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import read_json, write_json
from instahide_nb.evaluate.metrics import METRICS, Scores

_TEXTS = ("attack", "source", "date", "complexity", "time", "hardware", "kind", "challenge", "note")
_MAY_BE_EMPTY = ("note",)
_SSIM_RANGE, _L2_RANGE = (-1.0, 1.0), (0.0, 4.0)


@dataclass(frozen=True)
class Row:
    """One row of the leaderboard; the fields are those of its JSON file.

    Attributes
    ----------
    attack : str
        Name, as shown.
    source : str
        Where the attack is described: an address, or the package and its version.
    date : str
        YYYY-MM-DD: of the submission (reported) or of the run (measured).
    complexity : str
        In the number of encryptions E and of pixels d, as the authors state it.
    time, hardware : str
        What the attack took, and on what, in words.
    kind : {"reported", "measured"}
        Whether the figures are the authors' or this package's.
    challenge : str
        "2020", or the sha256 of the array of encryptions.
    max_ssim, mean_ssim, min_l2, max_l2, mean_l2 : float
        See `metrics`. ``max_l2`` is None where the authors gave none (reported rows only).
    recovered_generator : bool or None
        Whether an attack on the random generator found its seed or state; None for attacks that do not try.
    note : str
        Shown below the table; empty for none.
    """

    attack: str
    source: str
    date: str
    complexity: str
    time: str
    hardware: str
    kind: str
    challenge: str
    max_ssim: float
    mean_ssim: float
    min_l2: float
    max_l2: float | None
    mean_l2: float
    recovered_generator: bool | None = None
    note: str = ""


def parse_row(content: Mapping[str, Any], name: str = "row") -> Row:
    """Check the content of a row's file, field by field.

    Raises
    ------
    InputError
        Names the file (`name`) and the first field that is missing, unknown, of the wrong type or out of range.
    """

    def refuse(field: str, mend: str) -> InputError:
        return InputError(f"{name}: field {field!r} {mend}")

    known = {field.name for field in fields(Row)}
    for field in sorted(known - content.keys()):
        raise refuse(field, "is missing; every field of a row must be there")
    for field in sorted(content.keys() - known):
        raise refuse(field, "is unknown; remove it")
    for field in _TEXTS:
        value = content[field]
        if not isinstance(value, str) or not (value.strip() or field in _MAY_BE_EMPTY):
            raise refuse(field, f"is {value!r}; text is expected")
        if "\n" in value:
            raise refuse(field, "has several lines; one line is expected")
    if content["kind"] not in ("reported", "measured"):
        raise refuse("kind", f"is {content['kind']!r}; 'reported' or 'measured' is expected")
    try:
        good_date = date.fromisoformat(content["date"]).isoformat() == content["date"]
    except ValueError:
        good_date = False
    if not good_date:
        raise refuse("date", f"is {content['date']!r}; a day as YYYY-MM-DD is expected")
    if not re.fullmatch(r"2020|[0-9a-f]{64}", content["challenge"]):
        raise refuse(
            "challenge", f"is {content['challenge']!r}; '2020' or a sha256 of 64 hex digits is expected"
        )
    for field in METRICS:
        _check_figure(field, content, refuse)
    if content["recovered_generator"] is not None and not isinstance(content["recovered_generator"], bool):
        raise refuse("recovered_generator", "must be true, false or null")
    figures = {field: None if content[field] is None else float(content[field]) for field in METRICS}
    return Row(**{**content, **figures})


def _check_figure(field: str, content: Mapping[str, Any], refuse: Any) -> None:
    value = content[field]
    if value is None and field == "max_l2" and content["kind"] == "reported":
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise refuse(field, f"is {value!r}; a number is expected")
    low, high = _SSIM_RANGE if field.endswith("ssim") else _L2_RANGE
    if not low <= value <= high:
        raise refuse(field, f"is {value!r}; a number from {low:g} to {high:g} is expected")


def load_rows(paths: Iterable[Path | str]) -> list[Row]:
    """Read rows from their JSON files; the first bad one is an :class:`InputError` that names file and field."""
    return [parse_row(read_json(path), str(path)) for path in paths]


def save_row(path: Path | str, row: Row) -> None:
    """Write a row as its JSON file."""
    write_json(path, asdict(row))


def measured_row(
    metrics: Mapping[str, float],
    attack: Mapping[str, Any],
    *,
    challenge: str,
    name: str | None = None,
    source: str | None = None,
    day: str | None = None,
    note: str = "",
) -> Row:
    """The row of an evaluated attack.

    Parameters
    ----------
    metrics : mapping
        Content of ``metrics.json``, or :meth:`instahide_nb.evaluate.metrics.Scores.metrics`.
    attack : mapping
        Content of ``attack.json``: ``method``, ``complexity``, ``seconds`` (per stage), ``platform``, and for attacks
        on the generator ``recovered``. What is missing is shown as "not stated".
    challenge : str
        sha256 of the array of encryptions, or "2020".
    name, source, day, note : str, optional
        Override the method's name, "instahide-nb VERSION", today's date (UTC) and the empty note.
    """
    from instahide_nb import __version__

    title = name or str(attack.get("method") or "unnamed")
    recovered = attack.get("recovered")
    content = {
        "attack": title,
        "source": source or f"instahide-nb {__version__}",
        "date": day or datetime.now(UTC).date().isoformat(),
        "complexity": str(attack.get("complexity") or "not stated"),
        "time": duration(attack.get("seconds")),
        "hardware": platform_text(attack.get("platform")),
        "kind": "measured",
        "challenge": challenge,
        "recovered_generator": recovered,
        "note": note or ("The generator's seed or state was not found." if recovered is False else ""),
        **{field: metrics.get(field) for field in METRICS},
    }
    return parse_row(content, f"the row of {title}")


def duration(seconds: object) -> str:
    """Wall time in words, from seconds or from a mapping of seconds per stage.

    Examples
    --------
    >>> duration({"energy": 61.2, "images": 30})
    '1 min 31 s'
    >>> duration(7.04), duration(3 * 3600 + 120), duration(None), duration({})
    ('7.0 s', '3 h 2 min', 'not stated', 'not stated')
    """
    if isinstance(seconds, Mapping):
        if not seconds:
            return "not stated"
        # A total beside its stages would count everything twice.
        seconds = seconds["total"] if "total" in seconds else math.fsum(float(s) for s in seconds.values())
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        return "not stated"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


def platform_text(platform: object) -> str:
    """One line for a platform given as text or as a mapping of properties."""
    if isinstance(platform, Mapping):
        platform = ", ".join(
            f"{key}: {value}" if isinstance(value, (int, float)) else str(value)
            for key, value in platform.items()
            if value not in (None, "")
        )
    return " ".join(str(platform or "").split()) or "not stated"


def load_published() -> list[Row]:
    """The rows published on the challenge's leaderboard in 2020, best first.

    Examples
    --------
    >>> [(row.attack, row.max_ssim) for row in load_published()]
    [('PRNG attack', 0.98), ('Carlini et al. ver.1', 0.9), ('Carlini et al. ver.2', 0.79)]
    """
    folder = files("instahide_nb.evaluate") / "published"
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
        From :func:`instahide_nb.evaluate.metrics.score`.
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
