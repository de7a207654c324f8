"""A headless Chromium, driven through chromedriver by the WebDriver protocol: JSON over HTTP, no library needed.

python tests/browser.py ADDRESS FILE.png [TEXT]     save a screenshot of the page, after clicking the text
"""

import base64
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NEEDED = ("chromium", "chromedriver")
OPTIONS = [
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
]
# MLflow opens a panel for its assistant on the first visit.
CLOSE_ASSISTANT = """
const close = [...document.querySelectorAll('button')].find(button => /close/i.test(button.ariaLabel)
    && button.parentElement.parentElement.innerText.includes('MLflow Assistant'));
if (close) close.click();
return Boolean(close);
"""


def missing() -> list[str]:
    """Return the programs that are needed but not installed."""
    return [program for program in NEEDED if shutil.which(program) is None]


class Browser:
    """One window. Scripts are the bodies of JavaScript functions."""

    def __init__(self, driver: str, width: int, height: int) -> None:
        self.address = driver
        # The driver's own profile folder would be left behind if it were killed.
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        arguments = [*OPTIONS, f"--window-size={width},{height}", f"--user-data-dir={self.profile.name}"]
        options = {"binary": shutil.which("chromium"), "args": arguments}
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self.address += f"/session/{self._send('POST', '/session', capabilities=capabilities)['sessionId']}"

    def open(self, address: str) -> None:
        self._send("POST", "/url", url="about:blank")  # otherwise a change after the # would not reload the page
        self._send("POST", "/url", url=address)

    def run(self, script: str) -> Any:
        return self._send("POST", "/execute/sync", script=script, args=[])

    def text(self) -> str:
        """Return the visible text of the page."""
        return str(self.run("return document.body.innerText"))

    def wait(self, script: str, seconds: float = 120) -> Any:
        """Return the result of the script as soon as it is true."""
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            if time.monotonic() > end:
                raise AssertionError(f"Not true within {seconds} s: {script}\nThe page shows:\n{self.text()}")
            time.sleep(0.1)
        return found

    def wait_for_text(self, *texts: str) -> str:
        """Return the text of the page once it contains all of these."""
        for text in texts:
            self.wait(f"return document.body.innerText.includes({json.dumps(text)})")
        return self.text()

    def click(self, text: str) -> None:
        """Click the innermost button or link with this text."""
        self.wait(
            "const found = [...document.querySelectorAll('button, a, [role=button]')]"
            f".filter(element => element.innerText.trim() === {json.dumps(text)}).at(-1);"
            "if (found) found.click(); return Boolean(found);"
        )

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._send("GET", "/screenshot")))

    def close(self) -> None:
        self._send("DELETE", "")
        self.profile.cleanup()

    def _send(self, method: str, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()[:2000]}") from None


@contextmanager
def browser(width: int = 1600, height: int = 1200) -> Iterator[Browser]:
    """Start a fresh Chromium, and end it with all its processes."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert driver.stdout is not None
        line = next(line for line in driver.stdout if "successfully on port" in line)
        (port,) = re.findall(r"on port (\d+)", line)
        window = Browser(f"http://127.0.0.1:{port}", width, height)
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait()


if __name__ == "__main__":
    with browser(1600, 1300) as window:
        window.open(sys.argv[1])
        window.wait(CLOSE_ASSISTANT)
        for text in sys.argv[3:]:
            window.click(text)
        time.sleep(3)  # for charts and pictures
        window.screenshot(Path(sys.argv[2]))
