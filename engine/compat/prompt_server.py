"""``server``: what packs reach of the service. Routes are noted down for it; messages go to whoever watches the run.

Packs write their routes for aiohttp. Nothing here needs it: handlers are kept as they are.
"""

from __future__ import annotations

import asyncio
import enum
import json
import os
import struct
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

from engine.compat.host import Route, call_state, current, host
from engine.compat.progress import PreviewImage, encoded, encoder, is_result

Handler = TypeVar("Handler", bound=Callable[..., Any])


class BinaryEventTypes(enum.IntEnum):
    """Messages that are no JSON."""

    PREVIEW_IMAGE = 1
    UNENCODED_PREVIEW_IMAGE = 2
    TEXT = 3
    PREVIEW_IMAGE_WITH_METADATA = 4


def _note(method: str, path: str, handler: Callable[..., Any] | None, directory: Any = None) -> None:
    folder = None if directory is None else os.fspath(directory)
    here = host()
    here.routes.append(Route(method.upper(), path, handler, here.loading, folder))


class Routes:
    """Decorators, as aiohttp's route table has them."""

    def route(self, method: str, path: str, **_: Any) -> Callable[[Handler], Handler]:
        def decorate(handler: Handler) -> Handler:
            _note(method, path, handler)
            return handler

        return decorate

    def get(self, path: str, **_: Any) -> Callable[[Handler], Handler]:
        return self.route("GET", path)

    def post(self, path: str, **_: Any) -> Callable[[Handler], Handler]:
        return self.route("POST", path)

    def put(self, path: str, **_: Any) -> Callable[[Handler], Handler]:
        return self.route("PUT", path)

    def patch(self, path: str, **_: Any) -> Callable[[Handler], Handler]:
        return self.route("PATCH", path)

    def delete(self, path: str, **_: Any) -> Callable[[Handler], Handler]:
        return self.route("DELETE", path)

    def head(self, path: str, **_: Any) -> Callable[[Handler], Handler]:
        return self.route("HEAD", path)

    def options(self, path: str, **_: Any) -> Callable[[Handler], Handler]:
        return self.route("OPTIONS", path)

    def view(self, path: str, **_: Any) -> Callable[[Handler], Handler]:
        return self.route("*", path)

    def static(self, prefix: str, path: Any, **_: Any) -> None:
        _note("STATIC", prefix, None, path)


class Router:
    """The functions of aiohttp's router that add routes."""

    def add_route(self, method: str, path: str, handler: Callable[..., Any], **_: Any) -> None:
        _note(method, path, handler)

    def add_get(self, path: str, handler: Callable[..., Any], **_: Any) -> None:
        _note("GET", path, handler)

    def add_post(self, path: str, handler: Callable[..., Any], **_: Any) -> None:
        _note("POST", path, handler)

    def add_put(self, path: str, handler: Callable[..., Any], **_: Any) -> None:
        _note("PUT", path, handler)

    def add_patch(self, path: str, handler: Callable[..., Any], **_: Any) -> None:
        _note("PATCH", path, handler)

    def add_delete(self, path: str, handler: Callable[..., Any], **_: Any) -> None:
        _note("DELETE", path, handler)

    def add_view(self, path: str, handler: Callable[..., Any], **_: Any) -> None:
        _note("*", path, handler)

    def add_static(self, prefix: str, path: Any, **_: Any) -> None:
        _note("STATIC", prefix, None, path)

    def add_routes(self, routes: Iterable[Any]) -> None:
        """Takes what ``web.get(...)``, ``web.static(...)`` and their like make."""
        for route in routes:
            if hasattr(route, "prefix"):
                _note("STATIC", route.prefix, None, route.path)
            else:
                _note(route.method, route.path, route.handler)


class App:
    """What packs use of aiohttp's application."""

    def __init__(self) -> None:
        self.router = Router()
        self.middlewares: list[Any] = []
        """Not run: a pack does not see the requests of others."""
        self.on_startup: list[Any] = []
        self.on_shutdown: list[Any] = []
        self.on_cleanup: list[Any] = []

    def add_routes(self, routes: Iterable[Any]) -> None:
        self.router.add_routes(routes)


class PromptQueue:
    """What packs ask of the queue: they see the run of their own call."""

    @property
    def currently_running(self) -> dict[int, Any]:
        context = current.get()
        if context is None:
            return {}
        extra = {"extra_pnginfo": {key: value for key, value in context.metadata.items() if key != "prompt"}}
        return {0: (0, context.job, context.metadata.get("prompt", {}), extra, [])}

    def get_current_queue(self) -> tuple[list[Any], list[Any]]:
        return list(self.currently_running.values()), []

    get_current_queue_volatile = get_current_queue

    def get_tasks_remaining(self) -> int:
        return len(self.currently_running)

    def get_history(
        self, prompt_id: str | None = None, max_items: int | None = None, offset: int = -1
    ) -> dict[str, Any]:
        return {}

    def set_flag(self, name: str, data: Any) -> None:
        """Asks that memory be given back, which happens when it is needed."""


def _send(name: str | int, data: Any, client: str | None) -> None:
    context = current.get()
    send = host().broadcast if context is None else context.send
    send(name, data, client)


def _send_picture(image: PreviewImage, metadata: dict[str, Any] | None, client: str | None) -> None:
    """One on the way is a preview of the call under way, which does not change what is said of its steps; any other is sent as it is."""
    state = call_state()
    if state is not None and client == state.context.client and not is_result(image):
        state.context.report(*state.progress, encoder(image))
        return
    file, is_png = encoded(image), image[0] == "PNG"
    if metadata is None:
        _send(int(BinaryEventTypes.PREVIEW_IMAGE), struct.pack(">I", 2 if is_png else 1) + file, client)
        return
    said = json.dumps({**metadata, "image_type": "image/png" if is_png else "image/jpeg"}).encode()
    _send(int(BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA), struct.pack(">I", len(said)) + said + file, client)


class PromptServer:
    """``PromptServer.instance``."""

    instance: ClassVar[PromptServer]

    def __init__(self) -> None:
        self.routes = Routes()
        self.app = App()
        self.prompt_queue = PromptQueue()
        self.number = 0
        self.supports = ["custom_nodes_from_web"]
        self.sockets: dict[str, Any] = {}
        self.sockets_metadata: dict[str, Any] = {}

    @property
    def client_id(self) -> str | None:
        """Who watches the run of the call under way, or of the last one; None where that run was asked for by nobody who watches."""
        context = current.get()
        return host().client if context is None else context.client

    @client_id.setter
    def client_id(self, value: str | None) -> None:
        """Packs set it around a call of theirs; who watches a run is not theirs to say."""

    @property
    def last_prompt_id(self) -> str | None:
        context = current.get()
        return None if context is None else context.job

    @last_prompt_id.setter
    def last_prompt_id(self, value: str | None) -> None: ...

    @property
    def last_node_id(self) -> str | None:
        context = current.get()
        return None if context is None else context.node

    @last_node_id.setter
    def last_node_id(self, value: str | None) -> None: ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that serves requests, or the one this is called on; None where there is neither."""
        try:
            return host().loop or asyncio.get_running_loop()
        except RuntimeError:
            return None

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        """Send a message to the client called ``sid``, or to all that are connected. With a number for a name it is bytes."""
        client = None if sid is None else str(sid)
        if isinstance(data, bytes | bytearray):
            _send(int(event) if isinstance(event, int) else event, bytes(data), client)
        elif event == BinaryEventTypes.UNENCODED_PREVIEW_IMAGE:
            _send_picture(tuple(data), None, client)
        elif event == BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA:
            _send_picture(tuple(data[0]), data[1], client)
        else:
            _send(str(event), data, client)

    async def send(self, event: Any, data: Any, sid: str | None = None) -> None:
        self.send_sync(event, data, sid)

    send_json = send
    send_bytes = send

    async def send_image(self, image_data: Any, sid: str | None = None) -> None:
        self.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, image_data, sid)

    async def send_image_with_metadata(
        self, image_data: Any, metadata: dict[str, Any] | None = None, sid: str | None = None
    ) -> None:
        self.send_sync(BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA, (image_data, metadata or {}), sid)

    def send_progress_text(self, text: Any, node_id: str, sid: str | None = None) -> None:
        """Show a text at a node."""
        shown = text.decode() if isinstance(text, bytes | bytearray) else str(text)
        self.send_sync("progress_text", {"node": str(node_id), "text": shown}, sid)

    def queue_updated(self) -> None:
        """Whoever watches is told of the queue by the service."""

    def get_queue_info(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": self.prompt_queue.get_tasks_remaining()}}

    def add_routes(self) -> None:
        """Routes count as soon as they are noted."""

    def add_on_prompt_handler(self, handler: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Have posted workflows pass through ``handler``."""
        host().prompt_handlers.append(handler)

    @property
    def on_prompt_handlers(self) -> list[Callable[[dict[str, Any]], dict[str, Any]]]:
        return host().prompt_handlers

    def trigger_on_prompt(self, json_data: dict[str, Any]) -> dict[str, Any]:
        """What the handlers make of a posted workflow."""
        for handler in host().prompt_handlers:
            json_data = handler(json_data)
        return json_data


PromptServer.instance = PromptServer()
