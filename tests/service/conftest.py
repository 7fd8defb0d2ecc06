"""What tests of the service share: desks over a test's own folders, guards of a small app, the whole service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from engine.files import LocalFiles
from engine.service.desk import Desk
from engine.service.security import Guard, Policy
from tests.service.files_app import asking, make_desk, places_below
from tests.service.guarded import TOKEN, app, partnered_policy
from tests.service.running import Running, running


@pytest.fixture
def files_desk(tmp_path: Path) -> Desk:
    return make_desk(tmp_path)


@pytest.fixture
async def files_client(files_desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(files_desk) as client:
        yield client


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    """Folders of a test, with one checkpoint in them."""
    places = places_below(tmp_path)
    checkpoints = tmp_path / "models" / "checkpoints"
    for folder in (checkpoints, places.input):
        folder.mkdir(parents=True)
    (checkpoints / "a.safetensors").write_bytes(b"")
    return places.open_files()


@pytest.fixture
def local() -> Guard:
    """On loopback, open to this machine."""
    return Guard(app(), Policy())


@pytest.fixture
def policy() -> Policy:
    """Of a service that asks for a token."""
    return Policy(token=TOKEN.encode())


@pytest.fixture
def locked(policy: Policy) -> Guard:
    """Asking for the token of ``policy``."""
    return Guard(app(), policy)


@pytest.fixture
def partnered() -> Guard:
    """Open to the pages of one other site."""
    return Guard(app(), partnered_policy())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The whole service with no models, at work for the tests of one module."""
    with running(tmp_path_factory.mktemp("service"), environment={"MEZZOTINT_MAX_BODY": "4000000"}) as found:
        yield found
