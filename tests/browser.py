"""Headless Chromium over its debugging pipe: open a page of this machine, press, drag, look, listen."""

import base64
import io
import json
import os
import select
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run",
         "--disable-gpu-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
         "--remote-debugging-pipe", "--hide-scrollbars", "--disable-dev-shm-usage"]  # fmt: skip
PATIENCE = 900  # seconds; the model is drawn without a GPU, on a machine that may have other work


class Browser:
    """One page in a browser without a network: `problems` of its console, `requests` it made."""

    def __init__(self, folder, size=(600, 600)):
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            pytest.skip("Chromium is not installed")
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()

        def three_and_four():
            for source, target in ((os.dup(to_read), 3), (os.dup(to_write), 4)):
                os.dup2(source, target)

        self._process = subprocess.Popen(
            [program, *FLAGS, "--window-size={},{}".format(*size), f"--user-data-dir={folder}"],
            pass_fds=(3, 4) if {to_read, to_write} <= {3, 4} else (3, 4, to_read, to_write),
            preexec_fn=three_and_four,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._number, self._buffer, self._session, self.problems, self.requests = 0, b"", None, [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        os.killpg(self._process.pid, signal.SIGKILL)  # it has processes of its own
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, place):
        """A file, or an address."""
        self.call("Page.navigate", url=place if isinstance(place, str) else place.resolve().as_uri())

    def evaluate(self, script):
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, script, seconds=PATIENCE):
        end = time.monotonic() + seconds
        while not (found := self.evaluate(script)):
            assert time.monotonic() < end, f"{script} did not come true; {self.problems}"
            time.sleep(0.2)
        return found

    def still(self, seconds=PATIENCE):
        """The picture once it no longer changes."""
        end, last = time.monotonic() + seconds, self.picture()
        while not np.array_equal(now := self.picture(), last):
            assert time.monotonic() < end, "the page does not come to rest"
            last = now
        return now

    def picture(self):
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def click(self, found):
        """Press the middle of what a script finds; once more if it had moved away meanwhile."""
        hit = f"""(wanted => {{
            window.hit = false;
            wanted.addEventListener("click", () => {{ window.hit = true; }}, {{once: true}});
            const box = wanted.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})({found})"""
        end = time.monotonic() + PATIENCE
        while True:
            self.drag(*[self.evaluate(hit)] * 2, steps=0)
            if self.evaluate("window.hit"):
                return
            assert time.monotonic() < end, f"{found} cannot be pressed"

    def type(self, found, text):
        """In place of what a field has."""
        self.click(found)
        self.evaluate(f"({found}).select()")
        self.call("Input.insertText", text=text)

    def drag(self, start, end, steps=8):
        mouse = {"button": "left", "buttons": 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], **mouse)
        for i in range(1, steps + 1):
            x, y = (a + (b - a) * i / steps for a, b in zip(start, end, strict=True))
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, **mouse)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], **mouse)

    def _message(self, seconds=PATIENCE):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], seconds)
            assert ready, "the browser does not answer"
            said = os.read(self._read, 1 << 20)
            assert said, "the browser has ended"
            self._buffer += said
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event):
        params = event.get("params", {})
        if event.get("method") in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            self.requests.append(params["request"]["url"] if "request" in params else params["url"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"]["text"])
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])
        if event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.problems.append(str(params["args"]))
