"""The command ``instahide-nb``.

Exit codes: 0 done; 2 the input was wrong, in one line; 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from instahide_nb import __version__
from instahide_nb.core.errors import InputError

__all__ = ["app", "main"]

app = typer.Typer(
    help="The InstaHide Challenge, reproducible: encrypt, attack, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"instahide-nb {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C into a line; typer would end with a code that depends on its version, and say nothing."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("instahide-nb: interrupted; run again to go on", err=True)
        raise typer.Exit(1) from None


@app.command()
def reproduce(
    preset: Annotated[str, typer.Option(help="Folder of params/: tiny, demo or challenge.")] = "demo",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Attack to run, may be given more than once: unmask, prng-seed, prng-state, carlini-v2, carlini-v1, "
            "an entry point's name or module:function."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/PRESET by default.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", help="name=value: change a parameter (notebook.name for one notebook)."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Print parameters and hashes too, as the log file has them."),
    ] = False,
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="Make the hashes the expected ones of the preset instead of comparing with them."
        ),
    ] = False,
) -> None:
    """Run a preset, verify it, show the leaderboard.

    The three notebooks run one after the other: gen_data, then attack and evaluate for each method. A run
    that was interrupted goes on where it stopped. RUN/log/ keeps a file of each.
    """
    from instahide_nb.core import runs
    from instahide_nb.core.params import read_assignments
    from instahide_nb.run import manifest, pipeline

    plan = pipeline.make_plan(preset, method or (), out, read_assignments(parameter or []))
    if record and plan.preset is None:
        raise InputError("--record: the parameters are not those of a preset; leave out -p")
    say = (lambda line: None) if quiet else (lambda line: typer.echo(line))
    watch = runs.counting if sys.stdout.isatty() and not quiet and not verbose else runs.unwatched
    with _interruptible():
        run = pipeline.reproduce(plan, say, watch=watch, verbose=sys.stderr if verbose else None)
    if record:
        recorded = manifest.record_expected(run)
        if not quiet:
            typer.echo(f"recorded: {recorded}")
    wrong, against = _check(run, manifest.read_manifest(run))
    if not quiet:
        typer.echo("\n" + pipeline.leaderboard_text(run) + f"\n\nleaderboard: {run / 'leaderboard.md'}")
        for _, evaluate in plan.attacks:
            grid = run / evaluate.out_dir / "comparison_grid.png"
            if grid.exists():
                typer.echo(f"picture: {grid}")
        if (run / "methods.png").exists():
            typer.echo(f"picture: {run / 'methods.png'}")
        if not wrong:
            typer.echo(f"verified: {against}")
    _report(wrong)


def _check(run: Path, content: dict[str, Any]) -> tuple[list[str], str]:
    """Compare a run with its manifest, and with the expected hashes of its preset where there are any."""
    from instahide_nb.run import manifest

    own = {name: digest for stage in content["stages"].values() for name, digest in stage["files"].items()}
    wrong = manifest.compare(run, own)
    known = manifest.expected(content["preset"]) if content.get("preset") else None
    if known is None:
        return wrong, f"{len(own)} artefacts are as the run's manifest says"
    shared = {name: digest for name, digest in known.items() if name in own}
    wrong += [f"{name}: {own[name][:16]}, expected {d[:16]}" for name, d in shared.items() if own[name] != d]
    return (
        wrong,
        f"{len(own)} artefacts, {len(shared)} of them the expected ones of preset {content['preset']}",
    )


def _report(wrong: list[str]) -> None:
    for line in wrong:
        typer.echo(f"differs: {line}", err=True)
    if wrong:
        raise typer.Exit(1)


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    regenerate: Annotated[
        bool,
        typer.Option("--regenerate", help="Make the encryptions again from secret/ and compare every bit."),
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Make this run's hashes the expected ones of its preset.")
    ] = False,
) -> None:
    """Compare a run's files with their hashes.

    All are computed again, and compared with the run's manifest and with the expected ones of its preset.
    """
    from instahide_nb.run import manifest

    if regenerate:
        typer.echo(_regenerated(run))
        return
    if not (run / manifest.MANIFEST).exists():
        raise InputError(f"{run}: holds no {manifest.MANIFEST}; name the folder of a run")
    wrong, against = _check(run, manifest.read_manifest(run)) if not record else ([], "")
    if record:
        typer.echo(f"recorded: {manifest.record_expected(run)}")
    _report(wrong)
    if not record:
        typer.echo(f"verified: {against}")


def _regenerated(run: Path) -> str:
    from instahide_nb.challenge.build import first_difference, regenerate
    from instahide_nb.challenge.release import load_release
    from instahide_nb.challenge.secret import load_secret

    published = load_release(run / "release")
    difference = first_difference(published, regenerate(load_secret(run / "secret")))
    if difference is not None:
        typer.echo(f"differs: {difference}", err=True)
        raise typer.Exit(1)
    return f"verified: {len(published.encryption)} encryptions and labels made again, every bit the same"


@app.command()
def score(
    decryption: Annotated[Path, typer.Argument(help="decryption.npy or a submission's zip.")],
    release: Annotated[Path, typer.Option(help="The release/ folder.")],
    secret: Annotated[Path, typer.Option(help="The secret/ folder.")],
) -> None:
    """Score anyone's decryption, and rank it."""
    from instahide_nb.challenge.release import load_release
    from instahide_nb.challenge.secret import check_halves, load_secret
    from instahide_nb.evaluate import metrics
    from instahide_nb.evaluate.leaderboard import score_table
    from instahide_nb.evaluate.report import private_inside
    from instahide_nb.evaluate.submission import load_decryption

    published, hidden = load_release(release), load_secret(secret)
    check_halves(published, hidden)
    images = load_decryption(decryption, published.encryption.shape)
    inside = private_inside(hidden)
    scores = metrics.score(images, hidden.private, inside)
    for line in metrics.find_mistakes(images, hidden.private, inside, scores):
        typer.echo(f"warning: {line}", err=True)
    typer.echo(score_table(scores))


@app.command()
def submit(
    attack_dir: Annotated[Path, typer.Argument(help="An attack's folder, such as runs/demo/attack/unmask.")],
    out: Annotated[Path | None, typer.Option(help="The zip; beside the folder by default.")] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            help="File or folder of the attack's Python source, where its module cannot be imported."
        ),
    ] = None,
) -> None:
    """Make the zip that the challenge asks for."""
    from instahide_nb.evaluate.submission import make_submission

    typer.echo(make_submission(attack_dir, out, source=source))


@app.command()
def figures(
    run: Annotated[Path, typer.Argument(help="Folder of a run with one evaluated attack or more.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the figures; RUN/figures by default.")] = None,
    sweep_table: Annotated[
        Path | None,
        typer.Option(
            "--sweep",
            help="A sweep's table (CSV), for quality against k and against encryptions per image; "
            "runs/sweeps/k/table.csv, where it is, by default.",
        ),
    ] = None,
) -> None:
    """Make a paper's figures of a run.

    PNG and PDF, one and two columns wide, each with a caption that names its data.
    """
    from instahide_nb.show.paper import make_figures

    usual = Path("runs/sweeps/k/table.csv")
    table = sweep_table or (usual if usual.is_file() else None)
    folder = out or run / "figures"
    for path in make_figures(run, folder, sweep=table):
        if path.suffix == ".txt":
            typer.echo(f"{path.with_suffix('')}-{{1col,2col}}.{{png,pdf}}, caption {path.name}")
    if table is None:
        typer.echo(
            f"not made: quality against k and against encryptions per image; {usual} is missing, and "
            "instahide-nb sweep params/sweeps/k.yaml makes it"
        )


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file, such as params/sweeps/tiny.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Folder; runs/sweeps/NAME by default.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, such as tcp://127.0.0.1:8786.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes on this machine; one for each processor by default.")
    ] = None,
) -> None:
    """Do many runs, and make one table of them.

    Every run of a sweep file is done on Dask workers. Runs that finished before are not repeated.
    """
    from instahide_nb.run.sweep import run_sweep

    with _interruptible():
        result = run_sweep(file, out, scheduler=scheduler, workers=workers, say=typer.echo)
    typer.echo(f"table: {result.folder / 'table.csv'}")
    for line in result.failed:
        typer.echo(f"failed: {line}", err=True)
    if result.failed:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; a wrong input becomes one line and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"instahide-nb: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if type(error).__name__ == "NotebookError":
            print(f"instahide-nb: {error}", file=sys.stderr)
            sys.exit(1)
        raise


if __name__ == "__main__":
    main()
