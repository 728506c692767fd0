"""Runs one notebook through papermill and keeps it without times and machine metadata."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import Messages, Usage, machine_line, usage_of, write_bytes


class NotebookError(RuntimeError):
    """A notebook's cell failed for a reason that is not the input's."""


def home() -> Path:
    """The folder with ``notebooks/`` and ``params/``: the checkout, or the installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1]
    return checkout if (checkout / "notebooks").is_dir() else package


@dataclass
class _Kernel:
    """The notebook's process.

    Attributes
    ----------
    lock : int or None
        A file descriptor that the process holds too.
    environment : dict
        Added to this process's environment.
    process : int or None
        Its number, once it is there.
    stopping : bool
        True when it is to end, or not to begin.
    used : (float or None, int or None)
        Its processor seconds and peak memory, known when it is about to end.
    """

    lock: int | None
    environment: dict[str, str]
    process: int | None = None
    stopping: bool = False
    used: tuple[float | None, int | None] = (None, None)

    def stop(self) -> None:
        """End the process and those that it started."""
        self.stopping = True
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process, signal.SIGKILL)  # jupyter_client gave it a process group of its own


def _manager(kernel: _Kernel) -> type:
    """A kernel manager that starts the process as `kernel` asks."""
    from jupyter_client.manager import AsyncKernelManager

    class Manager(AsyncKernelManager):
        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            if kernel.stopping:
                raise RuntimeError("interrupted before the notebook began")
            held = () if kernel.lock is None else (kernel.lock,)
            environment = os.environ | kernel.environment
            await super().start_kernel(pass_fds=held, env=environment, **options)
            kernel.process = getattr(self.provisioner, "pid", None)
            if kernel.stopping:
                kernel.stop()

        async def shutdown_kernel(self, *arguments: Any, **options: Any) -> None:  # type: ignore[override]
            if kernel.process is not None:
                kernel.used = usage_of(kernel.process)
            await super().shutdown_kernel(*arguments, **options)

    return Manager


def execute(
    notebook: str,
    parameters: Mapping[str, Any],
    output: Path,
    *,
    cwd: Path,
    log: Path,
    messages: Messages | None = None,
    bars: int = 0,
    lock: int | None = None,
) -> Usage:
    """Run one notebook and keep it, without times and machine metadata.

    Parameters
    ----------
    notebook : str
        "gen_data", "attack" or "evaluate".
    parameters : mapping
        Injected behind its ``parameters`` cell.
    output : Path
        Where the executed notebook goes when it is whole.
    cwd : Path
        The folder that it runs in.
    log : Path
        A folder for the partial notebook; it stays there when a cell fails.
    messages : Messages, optional
        Takes what the notebook writes to standard error.
    bars : int
        Width of the progress bars that the notebook draws into `messages`; 0 for none.
    lock : int, optional
        A file descriptor that the notebook's process shall hold too.

    Returns
    -------
    Usage
        What it cost.

    Raises
    ------
    InputError
        When a cell raised one: its line. When the notebook cannot be written.
    NotebookError
        When a cell failed otherwise: the cell, the error and the path of the partial notebook.
    KeyboardInterrupt
        At Ctrl-C; the notebook's process is ended before.
    """
    # For a format that notebooks do not use, jsonschema would build a grammar for three seconds.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").addHandler(logging.NullHandler())  # what it would print is raised too
    partial = log / f"{output.parent.name}-{notebook}.ipynb"
    kernel = _Kernel(lock, {"INSTAHIDE_NB_PROGRESS": "text", "TQDM_NCOLS": str(bars)} if bars else {})
    start = time.perf_counter()
    try:
        # In a thread, where nbclient leaves signals alone: Ctrl-C then reaches this one as it does any program.
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(
                papermill.execute_notebook,
                _plain(home() / "notebooks" / f"{notebook}.ipynb"),
                _plain(partial),
                parameters=dict(parameters),
                cwd=cwd,
                kernel_name="python3",
                progress_bar=False,
                stderr_file=messages,
                kernel_manager_class=_manager(kernel),
                extra_arguments=[
                    "--Application.log_level=40"
                ],  # ipykernel warns of its transport at each start
            )
            try:
                job.result()
            except KeyboardInterrupt:
                kernel.stop()
                raise
    except papermill.PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(str(error.evalue)) from None
        raise NotebookError(
            f"{notebook}: cell {error.exec_count} failed with {error.ename}: {' '.join(str(error.evalue).split())} "
            f"(partial notebook: {partial})"
        ) from None
    except DeadKernelError:
        raise NotebookError(
            f"{notebook}: its process was ended from outside, perhaps for want of memory (partial notebook: {partial})"
        ) from None
    except OSError as error:
        raise InputError(
            f"{error.filename or partial}: cannot be written ({error.strerror or error}); "
            "free space or choose another folder"
        ) from None
    write_bytes(output, clean_notebook(partial), secret=notebook == "gen_data")
    partial.unlink()
    return Usage(round(time.perf_counter() - start, 3), *kernel.used, machine_line())


def _plain(path: Path) -> str:
    """A path for papermill, which fills in parameters where it sees braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def clean_notebook(path: Path) -> bytes:
    """A notebook's bytes without times, random cell ids and the metadata of papermill."""
    import nbformat

    book = nbformat.read(path, 4)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = _joined([o for o in cell.outputs if o.get("name") != "stderr"])
    return (nbformat.writes(book) + "\n").encode()


def _joined(outputs: list[Any]) -> list[Any]:
    """Outputs with adjacent pieces of printed text joined: where the kernel cut them depends on the machine's load."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.get("name") == "stdout" == joined[-1].get("name"):
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    return joined
