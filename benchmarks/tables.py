"""Tables of a measurement, as Markdown, and the bounds that it is held against."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

from growth import PUBLISHED

START, END = "<!-- bench: start -->", "<!-- bench: end -->"
BOUNDS = {"gen_data": 1.0, "unmask": 3.0, "prng-state": 1.0, "evaluate": 1.0}
"""GB (10^9 bytes) that the process of a stage may hold at the published scale."""

BUSY = 1.3
"""Processor seconds of an attack beside a busy loop, times those of a quiet run, at most."""


def markdown(result: dict[str, Any]) -> str:
    """All tables of a measurement, the machine first."""
    about = "; ".join(f"{name} {value}" for name, value in result["machine"].items())
    quick = "Quick results (small sizes, two rounds), to see that all runs. " if result["quick"] else ""
    parts = [f"{quick}Machine: {about}.\n", _cases(result["cases"]), _growth(result["growth"])]
    return "\n".join(part for part in parts if part)


def between_markers(page: str, text: str) -> str:
    """The page with `text` between its two markers."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"the page has no {START} ... {END}")
    return f"{before}{START}\n\n{text}\n{END}{after}"


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> float:
    """How many times longer `above` took than `below`: the median over rounds."""
    return median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))


def fitted_exponent(sizes: Iterable[float], values: Iterable[float]) -> float:
    """The exponent p of ``values ~ sizes**p``, by least squares on logarithms."""
    import numpy as np

    return float(np.polyfit(np.log(list(sizes)), np.log(list(values)), 1)[0])


def failures(result: dict[str, Any]) -> list[str]:
    """What failed, held more memory than its bound, or used more processor time beside other work."""
    every = list(result["cases"].items())
    every += [(f"{s}, {n}", about) for n, stages in result["growth"].items() for s, about in stages.items()]
    out = [f"{name}: {about['failed']}" for name, about in every if "failed" in about]
    peaks = _peaks(result["growth"])
    out += [f"{stage}: more memory than its bound" for stage, peak in peaks.items() if peak > BOUNDS[stage]]
    busy = result["cases"].get("busy", {}).get("seconds")
    if busy and (times := ratio(busy, *reversed(busy))) > BUSY:
        out.append(f"busy: {times:.2f} times the processor seconds of a quiet run; {BUSY} at most")
    return out


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *rows])


def _cases(cases: dict[str, Any]) -> str:
    rows = []
    for name, case in cases.items():
        if "failed" in case:
            rows.append([name, f"not measured: {case['failed']}", *[""] * 4])
            continue
        seconds = case["seconds"]
        for candidate, values in seconds.items():
            own, times = candidate == next(iter(seconds)), ratio(seconds, candidate, next(iter(seconds)))
            row = [case["what"] if own else "", candidate, f"{median(values):.3g}"]
            row += [f"{min(values):.3g} to {max(values):.3g}", f"{times:.3g}"]
            rows.append([*row, f"{case['peak_mib']:.0f}" if own else ""])
    notes = "; ".join(case["note"] for case in cases.values() if "note" in case)
    head = ("case", "candidate", "seconds", "spread", "times ours", "peak MiB")
    return _table(head, rows) + (f"\n{notes}.\n" if notes else "") if rows else ""


def _growth(found: dict[str, Any]) -> str:
    rows: dict[str, dict[int, float]] = {}
    for n, stages in found.items():
        known = {stage: about for stage, about in stages.items() if "failed" not in about}
        for stage, about in known.items():
            rows.setdefault(f"{stage}, seconds", {})[int(n)] = median(about["seconds"]["total"])
            rows.setdefault(f"{stage}, processor seconds", {})[int(n)] = median(about["processor_seconds"])
            rows.setdefault(f"{stage}, peak MiB", {})[int(n)] = about["peak_mib"]
    for n, stages in found.items():
        for part, values in stages["unmask"].get("seconds", {}).items():
            if part != "total":
                rows.setdefault(f"unmask: {part}, seconds", {})[int(n)] = median(values)
    rows = {name: row for name, row in rows.items() if not name.startswith("unmask:") or max(row.values()) >= 5}
    if not rows:
        return ""
    sizes = sorted(int(n) for n in found)
    cells = [
        [
            name,
            *("" if n not in row else f"{row[n]:.3g}" if row[n] < 1000 else f"{row[n]:.0f}" for n in sizes),
            f"{fitted_exponent(row, row.values()):.2f}" if len(row) > 1 else "",
        ]
        for name, row in rows.items()
    ]
    text = _table(["stage", *(f"{n:,}" for n in sizes), "grows as n^"], cells) + "\n"
    scored = {n: found[str(n)]["evaluate"] for n in sizes if "max_ssim" in found[str(n)]["evaluate"]}
    quality = ", ".join(f"{about['max_ssim']:.3f} at {n:,}" for n, about in scored.items())
    text += f"Max_SSIM of unmask: {quality}.\n"
    kept = ", ".join(f"{stage} {peak:.2f} of {BOUNDS[stage]:g}" for stage, peak in _peaks(found).items())
    return text + (f"\nPeak memory at {PUBLISHED:,} encryptions, of its bound, in GB: {kept}.\n" if kept else "")


def _peaks(found: dict[str, Any]) -> dict[str, float]:
    """Peak memory of each stage at the published scale, in GB."""
    known = {s: about for s, about in found.get(str(PUBLISHED), {}).items() if "peak_mib" in about}
    return {stage: known[stage]["peak_mib"] * 2**20 / 1e9 for stage in BOUNDS if stage in known}
