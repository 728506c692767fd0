"""Tables of a measurement, as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from growth import BOUNDS, PUBLISHED
from measuring import fitted_exponent, median, ratio

__all__ = ["markdown", "over_bounds", "replace_between_markers"]

START, END = "<!-- bench: start -->", "<!-- bench: end -->"


def markdown(result: dict[str, Any]) -> str:
    """All tables of a result, the machine first."""
    parts = [_machine(result), _cases(result["cases"]), _growth(result["growth"])]
    parts += [_memory(result["growth"]), _stages(result["growth"])]
    return "\n".join(part for part in parts if part)


def replace_between_markers(path: Path, text: str) -> None:
    """Put the tables where the page has its two markers."""
    page = path.read_text(encoding="utf-8")
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"{path}: has no {START} ... {END}")
    path.write_text(f"{before}{START}\n\n{text}\n{END}{after}", encoding="utf-8")


def _machine(result: dict[str, Any]) -> str:
    about = "; ".join(f"{name} {value}" for name, value in result["machine"].items())
    kind = "Quick figures (small sizes, two rounds), to see that all runs. " if result["quick"] else ""
    return f"{kind}Machine: {about}.\n"


def _cases(cases: dict[str, Any]) -> str:
    if not cases:
        return ""
    lines = ["| case | candidate | seconds | spread | rate | times ours | peak MiB |", "| --- " * 7 + "|"]
    for name, case in cases.items():
        if "failed" in case:
            lines.append(f"| {name} | not measured: {case['failed']} | | | | | |")
            continue
        first, *_ = seconds = case["seconds"]
        for place, (candidate, values) in enumerate(seconds.items()):
            middle = median(values)
            rate = case["count"] / middle
            times = f"{ratio(seconds, candidate, first):.3g}" if place else "1"
            left = (case["what"], f"{case['peak_mib']:.0f}") if not place else ("", "")
            lines.append(
                f"| {left[0]} | {candidate} | {middle:.3g} | {min(values):.3g} to {max(values):.3g} "
                f"| {rate:,.4g} {case['unit']} | {times} | {left[1]} |"
            )
    notes = [case[key] for case in cases.values() for key in ("note", "equal") if key in case]
    return "\n".join(lines) + "\n" + (f"\n{'; '.join(notes)}.\n" if notes else "")


def _growth(found: dict[str, Any]) -> str:
    if not found:
        return ""
    sizes = [int(n) for n in found]
    head = " | ".join(f"{n:,}" for n in sizes)
    lines = [f"| stage | {head} | grows as n^ |", "| --- " * (len(sizes) + 2) + "|"]
    for stage in dict.fromkeys(stage for stages in found.values() for stage in stages):
        for what, pick in (("seconds", _total), ("processor seconds", _processor), ("peak MiB", _peak)):
            values = [pick(found[str(n)].get(stage, {})) for n in sizes]
            cells = " | ".join("" if v is None else f"{v:.3g}" if v < 1000 else f"{v:.0f}" for v in values)
            known = [(n, v) for n, v in zip(sizes, values, strict=True) if v is not None]
            power = f"{fitted_exponent(*map(list, zip(*known, strict=True))):.2f}" if len(known) > 1 else ""
            lines.append(f"| {stage}, {what} | {cells} | {power} |")
    quality = ", ".join(
        f"{stages['evaluate']['max_ssim']:.3f} at {int(n):,}"
        for n, stages in found.items()
        if "max_ssim" in stages["evaluate"]
    )
    return "\n".join(lines) + f"\n\nMax_SSIM of unmask: {quality}.\n"


def _memory(found: dict[str, Any]) -> str:
    stages = {name: _peak(stage) for name, stage in found.get(str(PUBLISHED), {}).items() if name in BOUNDS}
    lines = [f"| memory at {PUBLISHED:,} encryptions | peak GB | bound GB | |", "| --- " * 4 + "|"]
    for name, peak in stages.items():
        shown = "not measured" if peak is None else f"{peak * 2**20 / 1e9:.2f}"
        verdict = "" if peak is None else "above the bound" if name in over_bounds(found) else "kept"
        lines.append(f"| {name} | {shown} | {BOUNDS[name]:g} | {verdict} |")
    return "\n".join(lines) + "\n" if stages else ""


def over_bounds(found: dict[str, Any]) -> list[str]:
    """The stages whose process held more memory at the published scale than it may."""
    stages = found.get(str(PUBLISHED), {})
    peaks = {name: _peak(stages.get(name, {})) for name in BOUNDS}
    return [name for name, peak in peaks.items() if peak is not None and peak * 2**20 > BOUNDS[name] * 1e9]


def _stages(found: dict[str, Any]) -> str:
    runs = {int(n): stages["unmask"] for n, stages in found.items() if "seconds" in stages["unmask"]}
    if not runs:
        return ""
    lines = [f"| stage of unmask | {' | '.join(f'{n:,}' for n in runs)} | grows as n^ |"]
    lines.append("| --- " * (len(runs) + 2) + "|")
    for stage in next(iter(runs.values()))["seconds"]:
        values = [median(run["seconds"][stage]) for run in runs.values()]
        power = f"{fitted_exponent([float(n) for n in runs], values):.2f}" if len(runs) > 1 else ""
        lines.append(f"| {stage} | {' | '.join(f'{v:.3g} s' for v in values)} | {power} |")
    rounds = ", ".join(f"{len(run['seconds']['total'])} at {n:,}" for n, run in runs.items())
    return "\n".join(lines) + f"\n\nMedians of rounds: {rounds}.\n"


def _total(stage: dict[str, Any]) -> float | None:
    return median(stage["seconds"]["total"]) if "seconds" in stage else None


def _processor(stage: dict[str, Any]) -> float | None:
    return median(stage["processor_seconds"]) if "processor_seconds" in stage else None


def _peak(stage: dict[str, Any]) -> float | None:
    return stage.get("peak_mib")
