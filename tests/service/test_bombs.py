"""Too much of everything: pictures, bodies and JSON that are made to fill or to block the service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from tests.service import hostile
from tests.service.running import Running, raw, upload

LIMIT: Final = 4_000_000
JSON: Final = {"Content-Type": "application/json"}


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client() as found:
        yield found


@pytest.mark.parametrize(
    "make",
    [lambda: hostile.png(60_000, 60_000), lambda: hostile.png(4, 4, hostile.text_bomb(2**28))],
    ids=["pixels", "text"],
)
def test_a_small_file_does_not_become_a_large_one(service: Running, client: httpx.Client, make: Any) -> None:
    """Pictures that unpack to very much are refused before they are unpacked, where they are sent and where they lie."""
    data, before = make(), service.memory()
    assert upload(client, "bomb.png", data).status_code == 400
    assert client.put("/v1/inputs/bomb.png", content=data).status_code == 400
    (service.folder("input") / "laid.png").write_bytes(data)
    drawn = {"filename": "laid.png", "type": "input", "preview": "webp"}
    assert client.get("/view", params=drawn).status_code == 400
    assert service.memory() - before < 40 * 2**20
    assert not (service.folder("input") / "bomb.png").exists()


def test_a_body_has_a_limit(service: Running, client: httpx.Client) -> None:
    """A body over the limit is refused by its length, or once it has become too long where it says none."""
    before, part = service.memory(), bytes(2**16)
    for path in ("/prompt", "/v1/jobs", "/upload/image", "/userdata/large", "/settings", "/v1/validate"):
        assert raw(service, "POST", path, headers={"Content-Length": str(10**12)}).status == 413
        if path == "/upload/image":
            assert upload(client, "large.png", bytes(2 * LIMIT)).status_code == 413
            continue
        parts = (part for _ in range(2 * LIMIT // len(part)))
        assert client.post(path, content=parts, headers=JSON).status_code == 413
    assert service.memory() - before < 30 * 2**20
    assert service.is_well()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, "9" * 100_000, '{"prompt":' + "[" * 900 + "]" * 900 + "}"]
)
def test_json_that_is_made_to_choke_on(service: Running, text: str) -> None:
    """JSON nested without end and numbers without end are refused in words."""
    for path in ("/v1/jobs", "/v1/validate", "/v1/plan"):
        assert raw(service, "POST", path, text.encode(), JSON).status in (400, 422)
    for path in ("/settings", "/queue", "/history", "/api/jobs/cancel"):
        assert raw(service, "POST", path, text.encode(), JSON).status in (200, 400)
    assert raw(service, "POST", "/prompt", text.encode(), JSON).status in (
        400,
        500,
    )  # 500 is ComfyUI's answer to no JSON
    assert service.is_well()
