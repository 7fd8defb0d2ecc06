"""What packs reach of the service."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import server
from engine.compat.host import Host, Route, calling
from engine.compat.progress import ProgressBar
from tests.compat.conftest import Watched
from tests.conftest import ROOT

instance: Any = server.PromptServer.instance


async def _handler(request: Any) -> None: ...


def test_routes_are_noted_with_their_pack(host: Host, tmp_path: Path) -> None:
    host.loading = "a-pack"
    assert instance.routes.get("/a/{name}", allow_head=False)(_handler) is _handler
    instance.routes.view("/v")(_handler)
    instance.routes.static("/files", tmp_path)
    instance.app.add_routes(
        [SimpleNamespace(method="POST", path="/b", handler=_handler), SimpleNamespace(prefix="/c", path=str(tmp_path))]
    )
    instance.app.router.add_delete("/d", _handler)
    instance.app.router.add_route("get", "/e", _handler)
    assert host.routes == [
        Route("GET", "/a/{name}", _handler, "a-pack"),
        Route("*", "/v", _handler, "a-pack"),
        Route("STATIC", "/files", None, "a-pack", str(tmp_path)),
        Route("POST", "/b", _handler, "a-pack"),
        Route("STATIC", "/c", None, "a-pack", str(tmp_path)),
        Route("DELETE", "/d", _handler, "a-pack"),
        Route("GET", "/e", _handler, "a-pack"),
    ]


def test_messages_go_to_one_client_or_to_everybody(host: Host, watched: Watched) -> None:
    """By the name a pack gives, within a call and outside of one; whose run was the last is known afterwards too."""
    told: list[tuple[str | int, Any, str | None]] = []
    host.broadcast = lambda name, data, client: told.append((name, data, client))
    assert instance.client_id is None
    with calling(watched.context()):
        instance.send_sync("a", {"x": 1}, instance.client_id)
        instance.send_sync("b", None)
        instance.send_sync("c", 1, sid=5)
        instance.send_progress_text("half", instance.last_node_id)
        instance.send_progress_text("more", "7", "other")
    assert watched.messages == [
        ("a", {"x": 1}, "editor-1"),
        ("b", None, None),
        ("c", 1, "5"),
        ("progress_text", {"node": "7", "text": "half"}, None),
        ("progress_text", {"node": "7", "text": "more"}, "other"),
    ]
    instance.send_sync("d", None)
    instance.send_sync("e", None, instance.client_id)
    assert told == [("d", None, None), ("e", None, "editor-1")]


def test_a_call_sees_its_run_alone(watched: Watched) -> None:
    with calling(watched.context(metadata={"prompt": {"7": {}}, "workflow": {"id": 1}})):
        running = instance.prompt_queue.get_current_queue()[0]
        assert instance.last_prompt_id == "job-1"
    assert running == [(0, "job-1", {"7": {}}, {"extra_pnginfo": {"workflow": {"id": 1}}}, [])]
    assert (instance.last_prompt_id, instance.prompt_queue.get_tasks_remaining()) == (None, 0)


def test_a_picture_on_the_way_is_a_preview(watched: Watched) -> None:
    """One with a longest side, for whoever watches the run; it does not change what is said of the steps."""
    picture = Image.new("RGB", (4, 4), "blue")
    with calling(watched.context()):
        ProgressBar(8).update(3)
        instance.send_sync(server.BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, ("JPEG", picture, 32), instance.client_id)
    done, total, encode = watched.reports[1]
    assert encode is not None
    assert (done, total, Image.open(io.BytesIO(encode())).size) == (3, 8, (32, 32))
    assert (watched.messages, watched.shown) == ([], [])


async def test_bytes_are_sent_as_they_are(host: Host, watched: Watched) -> None:
    """Of any number, to one client or to all, within a call and outside of one; they are no preview, whatever they are."""
    told: list[tuple[str | int, Any, str | None]] = []
    host.broadcast = lambda name, data, client: told.append((name, data, client))
    with calling(watched.context()):
        instance.send_sync(server.BinaryEventTypes.PREVIEW_IMAGE, b"\0\0\0\5film", "a")
        instance.send_sync(server.BinaryEventTypes.TEXT, bytearray(b"text"))
        await instance.send_bytes(1000, b"own", instance.client_id)
    assert watched.messages == [(1, b"\0\0\0\5film", "a"), (3, b"text", None), (1000, b"own", "editor-1")]
    assert all(type(name) is int and type(data) is bytes for name, data, _ in watched.messages)
    await instance.send_bytes(1, b"later", "a")
    assert told == [(1, b"later", "a")]
    assert watched.reports == []


async def test_a_picture_for_its_own_sake_is_sent_in_its_format(watched: Watched) -> None:
    """One without a longest side, or for another client than the run's; as clients read it, who are told the format."""
    picture = Image.new("RGBA", (4, 2), (9, 8, 7, 6))
    with calling(watched.context()):
        instance.send_sync(server.BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, ["PNG", picture, None], instance.client_id)
        await instance.send_image(("JPEG", picture, 8), "other")
        await instance.send_image_with_metadata(("PNG", picture, None), {"node_id": "7"}, "other")
    (one, png, first), (two, jpeg, second), (three, told, third) = watched.messages
    assert [(one, first), (two, second), (three, third)] == [(1, "editor-1"), (1, "other"), (4, "other")]
    assert (png[:4], jpeg[:4]) == (b"\0\0\0\2", b"\0\0\0\1")
    assert Image.open(io.BytesIO(png[4:])).getpixel((3, 1)) == (9, 8, 7, 6)
    small = Image.open(io.BytesIO(jpeg[4:]))
    assert (small.format, small.size) == ("JPEG", (8, 4))
    length = int.from_bytes(told[:4], "big")
    assert json.loads(told[4 : 4 + length]) == {"node_id": "7", "image_type": "image/png"}
    assert Image.open(io.BytesIO(told[4 + length :])).size == (4, 2)
    assert watched.reports == []


def test_a_picture_of_a_progress_bar_may_be_a_result(watched: Watched) -> None:
    """Packs send what they made to who waits on a websocket so: in full size, and as PNG."""
    picture = Image.new("RGB", (4, 2), "blue")
    with calling(watched.context()):
        bar = ProgressBar(2)
        bar.update_absolute(1, 2, ("JPEG", picture, 512))
        bar.update_absolute(2, 2, ("PNG", picture, None))
    assert [(done, preview is not None) for done, _, preview in watched.reports] == [(1, True), (2, False)]
    (shown,) = watched.shown
    found = Image.open(io.BytesIO(shown))
    assert (found.format, found.size) == ("PNG", (4, 2))


def test_posted_workflows_pass_through_handlers(host: Host) -> None:
    instance.add_on_prompt_handler(lambda posted: posted | {"a": 1})
    instance.add_on_prompt_handler(lambda posted: posted | {"b": posted["a"] + 1})
    assert instance.trigger_on_prompt({}) == {"a": 1, "b": 2}
    assert len(host.prompt_handlers) == 2


async def test_the_loop_is_the_services_or_the_one_at_hand(host: Host) -> None:
    assert instance.loop is asyncio.get_running_loop()
    assert await asyncio.to_thread(lambda: instance.loop) is None
    host.loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(lambda: instance.loop) is host.loop


def test_the_front_door_is_light() -> None:
    code = "import sys, server; print([name for name in ('torch', 'engine.compat') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = server.nope
