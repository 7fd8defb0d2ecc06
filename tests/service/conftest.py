"""A desk over a test's own folders, and a client of the routes that concern files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from engine.service.desk import Desk
from tests.service.files_app import asking, make_desk
from tests.service.running import Running, running


@pytest.fixture
def files_desk(tmp_path: Path) -> Desk:
    return make_desk(tmp_path)


@pytest.fixture
async def files_client(files_desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(files_desk) as client:
        yield client


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The whole service with no models, at work for the tests of one module."""
    with running(tmp_path_factory.mktemp("service"), environment={"MEZZOTINT_MAX_BODY": "4000000"}) as found:
        yield found
