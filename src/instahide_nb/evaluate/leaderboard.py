"""The leaderboard: the rows published in 2020, the rows of a run, and tables of both.

A row is one JSON file; the published ones are in ``published/``. Reported rows are what the authors stated about the
challenge of 2020. Measured rows are results of `metrics` on the challenge whose encryptions have the given sha256; they
contain wall times, so they are never hashed.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from instahide_nb import __version__
from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.core.errors import InputError, naming
from instahide_nb.core.files import make_folder, read_json, save_array, sha256_array, write_json
from instahide_nb.core.params import Record
from instahide_nb.core.progress import duration
from instahide_nb.evaluate.metrics import METRICS, TITLES, Scores

_Line = Annotated[str, Field(pattern=r"^[^\n]*$")]
_Text = Annotated[str, Field(pattern=r"^[^\n]*\S[^\n]*$")]
_Ssim = Annotated[float | None, Field(ge=-1, le=1)]
_L2 = Annotated[float | None, Field(ge=0, le=4)]
_NOT_STATED = "not stated"
_FORM = {
    "labels": "labels",
    "augment": "augmentation",
    "scheme": "scheme",
    "private_per_row": "private images per encryption",
}
_USUAL = ReleaseInfo()


class Row(Record):
    """One row of the leaderboard; the fields are those of its JSON file."""

    attack: _Text  # name, as shown
    source: _Text  # where the attack is described: an address, or the package and its version
    date: _Text  # YYYY-MM-DD, of the submission (reported) or of the run (measured)
    complexity: _Text  # in the number of encryptions E and of pixels d, as the authors state it
    time: _Text  # wall time in words
    hardware: _Text
    kind: Literal["reported", "measured"]  # by the authors, by this package
    challenge: Annotated[str, Field(pattern=r"^(2020|[0-9a-f]{64})$")]  # sha256 of the array of encryptions
    labels: Literal["coefficients", "classes", "none"] = "coefficients"  # what the attack was given
    augment: Literal["none", "flip", "crop", "crop_flip"] = "none"
    scheme: Literal["cross", "inside", "mixup"] = "cross"
    private_per_row: Annotated[int, Field(ge=1)] = 2  # private images in each encryption
    max_ssim: _Ssim
    mean_ssim: _Ssim
    min_l2: _L2
    max_l2: _L2  # None in reported rows
    mean_l2: _L2
    success_rate: Annotated[float | None, Field(ge=0, le=1)] = None  # None in reported rows
    recovered_generator: bool | None = None  # None for attacks that do not look for the generator
    note: _Line = ""  # shown below the table

    @field_validator("date")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        with contextlib.suppress(ValueError):
            if date.fromisoformat(value).isoformat() == value:
                return value
        raise InputError(f"date: {value!r} is not a date; write YYYY-MM-DD")

    @model_validator(mode="after")
    def _has_its_scores(self) -> Row:
        optional = {"max_l2"} if self.kind == "reported" else set()
        missing = [name for name in METRICS if getattr(self, name) is None and name not in optional]
        lost = self.kind == "measured" and self.recovered_generator is False and len(missing) == len(METRICS)
        if missing and not lost:
            raise InputError(f"{missing[0]}: a number is expected")
        return self

    @property
    def ranked(self) -> bool:
        """Whether the row has scores."""
        return self.max_ssim is not None

    @property
    def form(self) -> str:
        """How the release differs from the challenge's form, in words; empty if it has that form."""
        own = {name: getattr(self, name) for name in _FORM if getattr(self, name) != getattr(_USUAL, name)}
        return ", ".join(f"{_FORM[name]}: {value}" for name, value in own.items())


def load_rows(paths: Iterable[Path | str]) -> list[Row]:
    """Read rows from their JSON files; an :class:`InputError` names the file and field at fault."""
    rows = []
    for path in paths:
        content = read_json(path)
        with naming(path):
            rows.append(Row(**content))
    return rows


def measured_row(
    metrics: Mapping[str, float] | None,
    attack: Mapping[str, object],
    *,
    challenge: str,
    name: str = "",
    info: ReleaseInfo = _USUAL,
) -> Row:
    """The row of an attack, dated today (UTC), from ``metrics.json`` (None: generator not found) and ``attack.json``.

    `challenge` is the sha256 of the array of encryptions; `name` replaces the method's name.
    """
    recovered: Any = attack.get("recovered")
    values: dict[str, Any] = {field: getattr(info, field) for field in _FORM}
    values |= {field: (metrics or {}).get(field) for field in _SCORES}
    note = f"random generator not found ({stated(attack.get('reason'))})" if recovered is False else ""
    if attack.get("cleaned_rounds"):
        note = "images cleaned by a network that was trained on synthetic images and embedded photographs"
    return Row(
        attack=name or str(attack.get("method") or "unnamed"),
        source=f"instahide-nb {__version__}",
        date=datetime.now(UTC).date().isoformat(),
        complexity=stated(attack.get("complexity")),
        time=wall_time(attack.get("seconds")),
        hardware=stated(attack.get("platform")),
        kind="measured",
        challenge=challenge,
        recovered_generator=recovered,
        note=note,
        **values,
    )


def save_evaluation(
    out: Path | str, name: str, scores: Scores | None, release: Release, details: Mapping[str, object] = {}
) -> Row:
    """Write ``per_encryption.npy``, ``metrics.json`` and the attack's row, ``row.json``, into the folder `out`.

    Without scores (the generator was not found) only the row is written. `details` is the content of ``attack.json``.
    """
    out, metrics = make_folder(out), scores.metrics() if scores else None
    if scores is not None:
        save_array(out / "per_encryption.npy", scores.per_encryption)
        write_json(out / "metrics.json", metrics)
    row = measured_row(metrics, details, challenge=sha256_array(release.encryption), name=name, info=release.info)
    write_json(out / "row.json", row.as_dict())
    return row


def wall_time(seconds: object) -> str:
    """Wall time in words, from the ``seconds`` of ``attack.json``: a number, or seconds per stage.

    Examples
    --------
    >>> wall_time({"energy": 61.2, "images": 30}), wall_time(7.04), wall_time(None)
    ('1 min 31 s', '7.0 s', 'not stated')
    """
    if isinstance(seconds, Mapping):  # a total, or the sum of the stages
        parts = [value for value in seconds.values() if isinstance(value, (int, float))]
        seconds = seconds.get("total") or math.fsum(parts) or None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        return _NOT_STATED
    return duration(seconds)


def stated(value: object) -> str:
    """A text of ``attack.json`` in one line, or "not stated"."""
    return " ".join(str(value or "").split()) or _NOT_STATED


def load_published() -> list[Row]:
    """The rows of the challenge's leaderboard of 2020, best first.

    Examples
    --------
    >>> [(row.attack, row.max_ssim) for row in load_published()]
    [('PRNG attack', 0.98), ('Carlini et al. ver.1', 0.9), ('Carlini et al. ver.2', 0.79)]
    """
    return sort_rows(load_rows(Path(__file__).with_name("published").glob("*.json")))


def sort_rows(rows: Iterable[Row]) -> list[Row]:
    """Best first: by max_ssim, mean_ssim, smaller min_l2, then by name; rows without scores last."""
    named = sorted(rows, key=lambda row: (row.attack, row.challenge))
    return sorted(named, key=lambda r: (r.ranked, r.max_ssim or 0, r.mean_ssim or 0, -(r.min_l2 or 0)), reverse=True)


_SCORES = {**TITLES, "success_rate": "Success"}
_MARK = "†"  # of a release of another form than the challenge's


def to_markdown(rows: Iterable[Row], *, costs: bool = True) -> str:
    """The table in Markdown, aligned; measured attacks are in bold. `costs`: complexity, time and hardware too."""
    ordered = sort_rows(rows)
    cells = [_cells(str(place) if row.ranked else "", row, costs) for place, row in enumerate(ordered, 1)]
    table = markdown_table(list(cells[0]), [list(row.values()) for row in cells], {"#", *_SCORES.values()})
    below = (
        "Reported: by the authors, for the challenge of 2020 (its leaderboard has no Max_L2 and no success rate). "
        "Measured (bold): by this package, on the challenge whose encryptions have the sha256 that begins as shown. "
        "Success: share of encryptions with an SSIM above 0.8."
    )
    notes = [f"{_escape(row.attack)}: {_escape(row.note)}" for row in ordered if row.note]
    notes += [f"{_MARK} {_escape(row.attack)}: not comparable with 2020 ({row.form})" for row in ordered if row.form]
    return "\n\n".join([table, below, *notes]) + "\n"


def _cells(place: str, row: Row, costs: bool) -> dict[str, str]:
    """The cells of a row, by heading."""
    title, digits = _escape(row.attack), 2 if row.kind == "reported" else 3
    if row.source.startswith(("https://", "http://")):
        title = f"[{title}]({row.source})"
    title = (f"**{title}**" if row.kind == "measured" else title) + (f" {_MARK}" if row.form else "")
    cells = {"#": place, "Attack": title, "Scores": row.kind, "Labels": row.labels}
    cells |= {heading: _number(getattr(row, name), digits) for name, heading in _SCORES.items()}
    if costs:
        spent = {"Complexity": row.complexity, "Time": row.time, "Hardware": row.hardware}
        cells |= {heading: _escape(text) for heading, text in spent.items()}
    challenge = row.challenge if row.challenge == "2020" else f"`{row.challenge[:8]}`"
    return cells | {"Challenge": challenge, "Date": row.date}


def markdown_table(headings: Sequence[str], body: Iterable[Sequence[str]], right: Container[str] = ()) -> str:
    """Aligned lines of a Markdown table; columns named in `right` are aligned to the right.

    Examples
    --------
    >>> print(markdown_table(["what", "time"], [["attack", "9 s"]], right=["time"]))
    | what   | time |
    | ------ | ---: |
    | attack |  9 s |
    """
    columns = []
    for heading, *cells in zip(headings, *body, strict=True):
        width = max(3, *map(len, (heading, *cells)))
        rule = "-" * (width - 1) + ":" if heading in right else "-" * width
        set_to = str.rjust if heading in right else str.ljust
        columns.append([set_to(cell, width) for cell in (heading, rule, *cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _escape(text: str) -> str:
    """Text that neither ends a cell nor starts a link, emphasis or HTML."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


def to_text(rows: Iterable[Row]) -> str:
    """A short table without times, for terminals and notebooks."""
    names = ("max_ssim", "mean_ssim", "min_l2", "mean_l2")
    titles = "".join(f" {TITLES[name]:>9}" for name in names)
    lines = [f"    {'attack':<22} {'scores':<9} {'labels':<12}{titles}"]
    for place, row in enumerate(sort_rows(rows), 1):
        four = "".join(f" {_number(getattr(row, name), 2):>9}" for name in names)
        text = four if row.ranked else f" not ranked: {row.note}"
        name = row.attack + (f" {_MARK}" if row.form else "")
        lines.append(f"{place if row.ranked else '':>2}  {name:<22} {row.kind:<9} {row.labels:<12}{text}")
    return "\n".join(lines)


def score_table(scores: Scores, rows: Iterable[Row] | None = None) -> str:
    """The output of ``instahide-nb score``: the metrics, and the rank among `rows` (default: the published ones)."""
    metrics = scores.metrics()
    others = [row for row in sort_rows(load_published() if rows is None else rows) if row.ranked]
    above = [row for row in others if (row.max_ssim or 0) > metrics["max_ssim"]]
    lines = []
    for name, title in _SCORES.items():
        signed = f"   ({metrics[f'{name}_signed']:.4f} with images in [-1, 1])" if "ssim" in name else ""
        lines.append(f"{title:<10} {metrics[name]:.4f}{signed}")
    tail = f", below {above[-1].attack} ({above[-1].max_ssim:.2f})" if above else ", above all others"
    lines.append(f"{'Rank':<10} {len(above) + 1} of {len(others) + 1}{tail if others else ''}")
    return "\n".join(lines)
