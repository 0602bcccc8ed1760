"""Opens pages in a headless Chromium, or skips the test."""

import contextlib
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def browser():
    """Start the Chromium of the system, or the one that playwright has installed."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        installed = playwright.chromium.executable_path
        executable = next(filter(None, map(shutil.which, NAMES)), installed)
        if not Path(executable).exists():
            pytest.skip(f"no browser: install one of {', '.join(NAMES)}, or playwright's own")
        # Tests run as root in containers, where Chromium's sandbox cannot be set up.
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        with contextlib.closing(chromium):
            yield chromium


@contextlib.contextmanager
def opened(url, width=1360, height=900):
    """Open a page; yields it, and the lists of its requests and of its errors."""
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": width, "height": height})
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda message: errors.append(message.text) if message.type == "error" else None,
        )
        page.goto(url)
        yield page, requests, errors
