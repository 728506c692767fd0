"""Run one notebook through papermill, and save it without times and machine metadata.

``python -m instahide_nb.run.notebooks`` (``make notebooks``) runs the three notebooks with their defaults and saves
them with their outputs in ``notebooks/``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from traitlets import default

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import write_bytes
from instahide_nb.core.params import NOTEBOOKS
from instahide_nb.core.runs import Messages, Usage, machine_line, usage_of


class NotebookError(RuntimeError):
    """A cell failed, for another reason than wrong input."""


def home() -> Path:
    """The folder that holds ``notebooks/`` and ``params/``: the checkout, or the installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1]
    return checkout if (checkout / "notebooks").is_dir() else package


class _Kernel(AsyncKernelManager):
    """Starts the process that runs the cells. Each notebook has a subclass, which the waiting thread can read."""

    held: tuple[int, ...] = ()  # file descriptors that the process inherits
    environment: Mapping[str, str] = {}
    process: int | None = None
    stopping = False
    used: tuple[float | None, int | None] = (None, None)  # processor seconds, peak memory in MiB

    @classmethod
    def stop(cls) -> None:
        """End the process and its children, or prevent its start."""
        cls.stopping = True
        if cls.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(cls.process, signal.SIGKILL)  # jupyter_client gave it a process group of its own

    @default("transport_encryption")
    def _encrypt(self) -> str:
        import zmq

        return "auto" if zmq.has("curve") else "disabled"

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        if self.stopping:
            raise RuntimeError("interrupted before the notebook began")
        options |= {"pass_fds": self.held, "env": os.environ | self.environment}
        await super().start_kernel(**options)
        type(self).process = getattr(self.provisioner, "pid", None)
        if self.stopping:
            self.stop()

    async def _async_interrupt_kernel(self) -> None:
        """Do nothing. A shutdown begins with an interrupt, at which a busy kernel would report an error."""

    async def shutdown_kernel(self, *arguments: Any, **options: Any) -> None:  # type: ignore[override]
        if self.process is not None:
            type(self).used = usage_of(self.process)
        await super().shutdown_kernel(*arguments, **options)


def execute(
    notebook: str,
    parameters: Mapping[str, object],
    output: Path,
    *,
    cwd: Path,
    log: Path,
    messages: Messages | None = None,
    bars: int = 0,
    lock: int | None = None,
) -> Usage:
    """Run a notebook in the folder `cwd` and save it as `output`, without times and machine metadata.

    The partial notebook is in the folder `log`, where it remains if a cell fails. `messages` receives the notebook's
    standard error, with progress bars of width `bars`; its process inherits the file descriptor `lock`. An InputError
    says that a cell raised one, or that the notebook cannot be written; a NotebookError names another failed cell.
    """
    # jsonschema would spend three seconds on a grammar that notebooks do not use.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").addHandler(logging.NullHandler())  # its errors are raised too
    partial = log / f"{output.parent.name}-{notebook}.ipynb"
    progress = {"INSTAHIDE_NB_PROGRESS": "text", "TQDM_NCOLS": str(bars)} if bars else {}
    held = () if lock is None else (lock,)
    kernel: type[_Kernel] = type("_Kernel", (_Kernel,), {"held": held, "environment": progress})
    start = time.perf_counter()
    try:
        # nbclient handles no signals outside the main thread, so Ctrl-C reaches this thread as usual.
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
                kernel_manager_class=kernel,
            )
            try:
                job.result()
            except KeyboardInterrupt:
                kernel.stop()
                raise
    except papermill.PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(str(error.evalue)) from None
        what = " ".join(f"cell {error.exec_count} failed with {error.ename}: {error.evalue}".split())
        raise NotebookError(f"{notebook}: {what} (partial notebook: {partial})") from None
    except DeadKernelError:
        what = "its process was killed, perhaps because memory ran out"
        raise NotebookError(f"{notebook}: {what} (partial notebook: {partial})") from None
    except OSError as error:
        place, why = error.filename or partial, error.strerror or error
        raise InputError(f"{place}: cannot be written ({why}); free space or choose another folder") from None
    write_bytes(output, clean_notebook(partial), secret=notebook == "gen_data")
    partial.unlink()
    seconds, (used, peak) = round(time.perf_counter() - start, 3), kernel.used
    return Usage(seconds=seconds, processor_seconds=used, peak_mib=peak, machine=machine_line())


def _plain(path: Path) -> str:
    """A path for papermill, which replaces names in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def clean_notebook(path: Path) -> bytes:
    """A notebook's bytes without times, random cell ids and papermill's metadata."""
    import nbformat

    book = nbformat.read(path, 4)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = []
            for output in outputs:  # the kernel splits printed text at random places
                if cell.outputs and output.get("name") == "stdout" == cell.outputs[-1].get("name"):
                    cell.outputs[-1]["text"] += output["text"]
                else:
                    cell.outputs.append(output)
    return (nbformat.writes(book) + "\n").encode()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        for name in NOTEBOOKS:
            execute(name, {}, home() / "notebooks" / f"{name}.ipynb", cwd=Path(work), log=Path(work))
            print(f"recorded: {name}.ipynb")
