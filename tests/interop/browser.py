"""The status page in a headless Chromium, driven by its debugging protocol.

browser.py URL MOUNT_POINT [PICTURE]: looks at the page as a person does; what is there is described in tests/it/ui.rs.
"""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile

import websockets


class Browser:
    """One page. Whatever it complains about is kept in `complaints`."""

    def __init__(self, size):
        self.size, self.complaints, self.answers, self.last = size, [], {}, 0

    async def __aenter__(self):
        self.home = tempfile.mkdtemp()
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]
        width, height = self.size
        flags += [f"--user-data-dir={self.home}", f"--window-size={width},{height}", "--hide-scrollbars"]
        self.process = subprocess.Popen([program, *flags, "about:blank"], stderr=subprocess.DEVNULL)
        port = os.path.join(self.home, "DevToolsActivePort")
        for _ in range(600):
            if os.path.exists(port) and open(port).read().count("\n") >= 1:
                break
            await asyncio.sleep(0.05)
        number, path = open(port).read().split("\n")[:2]
        self.socket = await websockets.connect(f"ws://127.0.0.1:{number}{path}", max_size=64 << 20)
        self.reader = asyncio.create_task(self.read())
        self.session = None
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        self.session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **metrics)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        return self

    async def __aexit__(self, *_):
        self.reader.cancel()
        await self.socket.close()
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    async def read(self):
        async for message in self.socket:
            message = json.loads(message)
            if "id" in message:
                self.answers.pop(message["id"]).set_result(message)
            elif message["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"):
                self.complaints.append(json.dumps(message["params"]))

    async def call(self, method, **params):
        self.last += 1
        answer = self.answers[self.last] = asyncio.get_running_loop().create_future()
        request = {"id": self.last, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        await self.socket.send(json.dumps(request))
        answer = await asyncio.wait_for(answer, 30)
        assert "error" not in answer, answer
        return answer["result"]

    async def ask(self, expression):
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression):
        for _ in range(200):
            if await self.ask(expression):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{expression} did not come about:\n" + await self.ask("document.body.innerText"))

    async def picture(self, file):
        data = (await self.call("Page.captureScreenshot", format="png"))["data"]
        with open(file, "wb") as to:
            to.write(base64.b64decode(data))


def has(identity, text):
    return f"document.getElementById({json.dumps(identity)})?.innerText.includes({json.dumps(text)}) ?? false"


def click(text):
    return f"[...document.querySelectorAll('button')].find(b => b.innerText === {json.dumps(text)})?.click() ?? true"


async def look(url, point, picture=None):
    async with Browser((1280, 1010)) as browser:
        await browser.call("Page.navigate", url=url)
        await browser.until(has("mount", point))
        await browser.until(has("state", "up "))
        await browser.until(has("store", "on the disk"))
        await browser.until(has("tree", "src/"))
        # The command that runs is followed without being asked for, as it goes on.
        await browser.until(has("commands", "runs"))
        await browser.until(has("text", "step 1"))
        seen = await browser.ask("document.getElementById('text').innerText.length")
        await browser.until(f"document.getElementById('text').innerText.length > {seen}")
        await browser.ask(click("src/"))
        await browser.until(has("here", "/src"))
        await browser.until(has("tree", "<b>odd"))
        assert await browser.ask("document.querySelectorAll('b').length") == 0, "a name became markup"
        await browser.until(has("changes", "/src/main.rs"))
        if picture:
            await browser.picture(picture)
        await browser.ask(click("../"))
        await browser.until(f"!({has('here', '/src')})")
        # What the page must not be able to do.
        blocked = "fetch('https://example.org/').then(() => false, () => true)"
        assert await browser.ask(blocked), "the page reached another host"
        expected = [complaint for complaint in browser.complaints if "example.org" in complaint or "csp" in complaint]
        others = [complaint for complaint in browser.complaints if complaint not in expected]
        assert not others, others
        assert await browser.ask(f"fetch({json.dumps(url)}).then(a => a.status)") == 200


if __name__ == "__main__":
    asyncio.run(look(*sys.argv[1:]))
    print("the page was looked at")
