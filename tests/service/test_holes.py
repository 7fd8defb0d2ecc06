"""The holes that services of this kind have had: each is tried on the whole service."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Route
from websockets.exceptions import InvalidStatus

from engine.places import Places
from engine.service.app import create_app
from engine.service.settings import ServiceSettings
from tests.service import hostile
from tests.service.files_app import picture
from tests.service.running import Running, harmless, raw, saving, upload


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client() as found:
        yield found


@pytest.fixture
def secret(service: Running) -> Path:
    """A picture beside the service's folders, and links to it and to its folder inside them."""
    path = service.place / "secret.png"
    path.write_bytes(picture(seed=99))
    for folder in ("input", "output", "state/user/default"):
        place = service.folder(folder)
        place.mkdir(parents=True, exist_ok=True)
        for name, target in (("link.png", path), ("door", service.place)):
            if not (place / name).is_symlink():
                (place / name).symlink_to(target)
    return path


def jobs(client: httpx.Client) -> int:
    total: int = client.get("/v1/jobs").json()["total"]
    return total


def loading(name: Any) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "loaded"}},
    }


def checkpoint(name: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}},
        "2": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "3": {"class_type": "VAEEncode", "inputs": {"pixels": ["2", 0], "vae": ["1", 2]}},
        "4": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "model"}},
    }


def outside(service: Running) -> set[str]:
    """Every file of the test's that is not in a folder the service may write to."""
    own = {service.folder(name) for name in ("output", "temp", "state", "log")}
    return {str(path) for path in service.place.rglob("*") if not own & {path, *path.parents}}


# code in files


@pytest.mark.parametrize("name", ["evil.ckpt", "evil.pt", "evil.png", "evil.ckpt.png", "evil.png\0.ckpt"])
def test_a_pickle_cannot_be_uploaded(service: Running, client: httpx.Client, name: str) -> None:
    """A pickle is no picture, whatever it calls itself: no way in takes it, and it is never unpickled."""
    mark = service.place / "unpickled"
    data, before = hostile.pickled(mark), outside(service)
    assert upload(client, name, data).status_code == 400
    assert upload(client, name, data, type="../models", subfolder="../models/checkpoints").status_code == 400
    assert raw(service, "PUT", f"/v1/inputs/{quote(name)}", data).status == 400
    assert outside(service) == before
    assert not mark.exists()


def test_a_pickle_that_a_prompt_names_is_not_unpickled(service: Running, client: httpx.Client) -> None:
    """A checkpoint loader takes no file from elsewhere; one that lies in the models folder fails as a job and does nothing."""
    mark = service.place / "unpickled"
    (service.folder("input") / "evil.ckpt").write_bytes(hostile.pickled(mark))
    for name in ("../../input/evil.ckpt", str(service.folder("input") / "evil.ckpt"), "evil.ckpt [input]"):
        assert client.post("/prompt", json={"prompt": checkpoint(name)}).status_code == 400
    (service.folder("models") / "checkpoints" / "evil.ckpt").write_bytes(hostile.pickled(mark))
    queued = client.post("/prompt", json={"prompt": checkpoint("evil.ckpt")})
    if queued.status_code == 200:
        assert service.ended(client, queued.json()["prompt_id"])["state"] == "failed"
    assert not mark.exists()


def test_names_in_a_model_file_are_data(service: Running, client: httpx.Client) -> None:
    """Tensors and metadata named after Python's insides change nothing: they are told as text, and the model as none that is known."""
    names = ["__class__.__init__.__globals__", "__class__", "model.__dict__.x", "__getattr__", "../../x"]
    file = service.folder("models") / "checkpoints" / "polluted.safetensors"
    file.write_bytes(hostile.safetensors(names, dict.fromkeys(names, "1")))
    told = client.get("/view_metadata/checkpoints", params={"filename": file.name})
    assert told.json() == dict.fromkeys(names, "1")
    job = client.post("/prompt", json={"prompt": checkpoint(file.name)}).json()["prompt_id"]
    assert service.ended(client, job)["state"] == "failed"
    assert client.get("/view_metadata/__class__", params={"filename": file.name}).status_code == 404
    calm = client.post("/prompt", json={"prompt": harmless()}).json()["prompt_id"]
    assert service.ended(client, calm)["state"] == "succeeded"


# paths


def test_no_picture_is_loaded_from_outside(service: Running, client: httpx.Client, secret: Path) -> None:
    """LoadImage takes no name that leads out of the folders; a link out of them is none of its files."""
    answers = {name: client.post("/prompt", json={"prompt": loading(name)}) for name in hostile.outside_names(secret)}
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(answers, 400)


@pytest.mark.parametrize("route", ["/view", "/api/view"])
def test_nothing_is_viewed_from_outside(service: Running, secret: Path, route: str) -> None:
    """/view gives no file from outside, however its name, subfolder and type are put."""
    wanted = secret.read_bytes()
    for name in hostile.outside_names(secret):
        for text in hostile.encodings(name):
            for query in (f"filename={text}", f"filename={secret.name}&subfolder={text}", f"filename=x&type={text}"):
                for kind in ("input", "output"):
                    answer = raw(service, "GET", f"{route}?{query}&type={kind}")
                    assert (answer.status in (400, 403, 404), wanted in answer.body) == (True, False), query
    for subfolder in ("..", "%2e%2e", "..%5c", "door", str(service.place)):
        assert raw(service, "GET", f"{route}?filename={secret.name}&type=input&subfolder={subfolder}").status == 403


def test_the_users_files_are_no_way_out(service: Running, secret: Path) -> None:
    """/userdata neither gives, writes, moves nor deletes a file outside the user's folder."""
    wanted, before = secret.read_bytes(), outside(service)
    for name in hostile.outside_names(secret):
        for text in hostile.encodings(name):
            for method, path in (("GET", text), ("DELETE", text), ("POST", text), ("POST", f"link.png/move/{text}")):
                answer = raw(service, method, f"/userdata/{path}", b"" if method == "GET" else b"overwritten")
                assert wanted not in answer.body
                assert answer.status < 500, (method, path)
    assert outside(service) == before
    assert secret.read_bytes() == wanted
    assert not (service.folder("state") / secret.name).exists()
    assert not (service.folder("state") / "user" / secret.name).exists()
    for folder in ("..", "../..", "/", "door", "%00"):
        assert raw(service, "GET", f"/userdata?dir={folder}&recurse=true").status == 403
        assert raw(service, "GET", f"/v2/userdata?path={folder}").status == 403


def test_no_upload_leaves_the_input_folder(service: Running, client: httpx.Client, secret: Path) -> None:
    """/upload/image and /v1/inputs write below the input folder and nowhere else, links or not."""
    data, wanted = picture(seed=5), secret.read_bytes()

    def elsewhere() -> set[str]:
        return {path for path in outside(service) if not path.startswith(str(service.folder("input")))}

    before = elsewhere()
    for name in hostile.outside_names(secret):
        assert upload(client, name, data, overwrite="true").status_code < 500
        assert upload(client, "new.png", data, subfolder=name, overwrite="true").status_code < 500
        for text in hostile.encodings(name):
            raw(service, "PUT", f"/v1/inputs/{text}?overwrite=true", data)
            raw(service, "PUT", f"/v1/inputs/new.png?overwrite=true&subfolder={text}", data)
    assert elsewhere() == before
    assert secret.read_bytes() == wanted
    assert (service.folder("input") / "link.png").is_symlink()


def test_nothing_is_saved_outside(service: Running, client: httpx.Client, secret: Path) -> None:
    """A prefix of SaveImage that leads out of the output folder fails the job, or names a file inside."""
    wanted, before = secret.read_bytes(), outside(service)
    prefixes = [*hostile.outside_names(secret), "door/new", "../%year%", "%2e%2e/new", "..", "/", "a/../../new", "~"]
    for prefix in prefixes:
        answer = client.post("/prompt", json={"prompt": saving(prefix)})
        if answer.status_code == 200:
            found = service.ended(client, answer.json()["prompt_id"])
            left = found["state"] == "failed" or _saved(service, found).resolve().is_relative_to(
                service.folder("output").resolve()
            )
            assert left, prefix
    client.post("/prompt", json={"prompt": harmless(), "prompt_id": "../../../../id"})
    service.ended(
        client, client.post("/prompt", json={"prompt": harmless()}).json()["prompt_id"]
    )  # and so the one before
    assert outside(service) == before
    assert secret.read_bytes() == wanted


def _saved(service: Running, job: dict[str, Any]) -> Path:
    (image,) = job["outputs"]["2"]["images"]
    return service.folder("output") / str(image["subfolder"]) / str(image["filename"])


# pages of strangers


@pytest.mark.parametrize("name", ["x.svg", "x.html", "x.png", "x.svg.png", "x.xhtml", "x.js"])
@pytest.mark.parametrize("data", [hostile.PAGE, hostile.DRAWING])
def test_a_page_is_no_picture(service: Running, client: httpx.Client, name: str, data: bytes) -> None:
    """A page or a drawing with a script in it is not taken as a picture; nor is a picture under the name of a page."""
    assert upload(client, name, data).status_code == 400
    assert client.put(f"/v1/inputs/{name}", content=data).status_code == 400
    if not name.endswith(".png"):
        assert upload(client, name, picture()).status_code == 400


@pytest.mark.parametrize("name", ["x.html", "x.svg", "x.xhtml", "x.js", "x.mjs", "x.xml", "x.css", "x", "x.HTML"])
def test_what_is_stored_is_never_a_page(service: Running, client: httpx.Client, name: str) -> None:
    """A file of the user's or of a job's that could be a page or a script is bytes to be saved."""
    assert client.post(f"/userdata/{name}", content=hostile.PAGE).status_code == 200
    (service.folder("output") / name).write_bytes(hostile.PAGE)
    for path in (f"/userdata/{name}", f"/api/userdata/{name}", f"/view?filename={name}", f"/api/view?filename={name}"):
        answer = client.get(path, headers={"Accept": "text/html"})
        assert (answer.status_code, answer.content) == (200, hostile.PAGE)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_is_stored_is_no_extension(service: Running, client: httpx.Client) -> None:
    """Files under the names of a pack's scripts are not served as such."""
    for folder in ("extensions/evil", "custom_nodes/evil/web"):
        assert client.post(f"/userdata/{quote(folder + '/evil.js', safe='')}", content=b"alert(1)").status_code == 200
    assert "evil" not in client.get("/extensions").text
    for path in (
        "/extensions/evil/evil.js",
        "/extensions/..%2f..%2fuserdata/evil.js",
        "/custom_nodes/evil/web/evil.js",
    ):
        assert b"alert(1)" not in raw(service, "GET", path).body


STRANGERS = [
    {"Origin": "http://evil.example"},
    {"Origin": "http://evil.example", "Content-Type": "text/plain"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://localhost.evil.example"},
    {"Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"},
    {"Host": "evil.example"},
    {"Host": "evil.example:8188"},
    {"Host": "127.0.0.1.evil.example"},
]


@pytest.mark.parametrize("headers", STRANGERS, ids=lambda headers: " ".join(headers.values()))
def test_a_strangers_page_changes_nothing(service: Running, client: httpx.Client, headers: dict[str, str]) -> None:
    """Neither another site's page nor one under a name of its own that points here can queue, upload, write or stop anything."""
    before, body = jobs(client), json.dumps({"prompt": harmless(), "workflow": harmless()}).encode()
    for path in ("/prompt", "/api/prompt", "/v1/jobs", "/userdata/stranger.txt", "/settings", "/queue", "/interrupt"):
        assert raw(service, "POST", path, body, headers).status == 403
    assert raw(service, "PUT", "/v1/inputs/stranger.png", picture(), headers).status == 403
    assert raw(service, "DELETE", "/v1/cache", b"", headers).status == 403
    assert jobs(client) == before
    assert not (service.folder("input") / "stranger.png").exists()
    for path in ("/v1/jobs", "/history", "/userdata?dir=.") if "Host" in headers else ():
        assert raw(service, "GET", path, b"", headers).status == 403


@pytest.mark.parametrize("path", ["/ws", "/api/ws", "/v1/stream"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_strangers_page_opens_no_socket(service: Running, path: str, origin: str) -> None:
    """A browser lets any page open a websocket anywhere; this service does not, and does for its own page."""
    with pytest.raises(InvalidStatus) as refused:
        service.socket(path, additional_headers={"Origin": origin}).close()
    assert refused.value.response.status_code == 403
    with service.socket(path, additional_headers={"Origin": service.url}) as ours:
        assert ours.recv(timeout=30)


def test_no_answer_lets_other_sites_read(client: httpx.Client) -> None:
    """What another site's page may ask for, it may not read."""
    answer = client.get("/v1/jobs", headers={"Sec-Fetch-Site": "cross-site"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"


def test_no_address_is_fetched(service: Running, client: httpx.Client) -> None:
    """An address where a name belongs is a name: nobody is called."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/x.png"
        for name in (address, f"//{address[5:]}", f"{address} [input]", address.replace("http", "ftp")):
            assert client.post("/prompt", json={"prompt": loading(name)}).status_code == 400
            assert client.post("/prompt", json={"prompt": checkpoint(name)}).status_code == 400
            assert client.get("/view", params={"filename": name}).status_code in (400, 403, 404)
            assert client.get("/view_metadata/checkpoints", params={"filename": name}).status_code == 404
            assert client.post("/v1/jobs", json={"workflow": loading(name)}).status_code == 422
            assert client.post("/v1/jobs", json={"workflow": name}).status_code == 422
            mask = {"original_ref": json.dumps({"filename": name, "url": address})}
            sent = client.post("/upload/mask", files={"image": ("m.png", picture("RGBA"))}, data=mask)
            assert sent.status_code == 400
            assert client.post("/upload/image", data={"image": name, "url": address}).status_code == 400
        listening.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listening.accept()


# names


@pytest.mark.parametrize("name", ["a\r\nX-Evil: 1.png", "a\nb.png", "a\rb.png", 'a"; filename="b.png', "a\u2028b.png"])
def test_a_name_breaks_no_header(service: Running, client: httpx.Client, name: str) -> None:
    """Line breaks in names end up in no header, and in no file's name."""
    text = quote(name, safe="")
    form = "\r\n".join(
        (
            "--b",
            f"Content-Disposition: form-data; name=\"image\"; filename*=utf-8''{text}",
            "Content-Type: image/png",
            "",
            picture().decode("latin-1"),
            "--b--",
            "",
        )
    ).encode("latin-1")
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answers = [
        raw(service, "POST", "/upload/image", form, kind),
        raw(service, "PUT", f"/v1/inputs/{text}", picture()),
        raw(service, "POST", f"/userdata/{text}", b"x"),
        raw(service, "GET", f"/view?filename={text}"),
        raw(service, "GET", f"/userdata/{text}"),
    ]
    answers.append(raw(service, "GET", f"/view?filename={text}&type=input"))
    assert all("x-evil" not in answer.headers and answer.status < 500 for answer in answers)
    stored = [path.name for folder in ("input", "state/user") for path in service.folder(folder).rglob("*")]
    assert not [found for found in stored if set("\r\n") & set(found)]


def test_a_login_link_breaks_no_header(service: Running) -> None:
    """An address with line breaks in it is sent nowhere."""
    for path in ("/%0d%0aX-Evil:1", "/?token=x%0d%0aX-Evil:1", "//evil.example/%2e%2e", "/login?next=//evil.example"):
        answer = raw(service, "GET", path)
        assert "x-evil" not in answer.headers
        assert "evil.example" not in answer.headers.get("location", "")


# what is not there


def _paths(app: FastAPI) -> list[str]:
    found: list[str] = []
    pending: list[Any] = list(app.router.routes)
    while pending:
        route = pending.pop()
        pending.extend(getattr(route, "routes", None) or ())
        pending.extend(getattr(getattr(route, "original_router", None), "routes", None) or ())
        if isinstance(route, Route) or hasattr(route, "path"):
            found.append(str(route.path))
    return found


def test_no_route_installs_downloads_or_writes_code(tmp_path: Path, client: httpx.Client) -> None:
    """There is no route to be had that brings code or models in from elsewhere: none exists."""
    places = Places(
        models=(tmp_path,), input=tmp_path / "i", output=tmp_path / "o", temp=tmp_path / "t", state=tmp_path / "s"
    )
    paths = _paths(create_app(ServiceSettings(places=places)))
    assert {"/prompt", "/ws", "/v1/jobs", "/v1/stream", "/view"} <= set(paths)
    words = ("install", "manager", "customnode", "custom_node", "download", "fetch", "git", "pip", "update", "eval")
    assert [path for path in paths if any(word in path.lower() for word in words)] == []
    for path in ("/manager/queue/install", "/customnode/install/git_url", "/customnode/install/pip", "/model/install"):
        assert client.post(path, content=base64.b64encode(b"x")).status_code in (404, 405)
