"""A desk over a test's own folders, and a client of the routes that concern files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from engine.service.desk import Desk
from tests.service.files_app import asking, make_desk


@pytest.fixture
def files_desk(tmp_path: Path) -> Desk:
    return make_desk(tmp_path)


@pytest.fixture
async def files_client(files_desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(files_desk) as client:
        yield client
