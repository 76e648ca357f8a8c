"""Headless Chromium, driven by the WebDriver protocol (W3C): clicks and keys as of a person.

On Debian: ``apt-get install chromium chromium-driver``. No package of Python's is needed.
"""

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MISSING = "no Chromium with its driver here: apt-get install chromium chromium-driver"
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # W3C WebDriver, section 12.1
KEYS = {"Right": "\ue014", "Enter": "\ue007", "Tab": "\ue004", "Space": "\ue00d"}


def program(*names: str) -> str | None:
    """Return where the first of some programs is."""
    return next((found for name in names if (found := shutil.which(name))), None)


def there() -> bool:
    """Return whether Chromium and its driver are installed."""
    return all((program("chromium", "chromium-browser", "google-chrome"), program("chromedriver")))


class Browser:
    """A window of Chromium that has no network."""

    def __init__(self, address: str) -> None:
        self._address = address
        arguments = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
        ]  # fmt: skip
        binary = program("chromium", "chromium-browser", "google-chrome")
        always = {
            "goog:chromeOptions": {"args": arguments, "binary": binary},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        asked = {"capabilities": {"alwaysMatch": always}}
        self._session = f"/session/{self._send('/session', asked)['sessionId']}"

    def _send(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        data = None if method != "POST" else json.dumps(body or {}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Look at a file in a window of this size."""
        self._send(f"{self._session}/window/rect", {"width": width, "height": height})
        self._send(f"{self._session}/url", {"url": path.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns."""
        body = {"script": script, "args": list(arguments)}
        return self._send(f"{self._session}/execute/sync", body)

    def _find(self, selector: str) -> str:
        body = {"using": "css selector", "value": selector}
        return f"{self._session}/element/{self._send(f'{self._session}/element', body)[_ELEMENT]}"

    def click(self, selector: str) -> None:
        """Click the first element that a selector has."""
        self._send(f"{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Type into the first element that a selector has, in place of what is there."""
        element = self._find(selector)
        self._send(f"{element}/clear")
        if text:
            self._send(f"{element}/value", {"text": text})

    def press(self, selector: str, key: str) -> None:
        """Press a key where an element is."""
        self._send(f"{self._find(selector)}/value", {"text": KEYS[key]})

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements that a selector has and that are shown."""
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter(e => e.checkVisibility()).map(e => e.textContent)"
        )
        return self.run(script, selector)

    def log(self) -> list[str]:
        """Return what the page wrote to the console since the last call."""
        return [
            one["message"] for one in self._send(f"{self._session}/se/log", {"type": "browser"})
        ]

    def picture(self, path: Path) -> None:
        """Write what the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self._send(f"{self._session}/screenshot", method="GET")))

    def close(self) -> None:
        """End the session."""
        self._send(self._session, method="DELETE")


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser, ended with its driver."""
    command = [str(program("chromedriver")), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as driver:
        try:
            assert driver.stdout is not None
            port = next(
                m[1]
                for line in driver.stdout
                if (m := re.search(rb"successfully on port (\d+)", line))
            )
            window = Browser(f"http://127.0.0.1:{port.decode()}")
            try:
                yield window
            finally:
                window.close()
        finally:
            driver.terminate()
