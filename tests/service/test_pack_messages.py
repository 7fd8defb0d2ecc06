"""What packs send to browsers: to the client they name, or to all that are connected, as ComfyUI does."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect

from tests.service.process import ServiceProcess

PACK = """
from aiohttp import web
from comfy.utils import ProgressBar
from PIL import Image
from server import BinaryEventTypes, PromptServer

server = PromptServer.instance

def say(where):
    server.send_sync("said", where)
    server.send_sync("said", where + " to a", server.client_id)
    server.send_sync("said", where + " to b", "b")
    server.send_sync("said", where + " to nobody", sid="nobody")

class Says:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}
    RETURN_TYPES = ()
    FUNCTION = "go"
    CATEGORY = "t"
    OUTPUT_NODE = True
    def go(self, text):
        say(text)
        return {}

class Sends:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}
    RETURN_TYPES = ()
    FUNCTION = "go"
    CATEGORY = "t"
    OUTPUT_NODE = True
    @classmethod
    def IS_CHANGED(cls):
        return float("nan")
    def go(self):
        bar = ProgressBar(20)
        for number in range(20):
            picture = Image.new("RGB", (600, 2), (number, 0, 0))
            bar.update_absolute(number + 1, 20, ("PNG", picture, None))
            server.send_sync(1000, bytes([number]) * 5_000_000, server.client_id)
            server.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, ["PNG", picture, None], server.client_id)
        return {"ui": {"text": ["sent"]}}

@server.routes.get("/says")
async def says(request):
    say("route")
    return web.Response()

NODE_CLASS_MAPPINGS = {"Says": Says, "Sends": Sends}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    place = tmp_path_factory.mktemp("messages")
    (place / "packs").mkdir()
    (place / "packs" / "says.py").write_text(PACK)
    running = ServiceProcess(place / "service", "--custom-nodes", str(place / "packs"))
    try:
        running.start()
        deadline = time.monotonic() + 60
        while httpx.get(f"{running.url}/says").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        yield running
    finally:
        running.close()


@contextlib.asynccontextmanager
async def clients(service: ServiceProcess, *names: str) -> AsyncIterator[list[ClientConnection]]:
    async with contextlib.AsyncExitStack() as stack:
        url = service.url.replace("http", "ws")
        yield [await stack.enter_async_context(connect(f"{url}/ws?clientId={name}")) for name in names]


async def says(service: ServiceProcess, text: str, **more: Any) -> None:
    prompt = {"1": {"class_type": "Says", "inputs": {"text": text}}}
    async with httpx.AsyncClient(base_url=service.url) as http:
        assert (await http.post("/prompt", json={"prompt": prompt, **more})).status_code == 200


async def heard(socket: ClientConnection, count: int) -> list[str]:
    """What the pack said, up to ``count`` messages; no more come for a while after them."""
    found: list[str] = []
    with contextlib.suppress(TimeoutError):
        while True:
            message = json.loads(await asyncio.wait_for(socket.recv(), 20 if len(found) < count else 0.5))
            found += [message["data"]] if message["type"] == "said" else []
    return found


async def test_messages_reach_those_they_are_for(service: ServiceProcess) -> None:
    """Of a node, and of a route while nothing runs; also where a run was asked for by nobody who is connected."""
    async with clients(service, "a", "b", "c") as (a, b, c):
        await says(service, "node", client_id="a")
        assert await heard(a, 2) == ["node", "node to a"]
        assert await heard(b, 2) == ["node", "node to b"]
        assert await heard(c, 1) == ["node"]
        async with httpx.AsyncClient(base_url=service.url) as http:
            assert (await http.get("/says")).status_code == 200
        assert await heard(a, 2) == ["route", "route to a"]
        assert await heard(b, 2) == ["route", "route to b"]
        assert await heard(c, 1) == ["route"]
        await says(service, "nobody's")
        assert await heard(a, 2) == ["nobody's", "nobody's to a"]
        assert await heard(b, 3) == ["nobody's", "nobody's to a", "nobody's to b"]


async def binary_of_a_run(service: ServiceProcess, *, reads_metadata: bool) -> list[bytes]:
    """What comes while the node is the one that was begun last, to a client that for a while does not read."""
    async with (
        connect(f"{service.url.replace('http', 'ws')}/ws?clientId=a", max_size=None, max_queue=1) as socket,
        httpx.AsyncClient(base_url=service.url) as http,
    ):
        flags = {"supports_preview_metadata": reads_metadata}
        await socket.send(json.dumps({"type": "feature_flags", "data": flags}))
        prompt = {"7": {"class_type": "Sends", "inputs": {}}}
        await http.post("/prompt", json={"prompt": prompt, "client_id": "a", "extra_data": {}})
        await asyncio.sleep(2)
        frames: list[bytes] = []
        begun: list[str | None] = []
        while None not in begun:
            frame = await asyncio.wait_for(socket.recv(), 20)
            if isinstance(frame, bytes):
                assert begun == ["7"]
                frames.append(frame)
            elif (message := json.loads(frame))["type"] == "executing":
                begun.append(message["data"]["node"])
        return frames


@pytest.mark.parametrize("reads_metadata", [False, True])
async def test_bytes_and_pictures_all_come(service: ServiceProcess, reads_metadata: bool) -> None:
    """However fast they are made and slowly read: in order, as large as they are, and for the editor with what they are of."""
    frames = await binary_of_a_run(service, reads_metadata=reads_metadata)
    assert len(frames) == 60
    for number in range(20):
        shown, sent, picture = frames[3 * number : 3 * number + 3]
        assert sent == b"\0\0\x03\xe8" + bytes([number]) * 5_000_000
        assert picture.startswith(b"\0\0\0\1\0\0\0\2")
        start = 8
        if reads_metadata:
            length = int.from_bytes(shown[4:8], "big")
            start += length
            assert json.loads(shown[8:start])["node_id"] == "7"
        for file in (picture[8:], shown[start:]):
            image = Image.open(io.BytesIO(file))
            assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (600, 2), (number, 0, 0))
