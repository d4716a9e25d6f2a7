"""A headless Chromium that tells what a page does: by its DevTools protocol over a pipe, without a library."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

PATIENCE = 60
"""Seconds that an answer may take on a busy machine."""

SILENT = "--disable-background-networking --disable-component-update --disable-sync --no-first-run --disable-gpu"


def find_chromium() -> str | None:
    """The first browser of this kind on the path."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A browser with one page; `requests` and `complaints` are those of the page that was opened last."""

    def __init__(self, program: str, profile: Path) -> None:
        reading, self._writing = os.pipe()
        self._reading, writing = os.pipe()
        # High numbers, so that moving one end to 3 or 4 does not close another.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reading, writing)]
        command = [program, "--headless", "--remote-debugging-pipe", "--no-sandbox", *SILENT.split()]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=lambda: [os.dup2(end, number) for number, end in zip((3, 4), ends, strict=True)],  # type: ignore[func-returns-value]
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        for end in (reading, writing, *ends):
            os.close(end)
        self._number, self._unread, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda said: said.get("id") == self._number)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path | str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a page, and forget what other pages did."""
        self.events = []
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setScrollbarsHidden", hidden=True)  # they lie over the page, as on a phone
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=page.resolve().as_uri() if isinstance(page, Path) else page)
        if not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._wait(lambda said: said.get("method") == "Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, and let it go."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"Enter": 13, "Escape": 27, "Tab": 9}[key]
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def screenshot(self, file: Path, whole: bool = True) -> None:
        """Write a picture of the page, or of the window."""
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))

    @property
    def requests(self) -> list[str]:
        """All that the page has asked for, but itself and what is in it."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        urls = [params["request"]["url"] for params in sent if params["type"] != "Document"]
        return [url for url in urls if not url.startswith("data:")]

    @property
    def complaints(self) -> list[str]:
        """All that the page, or the browser about it, has written to the console."""
        methods = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in methods]

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._writing)
        os.close(self._reading)

    def _wait(self, wanted: Any) -> dict[str, Any]:
        """The first message that is wanted; all events before it are kept."""
        while True:
            while b"\0" not in self._unread:
                ready, _, _ = select.select([self._reading], [], [], PATIENCE)
                part = os.read(self._reading, 1 << 20) if ready else b""
                assert part, "Chromium does not answer"
                self._unread += part
            text, self._unread = self._unread.split(b"\0", 1)
            said: dict[str, Any] = json.loads(text)
            if "method" in said:
                self.events.append(said)
            if wanted(said):
                return said
