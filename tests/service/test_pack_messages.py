"""What packs send to browsers: to the client they name, or to all that are connected, as ComfyUI does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.service.process import ServiceProcess

PACK = """
from aiohttp import web
from server import PromptServer

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

@server.routes.get("/says")
async def says(request):
    say("route")
    return web.Response()

NODE_CLASS_MAPPINGS = {"Says": Says}
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
