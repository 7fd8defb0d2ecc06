"""A small service of the routes that concern files, over folders of a test."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from starlette.applications import Starlette

from engine.places import Places
from engine.registry import Registry
from engine.service import editor
from engine.service.comfy import models, system, uploads, users, view
from engine.service.desk import Desk
from engine.service.settings import ServiceLimits, ServiceSettings


def places_below(folder: Path) -> Places:
    """A service's folders, none of which need be there."""
    return Places(
        models=(folder / "models",),
        input=folder / "input",
        output=folder / "output",
        temp=folder / "temp",
        state=folder / "state",
    )


def make_desk(folder: Path, **limits: int) -> Desk:
    """A desk over folders that are there."""
    places = places_below(folder)
    for place in (places.input, places.output, places.temp, folder / "models" / "checkpoints"):
        place.mkdir(parents=True, exist_ok=True)
    settings = ServiceSettings(places=places, limits=ServiceLimits(**limits))
    return Desk(settings, Registry(), places.open_files())


def make_app(desk: Desk) -> Starlette:
    parts = (view, uploads, models, users, system, editor)
    app = Starlette(routes=[route for part in parts for route in part.routes()])
    app.state.desk = desk
    return app


@asynccontextmanager
async def asking(desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app over ``desk``."""
    transport = httpx.ASGITransport(app=make_app(desk))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client


def picture(
    mode: str = "RGB", size: tuple[int, int] = (8, 6), seed: int = 0, format: str = "PNG", **options: Any
) -> bytes:
    """A file of random pixels."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0], bands) if bands > 1 else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))
