"""The tables of a sweep: results without times, and times apart, each as CSV and as Parquet.

The table of results depends on the sweep file and the package alone: rows come in the order of the file, numbers
are written in full, and nothing in it tells when, where or by how many workers a run was done.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instahide_nb.metrics import METRICS
from instahide_nb.storage import write_bytes
from instahide_nb.sweep_file import SweepRun

__all__ = ["result_rows", "time_rows", "to_csv", "to_parquet", "write_table"]

_ARRAYS = ("encryption", "label", "recovered", "assignment", "decryption")
_STAGES = ("gen_data", "attack", "evaluate")

Outcome = Mapping[str, Any]
Row = dict[str, Any]


def result_rows(runs: Sequence[SweepRun], outcomes: Sequence[Outcome]) -> list[Row]:
    """One row a run: parameters, metrics, hashes, and the error of a run that failed.

    Parameters
    ----------
    runs : sequence of SweepRun
    outcomes : sequence of mapping
        What :func:`instahide_nb.sweep_run.run_task` returned for each.
    """
    rows = []
    for number, (run, outcome) in enumerate(zip(runs, outcomes, strict=True), 1):
        metrics, hashes = outcome.get("metrics", {}), outcome.get("sha256", {})
        row: Row = {"run": number, "id": run.identity[:12], **run.parameters}
        row |= {name: metrics.get(name) for name in (*METRICS, *(f"{m}_signed" for m in METRICS))}
        row["recovered_generator"] = outcome.get("recovered_generator")
        row |= {f"sha256_{name}": hashes.get(name) for name in _ARRAYS}
        row["error"] = outcome.get("error")
        rows.append(row)
    return rows


def time_rows(runs: Sequence[SweepRun], outcomes: Sequence[Outcome]) -> list[Row]:
    """One row a run: worker, peak memory, seconds of each notebook and of each stage of the attack.

    A stage that an earlier, interrupted attempt had finished has no time.
    """
    stages = list(dict.fromkeys(name for outcome in outcomes for name in outcome.get("attack_seconds", {})))
    rows = []
    for number, (run, outcome) in enumerate(zip(runs, outcomes, strict=True), 1):
        row: Row = {"run": number, "id": run.identity[:12], "worker": outcome.get("worker")}
        row["peak_mib"] = outcome.get("peak_mib")
        seconds, inside = outcome.get("seconds", {}), outcome.get("attack_seconds", {})
        row |= {f"{stage}_s": seconds.get(stage) for stage in _STAGES}
        row |= {f"attack_{stage}_s": inside.get(stage) for stage in stages}
        rows.append(row)
    return rows


def to_csv(rows: Sequence[Row]) -> bytes:
    """Rows as CSV: a line of names, floats in full, nothing for what is missing.

    Examples
    --------
    >>> to_csv([{"run": 1, "max_ssim": 0.1, "found": True}, {"run": 2, "max_ssim": None, "found": None}])
    b'run,max_ssim,found\\n1,0.1,true\\n2,,\\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([str(v).lower() if isinstance(v, bool) else v for v in row.values()])
    return text.getvalue().encode()


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Rows as Parquet; the bytes follow from the rows and the version of pyarrow."""
    import pyarrow
    import pyarrow.parquet

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    table = pyarrow.table(
        {name: pyarrow.array(values, _type(name, values)) for name, values in columns.items()}
    )
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _type(name: str, values: Sequence[Any]) -> Any:
    """The column's type, also where every run failed and all values are missing."""
    import pyarrow

    known = [value for value in values if value is not None]
    if name == "recovered_generator" or (known and all(isinstance(value, bool) for value in known)):
        return pyarrow.bool_()
    if name.endswith("_s") or name.removesuffix("_signed") in METRICS:
        return pyarrow.float64()
    if known and all(isinstance(value, int) for value in known):
        return pyarrow.int64()
    return pyarrow.float64() if known and all(isinstance(v, int | float) for v in known) else pyarrow.string()


def write_table(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """Write ``NAME.csv`` and ``NAME.parquet``."""
    write_bytes(folder / f"{name}.csv", to_csv(rows))
    write_bytes(folder / f"{name}.parquet", to_parquet(rows))
