"""What an attack on many more images would cost, from measured growth: fills the tables of docs/scaling.md.

``python benchmarks/bench.py --only growth --sizes 20000 40000 --out runs/largest`` measures the last data points, and
``python benchmarks/scaling.py --keep runs/largest`` keeps them beside the page. The other sizes are those of
docs/benchmarks.json.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from measuring import fitted_exponent, median

__all__ = ["filled", "memory", "mended", "predictions", "separation", "times"]

ROOT = Path(__file__).resolve().parents[1]
PAGE, BENCH, LARGEST = (ROOT / "docs" / name for name in ("scaling.md", "benchmarks.json", "scaling.json"))
WANTED = 2_500_000
"""Encryptions of 50,000 private images, fifty each."""

EPOCHS = 50
PIXELS = 3072
CLASSES = 10
LIKELY = 8
"""Images of a slot that are tried with every partner, `instahide_nb.attacks.unmask.pair_scores`."""

TOGETHER = 5000
"""Rows compared with each other at most, `instahide_nb.attacks.unmask.rounds`."""

CLUSTERS = "energy"
"""The stage that finds the clusters of each class, which grew fastest."""

RATE = 2e10
"""Operations a second assumed of matrix products on one core; a float64 product of 1,500 x 3,072 reached 8e10."""

HIGHEST = {
    "energy": 3,
    "public model": 0,
    "spectral": 1,
    "independent signs": 3,
    "sign repair": 1,
    "coupled signs": 1,
    "assignment": 3,
    "least squares": 3,
    "companions": 1,
    "second opinion": 3,
}
"""Exponent of n of each stage's fastest growing part, counted from the code, with fifty encryptions an image.

Images are as many as n / 50. Each epoch is a linear assignment of its slots to the images of a class, n^3 at worst. A
Cholesky factor of the normal matrix of all images is n^3 too. Companions are looked for among 5,000 rows at most. The
spectral step only meets pairs that occur.
"""


def predictions(found: dict[str, Any], sizes: list[int], wanted: int) -> dict[str, tuple[float, float]]:
    """For each stage of unmask, the fitted exponent and the seconds that the fit gives at another size.

    Parameters
    ----------
    found : dict
        ``growth`` of a measurement.
    sizes : list of int
        Numbers of encryptions to fit.
    wanted : int
        Number of encryptions to predict.
    """
    out = {}
    measured = [_medians(found[str(n)]["unmask"]["seconds"]) for n in sizes]
    for stage in measured[0]:
        values = [each[stage] for each in measured]
        power = fitted_exponent([float(n) for n in sizes], values)
        out[stage] = power, values[-1] * (wanted / sizes[-1]) ** power
    return out


def times(bench: dict[str, Any], largest: dict[str, Any]) -> str:
    """The table of times: measured, how they grow, and what that would be at 2.5 million encryptions."""
    sizes, larger = (sorted(int(n) for n in each["growth"]) for each in (bench, largest))
    shown, last, growth = [sizes[-1], *larger], larger[-1], bench["growth"] | largest["growth"]
    seconds = {n: _medians(growth[str(n)]["unmask"]["seconds"]) for n in [*sizes, *larger]}
    # companions are found in another way at the larger sizes
    ends = [sizes, larger if len(larger) > 1 else shown]
    fits = [predictions(growth, each, WANTED) for each in ends]
    again = predictions(growth, [*sizes, *larger], WANTED)
    counted = {s: seconds[last][s] * (WANTED / last) ** HIGHEST[s] for s in again if s in HIGHEST}
    head = ["stage of unmask", *(f"{n:,}" for n in shown)]
    head += [f"n^, {each[0]:,} to {each[-1]:,}" for each in ends]
    head += ["hours at 2.5 million, by the fit", "by the highest power"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for stage in [*counted, "all the others", "total"]:
        cells = [f"{seconds[n][stage]:.3g} s" for n in shown]
        cells += [f"{each[stage][0]:.2f}" for each in fits]
        if stage in counted:
            cells += [_hours(again[stage][1]), f"{_hours(counted[stage])}, n^{HIGHEST[stage]}"]
        else:
            parts = [part for part in counted if stage == "total" or part != CLUSTERS]
            cells += [_hours(sum(each[part] for part in parts)) for each in (_seconds(again), counted)]
        name = f"all but {CLUSTERS}" if stage == "all the others" else stage
        lines.append(f"| {name} | {' | '.join(cells)} |")
    threads = {str(each["machine"]["threads"]) for each in (bench, largest)}
    lines.append("")
    for n in larger:
        figures = largest["growth"][str(n)]
        peaks = ", ".join(f"{s} {about['peak_mib'] * 2**20 / 1e9:.2f} GB" for s, about in figures.items())
        quality = figures["evaluate"]["max_ssim"]
        lines.append(
            f"At {n:,} encryptions of {n // EPOCHS} images: Max_SSIM {quality:.3f}; peak memory of {peaks}."
        )
    lines.append(f"Threads: {', '.join(sorted(threads))}. The hours use all sizes.")
    return "\n".join(lines) + "\n"


def _medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Of each stage, and of all but the first together."""
    found = {stage: median(values) for stage, values in seconds.items()}
    return found | {"all the others": found["total"] - found.get(CLUSTERS, 0.0)}


def _seconds(guess: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {stage: seconds for stage, (_, seconds) in guess.items()}


def _hours(seconds: float) -> str:
    return _short(seconds / 3600)


def _short(value: float) -> str:
    """Two digits: nobody knows more.

    Examples
    --------
    >>> _short(12345.0), _short(0.0123)
    ('12,000', '0.012')
    """
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def mended(largest: dict[str, Any]) -> str:
    """The table of what the attack would cost with its two impossible parts replaced, and images in shards by class."""
    last = max(int(n) for n in largest["growth"])
    seconds = median(largest["growth"][str(last)]["unmask"]["seconds"]["total"])
    images, linear = WANTED // EPOCHS, seconds * WANTED / last
    own = images // CLASSES
    products = {
        "energies with the images of both classes, twenty passes": 20 * 2 * WANTED * 2 * own * 31 * 31 * 4,
        "signed encryptions with the images of both classes, eight rounds": 8 * 2 * WANTED * 2 * own * PIXELS,
        "residuals with those of their epoch, six rounds": 6 * WANTED * images * PIXELS,
    }
    lines = ["| part | operations | hours of one core |", "| --- " * 3 + "|"]
    lines.append(f"| all stages at {last:,}, if each grew linearly | | {_hours(linear)} |")
    lines += [f"| {part} | {count:.1e} | {_hours(count / RATE)} |" for part, count in products.items()]
    whole = linear + sum(products.values()) / RATE
    lines.append(f"| all | | {_hours(whole)} |")
    return (
        "\n".join(lines)
        + f"\n\nAt {RATE:.0e} operations a second. On 100 cores: {_hours(whole / 100)} hours.\n"
    )


def memory(n: int = WANTED) -> str:
    """The table of the largest arrays, in GB of 10^9 bytes, as the code holds them today.

    Examples
    --------
    >>> print(memory(5000).splitlines()[2])
    | encryptions, and each array of their shape (float32) | n x 3,072 | 0.061 |
    """
    images = n // EPOCHS
    own = images // CLASSES
    pairs = n * (2 * LIKELY * own - LIKELY**2)
    arrays = {
        "encryptions, and each array of their shape (float32)": ("n x 3,072", 4 * n * PIXELS),
        "energies (float32)": ("n x 3,844", 4 * n * 31 * 31 * 4),
        "scores of slots (float32)": ("n x 2 x images of a class", 8 * n * own),
        "products with images, and influence on them (float64), each": (
            "n x 2 x images of a class",
            16 * n * own,
        ),
        "what rows with found companions give to images (float64), twice": (
            "5,000 x images",
            16 * min(n, TOGETHER) * images,
        ),
        "normal matrix (float64)": ("images x images", 8 * images**2),
    }
    lines = [f"| array | shape | GB at {n:,} |", "| --- " * 3 + "|"]
    lines += [f"| {name} | {shape} | {_short(size / 1e9)} |" for name, (shape, size) in arrays.items()]
    return (
        "\n".join(lines) + f"\n\nCandidate pairs of images, all encryptions together: {pairs:.1e} a round.\n"
    )


def separation(run: Path, rows: int = 2000) -> str:
    """How far pairs of encryptions that share a private image stand apart from others by the correlation of energies.

    Given are the differences of means in units of the standard deviation of both (d'), over all pairs of the first
    `rows` encryptions, and for the fifth with the largest product of the shared image's coefficients.
    """
    import numpy as np

    from instahide_nb.attacks.unmask.energy import features
    from instahide_nb.challenge.release import load_release
    from instahide_nb.challenge.secret import load_secret

    secret = load_secret(run / "secret")
    likeness = np.corrcoef(features(load_release(run / "release").encryption[:rows]))
    holds = np.zeros((rows, len(secret.private)))  # the coefficient of each private image in each encryption
    np.add.at(
        holds,
        (np.repeat(np.arange(rows), 2), secret.pair[:rows].ravel()),
        secret.coefficient[:rows, :2].ravel(),
    )
    product = holds @ holds.T
    above = np.triu_indices(rows, 1)
    likeness, product = likeness[above], product[above]
    other = likeness[product == 0]

    def apart(shared: object) -> float:
        chosen = likeness[shared]
        return float((chosen.mean() - other.mean()) / np.sqrt((chosen.var() + other.var()) / 2))

    top = np.quantile(product[product > 0], 0.8)
    some, most = apart(product > 0), apart(product >= top)
    return f"d' {some:.1f} over all pairs that share an image, {most:.1f} in the top fifth"


def filled(page: str) -> str:
    """The page with its tables made anew."""
    bench, largest = (json.loads(path.read_text(encoding="utf-8")) for path in (BENCH, LARGEST))
    for name, part in (("times", times(bench, largest)), ("mended", mended(largest)), ("memory", memory())):
        start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"{PAGE}: has no {start} ... {end}")
        page = f"{before}{start}\n\n{part}\n{end}{after}"
    return page


def main() -> None:
    """Keep a measurement, if one is named, and fill the page."""
    words = sys.argv[1:]
    if words[:1] == ["--separation"] and len(words) == 2:
        print(separation(Path(words[1])))
        return
    if words[:1] == ["--keep"] and len(words) == 2:
        shutil.copyfile(Path(words[1]) / "bench.json", LARGEST)
    elif words:
        raise SystemExit("benchmarks/scaling.py: takes --keep FOLDER, --separation RUN, or nothing")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
