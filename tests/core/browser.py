"""Headless Chromium, driven over its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

from tests.patience import HANGS_S


def chromium() -> str | None:
    """``CHROMIUM`` from the environment, or Debian's ``chromium`` on the path."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


class Page:
    """One page; everything it complains about is kept in ``complaints``, every address it asks for in ``requests``."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=HANGS_S, suppress_origin=True)
        self._number, self.complaints, self.requests, self._loaded = 0, list[str](), list[str](), False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its result; events that come meanwhile are looked at."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._event(message["method"], message["params"])

    def _event(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"].get("exception", parameters["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True

    def open(self, file: Path, width: int) -> None:
        """Loads a file in a window ``width`` pixels wide and waits until it has run."""
        self.visit(file.resolve().as_uri(), width)

    def visit(self, address: str, width: int) -> None:
        """The same of an address."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self._loaded = False
        self.call("Page.navigate", url=address)
        while not self._loaded:
            message = json.loads(self._socket.recv())
            self._event(message["method"], message["params"])

    def do(self, script: str) -> Any:
        """The value of a JavaScript expression, promises awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, x: float, y: float) -> None:
        """A real click at a place of the window, in pixels."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, file: Path, whole: bool = False) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole))["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12000), "scale": 1}} if whole else {}


@contextlib.contextmanager
def browser(program: str, profile: Path) -> Iterator[Page]:
    """A page in a new Chromium with the empty folder ``profile``; the process ends with the block."""
    arguments = ["--headless", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    arguments += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to run as root with its sandbox
    process = subprocess.Popen([program, *arguments, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file, until = profile / "DevToolsActivePort", time.monotonic() + HANGS_S
        while not (port_file.is_file() and "\n" in port_file.read_text()):
            assert process.poll() is None, f"{program} ended with {process.returncode}"
            assert time.monotonic() < until, f"{program} did not open its DevTools port"
            time.sleep(0.05)
        with urllib.request.urlopen(f"http://127.0.0.1:{port_file.read_text().split()[0]}/json/list", timeout=HANGS_S) as answer:
            targets = json.load(answer)
        yield Page(next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page"))
    finally:
        process.terminate()
        process.wait()
