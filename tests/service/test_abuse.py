"""Whatever is thrown at the service: it answers as it says it does, stays up, and does not grow."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import msgpack
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from websockets.sync.client import ClientConnection

from engine.service.wire import pack, unpack
from tests.service.running import Running, harmless, raw

_EXAMPLES = 30
_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
_QUICK = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
_GROWTH: Final = 30 * 2**20
"""Bytes that the process may hold more of after all this."""
_JSON: Final = {"Content-Type": "application/json"}
_HALF: Final = "\ud800"
"""Half a character: JSON can say it, UTF-8 cannot."""


def test_v1_answers_whatever_it_is_asked_as_its_schema_says(service: Running) -> None:
    """Requests right and wrong, made from the description of /v1: none is answered 5xx, and no answer is other than described."""
    schema = schemathesis.openapi.from_url(f"{service.url}/v1/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    broken = [f"{operation.label}: {reason}" for operation in operations for reason in _broken(operation)]
    assert len(operations) == 22
    assert "\n".join(broken) == ""
    assert service.is_well()


def _broken(operation: APIOperation[Any, Any, Any, Any]) -> list[str]:
    """What is wrong with answers of one operation, a sentence for each kind."""
    found: dict[str, str] = {}
    modes = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

    @seed(20260101)
    @_QUICK
    @given(case=st.one_of(modes))
    def ask(case: Case[Any]) -> None:
        response = case.call(timeout=30)
        try:
            case.validate_response(response, checks=_CHECKS)
        except Exception as failure:
            found.setdefault(f"{response.status_code} {type(failure).__name__}", f"{failure} {case.as_curl_command()}")

    ask()
    return list(found.values())


_WORKFLOWS: Final[dict[str, dict[str, Any]]] = {
    "node": {_HALF: {"class_type": _HALF, "inputs": {}}},
    "editor": {"nodes": [{"id": _HALF, "type": "SaveImage", "inputs": 5}], "links": [[1, 2, 3]], "version": 0.4},
    "title": {**harmless(), "3": {"class_type": "SaveImage", "_meta": {"title": _HALF}, "inputs": {}}},
}


@pytest.mark.parametrize("route", ["jobs", "validate", "plan"])
@pytest.mark.parametrize("workflow", _WORKFLOWS.values(), ids=_WORKFLOWS)
def test_half_a_character_in_a_workflow_is_told_back(service: Running, route: str, workflow: dict[str, Any]) -> None:
    """What is wrong with a workflow is told though its own words have no place in UTF-8."""
    answer = raw(service, "POST", f"/v1/{route}", json.dumps({"workflow": workflow}).encode(), _JSON)
    assert answer.status in (200, 422)
    assert json.loads(answer.body)["problems"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/jobs", {"workflow": {}, "client": _HALF}, 422),
        ("/v1/jobs", {"workflow": {}, "labels": {_HALF: _HALF}}, 422),
        ("/v1/jobs", {"workflow": {}, "targets": [_HALF]}, 422),
        ("/v1/validate", {"workflow": float("nan")}, 422),
        ("/prompt", {"prompt": harmless(), "prompt_id": _HALF}, 400),
        ("/prompt", {"prompt": harmless(), "client_id": _HALF}, 200),
        ("/queue", {"delete": [_HALF]}, 200),
        ("/history", {"delete": [_HALF]}, 200),
        ("/api/jobs/cancel", {"job_ids": [_HALF]}, 200),
    ],
)
def test_half_a_character_names_nothing(service: Running, path: str, body: dict[str, Any], status: int) -> None:
    """An id that cannot be stored is no job's; where a new thing is to have it, it is refused."""
    assert raw(service, "POST", path, json.dumps(body).encode(), _JSON).status == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/experiment/models/preview/checkpoints/{'9' * 5000}/x", 404),
        ("GET", "/experiment/models/preview/checkpoints/one/x", 404),
        ("GET", f"/v1/jobs?limit={'9' * 5000}", 422),
        ("GET", f"/v1/jobs?offset={2**63}", 422),
        ("GET", f"/v1/jobs/none/events?after={2**64}", 422),
        ("GET", f"/history?offset={'9' * 5000}", 400),
        ("GET", f"/view?filename={'a' * 300}", 404),
        ("POST", f"/userdata/{'a' * 300}", 403),
        ("POST", f"/userdata/{'a%2F' * 2000}b", 403),
        ("POST", f"/userdata/there.txt/move/{'b' * 300}", 403),
        ("PUT", f"/v1/inputs/x.png?subfolder={'a' * 300}", 400),
    ],
)
def test_what_is_too_long_is_the_clients_mistake(service: Running, method: str, path: str, status: int) -> None:
    """Numbers and names that nothing has room for are refused as such."""
    raw(service, "POST", "/userdata/there.txt", b"x")
    assert raw(service, method, path, b"x" if method != "GET" else b"").status == status


@pytest.mark.parametrize("quality", ["9" * 5000, "-1", "0", "\u0663", ""])
def test_a_preview_of_any_quality(service: Running, quality: str) -> None:
    """A quality that is no number, or none that can be, gives the usual one."""
    with service.client() as client:
        job = client.post("/prompt", json={"prompt": harmless()}).json()["prompt_id"]
        (image,) = service.ended(client, job)["outputs"]["2"]["images"]
        answer = client.get("/view", params={"filename": image["filename"], "preview": f"jpeg;{quality}"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")


# websockets

_JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from([_HALF, "\0", "a" * 5000, "../..", 2**63, 10**18]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_OPS = ["auth", "subscribe", "unsubscribe", "call", "hello"]
_METHODS = ["submit", "get", "list", "cancel", "pause", "resume", "outputs", "fetch", "upload", "__class__"]
_PARAMS = [
    "job",
    "workflow",
    "client",
    "labels",
    "limit",
    "offset",
    "states",
    "digest",
    "name",
    "data",
    "id",
    "targets",
]
_NEAR = st.fixed_dictionaries(
    {"op": st.sampled_from(_OPS) | _JUNK, "id": st.integers(0, 9) | _JUNK},
    optional={
        "method": st.sampled_from(_METHODS) | _JUNK,
        "params": st.dictionaries(st.sampled_from([*_PARAMS, "idempotency_key", "priority"]), _JUNK, max_size=4)
        | _JUNK,
        "job": _JUNK,
        "after": _JUNK,
        "token": _JUNK,
        "previews": _JUNK,
    },
)


def _packed(frame: Any) -> bytes:
    data: bytes = msgpack.packb(frame, unicode_errors="surrogatepass")
    return data


_FRAMES = st.binary(max_size=200) | st.builds(_packed, _JUNK) | st.builds(_packed, _NEAR)
_FLAGS = st.builds(
    lambda data: json.dumps({"type": "feature_flags", "data": data}), st.text() | st.dictionaries(st.text(), st.text())
)
_WORDS = (
    st.text(max_size=200) | st.binary(max_size=200) | _FLAGS | st.sampled_from(["[" * 50_000, "9" * 5000, '{"type":1}'])
)


def test_garbage_on_the_stream(service: Running) -> None:
    """Any bytes, any msgpack and frames that are nearly right: each socket stays of use, and so does the service."""

    def still_there(stream: ClientConnection) -> bool:
        stream.send(pack({"op": "call", "id": "last", "method": "get", "params": {"job": "none"}}))
        while (frame := unpack(bytes(_received(stream)))).get("id") != "last":
            pass
        return "there is no job" in frame["message"]

    _throw(service, "/v1/stream", _FRAMES, still_there)


def test_garbage_on_comfys_socket(service: Running) -> None:
    """Any text and any bytes count for nothing on /ws."""

    def still_there(comfy: ClientConnection) -> bool:
        comfy.ping().wait(30)
        return comfy.protocol.close_code is None

    _throw(service, "/ws", _WORDS, still_there)


def _received(socket: ClientConnection) -> bytes:
    data = socket.recv(timeout=30)
    assert isinstance(data, bytes)
    return data


def _throw(
    service: Running, path: str, frames: st.SearchStrategy[str | bytes], still_there: Callable[[ClientConnection], bool]
) -> None:
    """Sends bunches of ``frames``, a socket for each. The first bunch warms the service up."""
    assert service.is_well()
    before = service.memory()

    @seed(20260101)
    @settings(_QUICK, max_examples=150)
    @given(bunch=st.lists(frames, min_size=1, max_size=12))
    def throw(bunch: list[str | bytes]) -> None:
        with service.socket(path) as socket:
            for frame in bunch:
                socket.send(frame)
            assert still_there(socket)

    throw()
    assert service.is_well()
    assert "Traceback" not in service.log()
    assert service.memory() - before < _GROWTH


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("list", {"client": {}}),
        ("list", {"offset": 2**63}),
        ("list", {"limit": float("inf")}),
        ("list", {"labels": 5}),
        ("list", {"states": [_HALF]}),
        ("get", {"job": _HALF}),
        ("cancel", {"job": _HALF}),
        ("submit", {"workflow": harmless(), "idempotency_key": {}}),
        ("submit", {"workflow": harmless(), "idempotency_key": _HALF}),
        ("submit", {"workflow": {_HALF: {}}}),
        ("submit", {}),
        ("upload", {"name": "\0.png", "data": b""}),
        ("fetch", {"digest": _HALF}),
        ([], {}),
        ("get", []),
    ],
)
def test_every_call_is_answered(service: Running, method: Any, params: Any) -> None:
    """A call with params that are of no use is answered with an error; nobody waits for ever."""
    with service.socket("/v1/stream") as stream:
        stream.send(_packed({"op": "call", "id": 7, "method": method, "params": params}))
        while (frame := unpack(_received(stream)))["op"] == "hello":
            pass
    assert (frame["op"], frame["id"]) == ("error", 7)
    assert "failed" not in frame["message"]


@pytest.mark.parametrize(
    "frame", [{"job": _HALF}, {"job": 5}, {"after": 2**64 - 1}, {"after": -1}, {"id": [1]}, {"id": {}}]
)
def test_a_subscription_to_nothing_is_refused(service: Running, frame: dict[str, Any]) -> None:
    """What cannot be subscribed to is refused, and the socket stays open."""
    with service.socket("/v1/stream") as stream:
        assert unpack(_received(stream))["op"] == "hello"
        for _ in range(2):
            stream.send(_packed({"op": "subscribe", "id": 1, **frame}))
            assert unpack(_received(stream))["op"] == "error"
