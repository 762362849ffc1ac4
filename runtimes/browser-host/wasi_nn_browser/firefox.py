"""Firefox."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from wasi_nn_browser.browser import Browser

#: What its profile starts with.
PREFERENCES: dict[str, bool | int | str] = {
    "app.normandy.enabled": False,
    "app.update.enabled": False,
    "browser.aboutwelcome.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.sessionstore.resume_from_crash": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.enabled": False,
    # The page needs nobody else, and neither does the browser: the rest goes to a port on which
    # nobody listens.
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "network.proxy.failover_direct": False,
    "network.proxy.no_proxies_on": "127.0.0.1",
    # A page that nobody sees is slowed down otherwise.
    "dom.min_background_timeout_value": 4,
    "dom.timeout.enable_budget_timer_throttling": False,
    "widget.windows.window_occlusion_tracking.enabled": False,
}


class Firefox(Browser):
    """With a profile of its own: the user's is not touched."""

    name = "Firefox"
    variable = "WASI_NN_FIREFOX"
    programs = ("firefox", "firefox-esr", "/Applications/Firefox.app/Contents/MacOS/firefox")
    remedy = "Firefox"

    def command(self, path: str, profile: Path) -> list[str]:
        lines = [
            f"user_pref({json.dumps(name)}, {json.dumps(value)});\n"
            for name, value in PREFERENCES.items()
        ]
        (profile / "user.js").write_text("".join(lines))
        return [path, "--headless", "--no-remote", "--profile", str(profile)]

    def variables(self, profile: Path) -> Mapping[str, str]:
        # It does not start with another user's home, and writes below HOME in spite of --profile.
        return {"HOME": str(profile), "MOZ_CRASHREPORTER_DISABLE": "1"}
