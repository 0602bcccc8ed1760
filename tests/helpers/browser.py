"""A real Chromium without a window, or a reason to skip."""

import contextlib
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def browser():
    """Chromium, that of the system or playwright's own."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as play:
        own = play.chromium.executable_path
        found = next(filter(None, map(shutil.which, NAMES)), own if Path(own).exists() else None)
        if found is None:
            pytest.skip(f"no browser: none of {', '.join(NAMES)}, nor playwright's own")
        # Tests run as root in containers, where Chromium's sandbox cannot be set up.
        chromium = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        with contextlib.closing(chromium):
            yield chromium


@contextlib.contextmanager
def opened(url, width=1360, height=900):
    """A page, with the addresses it asked for and the faults it met."""
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": width, "height": height})
        asked, faults = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda message: faults.append(message.text) if message.type == "error" else None,
        )
        page.goto(url)
        yield page, asked, faults
