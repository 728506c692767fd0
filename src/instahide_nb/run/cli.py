"""The command ``instahide-nb``. Exit codes: 0 done; 2 the input was wrong, in one line; 1 anything else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from instahide_nb import __version__
from instahide_nb.core.errors import InputError

app = typer.Typer(
    help="The InstaHide Challenge, reproducible: encrypt, attack, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _common(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(f"instahide-nb {__version__}")
        raise typer.Exit


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C into one line; typer would say nothing and end with a code that depends on its version."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("instahide-nb: interrupted; run again to continue", err=True)
        raise typer.Exit(1) from None


def _fail(kind: str, lines: list[str]) -> None:
    """Print the lines and end with exit code 1, if there are any."""
    for line in lines:
        typer.echo(f"{kind}: {line}", err=True)
    if lines:
        raise typer.Exit(1)


@app.command()
def reproduce(
    preset: Annotated[str, typer.Option(help="Parameters to start from: tiny, demo, challenge or training.")] = "demo",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Attack to run; repeat it for several: unmask, prng-seed, prng-state, carlini-v2, carlini-v1, "
            "the name of an entry point, or module:function. By default the preset's own."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/PRESET by default.")] = None,
    parameter: Annotated[list[str] | None, typer.Option("-p", help="Set [notebook.]name=value.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the log.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Make these the preset's expected hashes.")] = False,
) -> None:
    """Encrypt, attack and score a challenge, and verify the files.

    Runs the three notebooks: gen_data, then attack and evaluate for each method. Shows the leaderboard. An interrupted
    run resumes where it stopped. Log files are in RUN/log/.
    """
    from instahide_nb.core.params import read_assignments
    from instahide_nb.evaluate.leaderboard import to_text
    from instahide_nb.run import manifest, pipeline

    plan = pipeline.make_plan(preset, method or (), out, read_assignments(parameter or ()))
    if record and plan.preset is None:
        raise InputError("--record: the parameters are not those of a preset; leave out -p")

    def say(line: str) -> None:
        if not quiet:
            typer.echo(line)

    watched = sys.stdout.isatty() and not quiet and not verbose
    with _interruptible():
        run = pipeline.reproduce(plan, say, watched=watched, verbose=sys.stderr if verbose else None)
    if record:
        say(f"recorded: {manifest.record_expected(run)}")
    wrong, compared = manifest.check(run)
    say(f"\n{to_text(pipeline.leaderboard_rows(run))}\n\nleaderboard: {run / 'leaderboard.md'}")
    grids = [run / evaluate.out_dir / "comparison_grid.png" for _, evaluate in plan.attacks]
    for path in (*grids, run / "methods.png"):
        if path.exists():
            say(f"picture: {path}")
    if not wrong:
        say(f"verified: {compared}")
    _fail("differs", wrong)


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    regenerate: Annotated[bool, typer.Option("--regenerate", help="Rebuild the encryptions.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Make these the preset's expected hashes.")] = False,
) -> None:
    """Compare a run's files with their hashes.

    The hashes are those recorded in the run's manifest.json, and those that this package expects of an unchanged
    preset. With --regenerate, rebuilds the encryptions from secret/ and compares every bit instead.
    """
    from instahide_nb.run import manifest

    if regenerate:
        from instahide_nb.challenge import build
        from instahide_nb.challenge.release import load_release
        from instahide_nb.challenge.secret import load_secret

        published = load_release(run / "release")
        difference = build.first_difference(published, build.regenerate(load_secret(run / "secret")))
        _fail("differs", [difference] if difference is not None else [])
        rows = f"{len(published.encryption)} encryptions and labels"
        typer.echo(f"verified: {rows} rebuilt, every bit the same")
        return
    if not (run / manifest.MANIFEST).exists():
        raise InputError(f"{run}: has no {manifest.MANIFEST}; give the folder of a run")
    if record:
        typer.echo(f"recorded: {manifest.record_expected(run)}")
        return
    wrong, compared = manifest.check(run)
    _fail("differs", wrong)
    typer.echo(f"verified: {compared}")


@app.command()
def score(
    decryption: Annotated[Path, typer.Argument(help="decryption.npy, or the zip of a submission.")],
    release: Annotated[Path, typer.Option(help="The release/ folder.")],
    secret: Annotated[Path, typer.Option(help="The secret/ folder.")],
) -> None:
    """Score a decryption (one image per encryption) and rank it."""
    from instahide_nb.challenge.release import load_release
    from instahide_nb.challenge.secret import check_halves, load_secret
    from instahide_nb.evaluate import metrics
    from instahide_nb.evaluate.leaderboard import score_table
    from instahide_nb.evaluate.submission import load_decryption

    published, hidden = load_release(release), load_secret(secret)
    check_halves(published, hidden)
    images = load_decryption(decryption, published.encryption.shape)
    private, inside = hidden.mixed()
    scores = metrics.score(images, private, inside)
    for line in metrics.find_mistakes(images, private, inside, scores):
        typer.echo(f"warning: {line}", err=True)
    typer.echo(score_table(scores))


@app.command()
def submit(
    attack_dir: Annotated[Path, typer.Argument(help="Folder of an attack, such as runs/demo/attack/unmask.")],
    out: Annotated[Path | None, typer.Option(help="The zip; beside the folder by default.")] = None,
    source: Annotated[Path | None, typer.Option(help="Python source of the attack, if needed.")] = None,
) -> None:
    """Pack an attack's results into a zip for the challenge."""
    from instahide_nb.evaluate.submission import make_submission

    typer.echo(make_submission(attack_dir, out, source=source))


@app.command()
def figures(
    run: Annotated[Path, typer.Argument(help="Folder of a run with one or more evaluated attacks.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the figures; RUN/figures by default.")] = None,
    sweep: Annotated[Path | None, typer.Option(help="Table (CSV) of a sweep over k.")] = None,
) -> None:
    """Draw publication figures of a run.

    PNG and PDF, each with a caption that says which data it shows. Quality against k and encryptions per image
    comes from --sweep, by default runs/sweeps/k/table.csv if it exists.
    """
    from instahide_nb.show.paper import make_figures

    usual = Path("runs/sweeps/k/table.csv")
    table = sweep or (usual if usual.is_file() else None)
    for path in make_figures(run, out or run / "figures", sweep=table):
        if path.suffix == ".txt":
            typer.echo(f"{path.with_suffix('')}-{{1col,2col}}.{{png,pdf}}, caption {path.name}")
    if table is None:
        missing = "not made: quality against k and against encryptions per image"
        typer.echo(f"{missing}; make {usual} with instahide-nb sweep params/sweeps/k.yaml")


@app.command("sweep")
def run_sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file, such as params/sweeps/tiny.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Folder; runs/sweeps/NAME by default.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler.")] = None,
    workers: Annotated[int | None, typer.Option(help="Local processes; one per core by default.")] = None,
) -> None:
    """Run many challenges and collect their results in one table.

    Finished runs are not repeated. A failed run does not stop the others.
    """
    from instahide_nb.run import sweep

    with _interruptible():
        result = sweep.run_sweep(file, out, scheduler=scheduler, workers=workers, say=typer.echo)
    typer.echo(f"table: {result.folder / 'table.csv'}")
    _fail("failed", result.failed)


def main() -> None:
    """Run the command line; a wrong input becomes one line and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"instahide-nb: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if type(error).__name__ == "NotebookError":  # not imported, so that --help is quick
            print(f"instahide-nb: {error}", file=sys.stderr)
            sys.exit(1)
        raise


if __name__ == "__main__":
    main()
