"""gen_data in JupyterLab, in a real browser: every cell runs, none fails, the pictures are there, the slider works.

``make test-browser`` installs Debian's chromium and playwright (without its own browsers) and runs this.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-quic", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]

pytestmark = pytest.mark.browser


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """A JupyterLab over copies of the notebooks; the address of gen_data with its token."""
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = "for-this-test"
    command = [sys.executable, "-m", "jupyter", "lab", "--ip=127.0.0.1", f"--port={port}", "--no-browser"]
    command += [f"--IdentityProvider.token={token}", "--allow-root", "--LabApp.check_for_updates_class="]
    command += [f"--ServerApp.root_dir={tmp_path}", "--LabApp.news_url=None"]
    own = {"JUPYTER_CONFIG_DIR": str(tmp_path / ".config"), "JUPYTER_DATA_DIR": str(tmp_path / ".data")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | own
    with open(tmp_path / "lab.log", "wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()
                assert time.monotonic() < deadline, "JupyterLab did not start within a minute"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/gen_data.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(30)


def wait(page: Any, reached: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is reached, for so many seconds at most; whether it was."""
    deadline = time.monotonic() + seconds
    while not reached() and time.monotonic() < deadline:
        page.wait_for_timeout(300)
    return reached()


def picks_another_encryption(page: Any) -> bool:
    """Type a row into the field beside the slider; whether the picture below changes."""
    inside = page.locator(".widget-image").first
    inside.wait_for(timeout=60_000)
    picker = inside.locator("xpath=ancestor-or-self::*[contains(@class, 'widget-vbox')]").first
    picture, number = picker.locator("img"), picker.locator("input[type=number]")
    first = picture.get_attribute("src")
    number.fill("7")
    number.press("Enter")
    return wait(page, lambda: picture.get_attribute("src") != first, 30)


def test_gen_data_runs_in_jupyterlab(lab: str, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not here: make test-browser")
    if CHROMIUM is None and "INSTAHIDE_NB_SCREENSHOT" in os.environ:  # as make test-browser sets it
        pytest.fail("no chromium here, though make test-browser should have installed it")
    if CHROMIUM is None:
        pytest.skip("no chromium here: make test-browser installs it")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(lab)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
        page.wait_for_function("() => document.querySelectorAll('.jp-CodeCell').length >= 8", timeout=60_000)
        run = tmp_path / "runs" / "tiny"
        screenshot = Path(os.environ.get("INSTAHIDE_NB_SCREENSHOT", tmp_path / "jupyterlab.png"))
        try:
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)
            page.get_by_text("Run", exact=True).first.click()
            page.get_by_text("Run All Cells", exact=True).click()
            wait(page, lambda: (run / "release" / "release.json").exists(), 180)
            followed = picks_another_encryption(page)
            page.wait_for_timeout(3000)
            page.get_by_text("File", exact=True).first.click()
            page.get_by_text("Save Notebook", exact=True).click()
            wait(page, lambda: "image/png" in (tmp_path / "gen_data.ipynb").read_text(), 30)
        finally:
            page.screenshot(path=str(screenshot))
            browser.close()
    assert (run / "release" / "release.json").exists(), "the last cell was not reached"
    assert followed, "the picture did not follow the field"
    import nbformat

    cells = [c for c in nbformat.read(tmp_path / "gen_data.ipynb", 4).cells if c.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.execution_count for cell in cells)
    assert not [o for o in outputs if o.output_type == "error"]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 7, "pictures are shown inline in JupyterLab"
    assert screenshot.stat().st_size > 20_000
