"""Chromium and Chrome."""

from __future__ import annotations

import os
from pathlib import Path

from wasi_nn_browser.browser import Browser

_FLAGS = (
    "--headless=new",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--password-store=basic",
    "--use-mock-keychain",
    # A page that nobody sees is slowed down otherwise.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    # The page needs nobody else, and neither does the browser.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Chromium(Browser):
    """Starts as root only without its sandbox. Its guests then lack it."""

    name = "Chromium"
    variable = "WASI_NN_CHROMIUM"
    programs = (
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    )
    remedy = "Chromium or Chrome"

    def command(self, path: str, profile: Path) -> list[str]:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        return [path, *_FLAGS, f"--user-data-dir={profile}", *(["--no-sandbox"] if root else [])]
