"""The editor in a real browser, against a real service: what somebody sees who opens the address for the first time.

Every picture taken on the way is in the test's folder, and in the folder ``SCREENSHOTS`` names when that is set.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Response, WebSocket, sync_playwright  # noqa: E402

ROOT: Final = Path(__file__).parents[2]
CHROMIUM: Final = Path("/usr/bin/chromium")
SAMPLER, SAVE = 3, 9
"""Nodes of the workflow that a first visit shows."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed; `make browser` installs it"),
    pytest.mark.skipif(
        importlib.util.find_spec("comfyui_frontend_package") is None, reason="comfyui_frontend_package is not installed"
    ),
]

NOT_YET_THERE: Final = (
    # Files and folders of a user who has none yet. The editor asks, takes the 404 as "none", and the browser reports it anyway.
    "/api/userdata?dir=workflows&",
    "/api/userdata?dir=subgraphs&",
    "/api/userdata/comfy.templates.json",
    # Style sheets of the user's own, likewise; a 404 has no type that a browser takes for a style sheet.
    "/user.css",
    "/api/userdata/user.css",
)


@dataclass  # without slots: Playwright keeps things of its own on it
class Editor:
    """A page with the editor, and what its browser has seen."""

    page: Page
    address: str
    pictures: Path
    faults: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    previews: list[tuple[dict[str, Any], bytes]] = field(default_factory=list)
    """What a preview is of, and the picture's bytes."""
    views: list[Response] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", self._hear_console)
        self.page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        self.page.on("response", lambda response: self.views.append(response) if "/api/view?" in response.url else None)
        self.page.on("websocket", self._hear_socket)

    def _hear_socket(self, opened: WebSocket) -> None:
        opened.on("framereceived", self._hear_frame)

    def _hear_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not self._is_expected(message):
            self.faults.append(f"console: {message.text} ({message.location['url']})")

    def _is_expected(self, message: ConsoleMessage) -> bool:
        """Whether an error is of another host (this machine may be cut off), or of a file nobody has made yet."""
        source = message.location["url"]
        if message.text.startswith("Failed to load resource"):
            is_ours = urlsplit(source).netloc == urlsplit(self.address).netloc
            return not is_ours or ("status of 404" in message.text and self._is_not_yet_there(source))
        refused = message.text.removeprefix("Refused to apply style from '").split("'", 1)[0]
        return refused != message.text and self._is_not_yet_there(refused)

    def _is_not_yet_there(self, url: str) -> bool:
        return any(url.startswith(self.address + start) for start in NOT_YET_THERE)

    def _hear_frame(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            self.messages.append(json.loads(frame))
        elif int.from_bytes(frame[:4], "big") == 4:
            length = int.from_bytes(frame[4:8], "big")
            self.previews.append((json.loads(frame[8 : 8 + length]), frame[8 + length :]))

    def open(self) -> None:
        self.page.goto(self.address)
        self.page.wait_for_function("window.app?.graph?._nodes?.length > 0", timeout=45_000)
        self.page.locator("[data-testid=queue-button]").wait_for()

    def draw_seldom(self) -> None:
        """Without a graphics card the browser draws on the cores that the service samples on."""
        self.page.evaluate("app.extensionManager.setting.set('LiteGraph.Canvas.MaximumFps', 5)")

    def until(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s: {what}; last heard: {self.messages[-3:]}"
            self.page.wait_for_timeout(50)

    def set(self, node: int, **values: object) -> None:
        """Give widgets of a node these values."""
        self.page.evaluate(
            """([id, values]) => {
                for (const widget of app.graph.getNodeById(id).widgets)
                    if (widget.name in values) widget.value = values[widget.name];
            }""",
            [node, values],
        )

    def widgets(self) -> dict[str, Any]:
        """Values of all widgets as they would be saved, by the node's id and type."""
        graph = self.page.evaluate("JSON.parse(JSON.stringify(app.graph.serialize()))")
        return {f"{node['id']} {node['type']}": node.get("widgets_values") for node in graph["nodes"]}

    def shown(self, node: int) -> list[list[Any]]:
        """Address, width and height of the loaded pictures that a node shows."""
        found: list[list[Any]] = self.page.evaluate(
            """id => (app.graph.getNodeById(id)?.imgs ?? []).filter(image => image.complete)
                .map(image => [image.src, image.naturalWidth, image.naturalHeight])""",
            node,
        )
        return found

    def run(self) -> str:
        """Run the graph as a person would; the job's id."""
        with self.page.expect_response(lambda answer: urlsplit(answer.url).path == "/api/prompt") as answered:
            self.page.keyboard.press("Control+Enter")
        answer = answered.value.json()
        assert answer["node_errors"] == {}
        return str(answer["prompt_id"])

    def heard(self, type_: str, job: str) -> list[dict[str, Any]]:
        return [told["data"] for told in self.messages if told["type"] == type_ and told["data"]["prompt_id"] == job]

    def job(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.address}/api/jobs/{job}").raise_for_status().json()
        return found

    def finish(self, job: str) -> dict[str, Any]:
        """Wait until the editor has heard that a job succeeded; the file it saved."""
        self.until(lambda: self.heard("execution_success", job), "the job's success")
        assert self.job(job)["status"] == "completed"
        (saved,) = self.heard("executed", job)[-1]["output"]["images"]
        assert isinstance(saved, dict)
        return saved

    def drop(self, name: str, data: bytes) -> None:
        """Drop a picture file on the canvas."""
        self.page.evaluate(
            """([name, encoded]) => {
                const bytes = Uint8Array.from(atob(encoded), letter => letter.charCodeAt(0));
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([bytes], name, {type: "image/png"}));
                const at = {bubbles: true, cancelable: true, clientX: 500, clientY: 400, dataTransfer};
                app.canvas.canvas.dispatchEvent(new DragEvent("dragover", at));
                app.canvas.canvas.dispatchEvent(new DragEvent("drop", at));
            }""",
            [name, base64.b64encode(data).decode()],
        )

    def picture(self, name: str) -> None:
        path = self.pictures / f"{name}.png"
        self.page.screenshot(path=path)
        kept = os.environ.get("SCREENSHOTS")
        if kept:
            Path(kept).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, kept)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service in a process of its own, over empty folders and the demo model."""
    folder = tmp_path_factory.mktemp("service")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "server.py"), "--models", str(ROOT / "models"), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # the browser draws on the same cores
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _await_answer(process, f"http://127.0.0.1:{port}", folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_answer(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + 45
    while time.monotonic() < end and process.poll() is None:
        try:
            if "KSampler" in httpx.get(f"{address}/object_info", timeout=30).text:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"the service does not answer: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as started:
        try:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except Error as error:
            pytest.fail(f"Chromium does not start: {error}")
        yield browser
        browser.close()


@pytest.fixture
def editor(browser: Browser, address: str, tmp_path: Path) -> Iterator[Editor]:
    """The editor, opened."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    editor = Editor(context.new_page(), address, tmp_path)
    editor.watch()
    editor.open()
    yield editor
    context.close()


def test_a_first_visit_shows_a_workflow_and_runs_it(editor: Editor) -> None:
    """Nothing lies over the workflow; a run shows its progress, a preview in the sampler and then the saved picture."""
    assert editor.page.locator("[role=dialog]").count() == 0
    widgets = editor.widgets()
    assert widgets["4 CheckpointLoaderSimple"] == ["demo.safetensors"]
    assert widgets["5 EmptyLatentImage"] == [128, 128, 1]
    assert {"3 KSampler", "8 VAEDecode", "9 SaveImage"} <= set(widgets)
    editor.picture("first-visit")

    editor.draw_seldom()
    job = editor.run()
    editor.until(lambda: editor.shown(SAMPLER), "a preview in the sampler")
    ((source, width, _),) = editor.shown(SAMPLER)
    assert source.startswith("blob:")
    assert width > 0
    editor.until(lambda: len(editor.previews) > 7 or editor.heard("execution_success", job), "more previews")
    editor.page.wait_for_timeout(400)  # the canvas draws five times a second
    editor.picture("progress")
    saved = editor.finish(job)
    steps = [told["value"] for told in editor.heard("progress", job) if told["node"] == str(SAMPLER)]
    assert steps == sorted(set(steps))
    assert steps[-1] == widgets["3 KSampler"][2]
    for described, preview in editor.previews:
        assert (described["prompt_id"], described["node_id"]) == (job, str(SAMPLER))
        assert preview.startswith(b"\xff\xd8\xff")
    assert len({preview for _, preview in editor.previews}) == len(editor.previews) > 1

    editor.until(lambda: editor.shown(SAVE), "the saved picture")
    ((source, width, height),) = editor.shown(SAVE)
    assert saved["filename"] in source
    assert (width, height) == (128, 128)
    view = next(response for response in editor.views if response.url == source)
    assert view.status == 200
    assert view.headers["content-type"] == "image/png"
    assert view.body().startswith(b"\x89PNG\r\n\x1a\n")
    editor.page.wait_for_timeout(400)
    editor.picture("finished")
    assert editor.faults == []


def test_a_dropped_picture_gives_its_workflow_back(editor: Editor) -> None:
    """A picture saved by a changed workflow brings every changed value back to an empty editor."""
    editor.draw_seldom()
    editor.set(SAMPLER, seed=271828182845, control_after_generate="fixed", steps=3, cfg=2.5)
    editor.set(6, text='a green square, ☃ and "quotes"')
    made = editor.widgets()
    assert made["3 KSampler"][:4] == [271828182845, "fixed", 3, 2.5]
    saved = editor.finish(editor.run())
    data = httpx.get(f"{editor.address}/view", params=saved).raise_for_status().content

    editor.page.evaluate("app.graph.clear()")
    assert editor.widgets() == {}
    editor.drop(saved["filename"], data)
    editor.until(editor.widgets, "the workflow in the picture", 20)
    assert editor.widgets() == made
    editor.picture("dropped")
    assert editor.faults == []


def test_a_run_is_cancelled_and_the_next_one_runs(editor: Editor) -> None:
    """The editor's button ends a long job as cancelled, and the service takes the next job."""
    editor.draw_seldom()
    editor.set(SAMPLER, seed=31415, control_after_generate="fixed", steps=2000)
    long = editor.run()
    editor.until(lambda: editor.heard("progress", long), "the first step")
    assert editor.job(long)["status"] == "in_progress"
    editor.page.get_by_role("button", name="Cancel current run").click()
    editor.until(lambda: editor.heard("execution_interrupted", long), "the interruption", 20)
    assert editor.job(long)["status"] == "cancelled"
    editor.picture("cancelled")

    editor.set(SAMPLER, steps=2)
    saved = editor.finish(editor.run())
    editor.until(lambda: editor.shown(SAVE), "the next job's picture")
    assert saved["filename"] in editor.shown(SAVE)[0][0]
    assert editor.faults == []
