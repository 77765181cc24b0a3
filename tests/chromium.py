"""A real, headless Chromium, for looking at pages as their readers do."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def installed() -> bool:
    return bool(_chromium() and shutil.which("chromedriver"))


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


@dataclass
class Page:
    """An opened page and what happened while it loaded."""

    driver: Any
    console: list[str]
    requests: list[str]

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def soon(self, script: str, wanted: Any, seconds: float = 10) -> Any:
        """Run a script until it returns what is wanted: keys act in the browser's own time."""
        end = time.monotonic() + seconds
        while (found := self.run(script)) != wanted and time.monotonic() < end:
            time.sleep(0.02)
        return found

    def overflow(self) -> list[str]:
        """Name what is wider than the window, unless it scrolls by itself."""
        return self.run(
            """
            const wide = [], edge = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth > edge) wide.push("page");
            for (const e of document.querySelectorAll("body *:not(svg *)")) {
              const box = e.getBoundingClientRect();
              const hidden = getComputedStyle(e).clipPath !== "none" || e.closest("thead");
              if (box.width && (box.right > edge + 1 || box.left < -1) && !hidden)
                wide.push(`${e.tagName}.${e.className}: ${e.textContent.trim().slice(0, 40)}`);
            }
            return wide;
            """
        )


class Browser:
    def __init__(self, profile: str) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = _chromium()
        for flag in (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))

    def open(self, path: Path, width: int, *, dark: bool = False, height: int = 900) -> Page:
        """Load a file at a width, and collect console messages and requests."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)  # what came before is not this page's
        self.driver.get(path.as_uri())
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        requests = []
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                requests.append(event["params"]["request"]["url"])
        return Page(self.driver, console, requests)

    def command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)

    def screenshot(self, file: Path, **clip: float) -> None:
        """Save the whole page, not just the window, as a picture."""
        import base64

        extra = {"clip": {"x": 0, "y": 0, "scale": 1, **clip}} if clip else {}
        found = self.command(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, **extra
        )
        file.write_bytes(base64.b64decode(found["data"]))

    def pdf(self) -> bytes:
        import base64

        found = self.command(
            "Page.printToPDF",
            preferCSSPageSize=True,
            printBackground=True,
            paperWidth=8.27,
            paperHeight=11.69,
        )
        return base64.b64decode(found["data"])


@contextmanager
def browser() -> Iterator[Browser]:
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        opened = Browser(profile)
        try:
            yield opened
        finally:
            opened.driver.quit()
