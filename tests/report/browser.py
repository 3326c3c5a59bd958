"""Opens a page in headless Chromium through its debugging pipe, without network or driver."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Browser:
    """A session with one page; `events` holds all events of the browser."""

    def __init__(self, reading: int, writing: int):
        self._reading, self._writing = reading, writing
        self._buffer, self._number, self._session = b"", 0, None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def open(self, path, *, width, height=900, dark=False):
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        while not self.of_kind("Page.loadEventFired"):
            self._next()
        # Messages of images and scripts arrive before the answer to this command.
        self.evaluate("Promise.all([...document.images].map(image => image.decode()))")

    def of_kind(self, method):
        return [event["params"] for event in self.events if event.get("method") == method]

    def evaluate(self, expression):
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path):
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        Path(path).write_bytes(base64.b64decode(picture))

    def _next(self):
        end = time.monotonic() + 120
        while b"\0" not in self._buffer:
            assert select.select([self._reading], [], [], end - time.monotonic())[0], "no answer"
            self._buffer += os.read(self._reading, 1 << 20)
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer = json.loads(message)
        self.events.append(answer)
        return answer


@contextlib.contextmanager
def browsing(profile):
    """Runs Chromium with its own profile folder while the block runs."""
    to_browser, writing = os.pipe()
    reading, from_browser = os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4.
    script = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
    process = subprocess.Popen(
        ["bash", "-c", script, CHROMIUM, *flags, f"--user-data-dir={profile}"],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Browser(reading, writing)
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)
