"""One row of the leaderboard: its fields, its file and the check of both.

A row is one JSON file. Reported rows say what their authors wrote about the challenge of 2020; measured rows what
:mod:`instahide_nb.metrics` found on the challenge whose encryptions have the given sha256. Measured rows hold wall
times, so they do not belong among a run's hashed files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from instahide_nb.errors import InputError
from instahide_nb.metrics import METRICS
from instahide_nb.storage import read_json, write_json

__all__ = ["Row", "duration", "load_rows", "measured_row", "parse_row", "platform_text", "save_row"]

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
        See :mod:`instahide_nb.metrics`. ``max_l2`` is None where the authors gave none (reported rows only).
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
        Content of ``metrics.json``, or :meth:`instahide_nb.metrics.Scores.metrics`.
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
