"""What an editor keeps with the service: settings and files."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import httpx
import pytest

from engine.service.desk import Desk
from tests.service.files_app import asking, make_desk


@pytest.fixture
def user(files_desk: Desk) -> Path:
    folder = files_desk.settings.user_folder / "default"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_settings_are_kept(files_client: httpx.AsyncClient, user: Path, prefix: str) -> None:
    """Settings are merged, one by one and many at once, and read back; one that is not set is null."""
    assert (await files_client.get(f"{prefix}/settings")).json() == {}
    assert (await files_client.post(f"{prefix}/settings", json={"a": 1, "b": [2]})).content == b""
    assert (await files_client.post(f"{prefix}/settings/Comfy.Theme", json="dark")).status_code == 200
    assert (await files_client.post(f"{prefix}/settings", json={"a": None})).status_code == 200
    expected = {"a": None, "b": [2], "Comfy.Theme": "dark"}
    assert (await files_client.get(f"{prefix}/settings")).json() == expected
    assert (await files_client.get(f"{prefix}/settings/b")).json() == [2]
    assert (await files_client.get(f"{prefix}/settings/none")).text == "null"
    assert json.loads((user / "comfy.settings.json").read_text()) == expected


async def test_settings_that_come_at_once_are_all_kept(files_client: httpx.AsyncClient) -> None:
    """No change undoes another one."""
    await asyncio.gather(*(files_client.post(f"/settings/s{number}", json=number) for number in range(20)))
    assert (await files_client.get("/settings")).json() == {f"s{number}": number for number in range(20)}


@pytest.mark.parametrize("body", ["[1]", "1", "{", "", "[" * 100_000])
async def test_settings_are_an_object(files_client: httpx.AsyncClient, body: str) -> None:
    """What is no object of settings is refused, and changes nothing."""
    await files_client.post("/settings", json={"a": 1})
    answer = await files_client.post("/settings", content=body)
    assert answer.status_code == 400
    assert (await files_client.get("/settings")).json() == {"a": 1}


@pytest.mark.parametrize("content", [b"{broken", b"[1]", b"\xff\xfe", b""])
async def test_broken_settings_are_put_aside(
    files_client: httpx.AsyncClient, user: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """A file that is no settings is said once, kept under another name, and in nobody's way."""
    (user / "comfy.settings.json").write_bytes(content)
    with caplog.at_level(logging.ERROR):
        assert (await files_client.get("/settings")).json() == {}
        assert (await files_client.post("/settings", json={"a": 1})).status_code == 200
        assert (await files_client.get("/settings")).json() == {"a": 1}
    (aside,) = user.glob("comfy.settings.broken-*.json")
    assert aside.read_bytes() == content
    (said,) = caplog.records
    assert str(aside) in said.getMessage()


async def test_there_is_one_user(files_client: httpx.AsyncClient) -> None:
    """An editor is told that it needs no login, and that there is no other user to be made."""
    answer = (await files_client.get("/api/users")).json()
    assert answer["storage"] == "server"
    assert "users" not in answer
    refused = await files_client.post("/api/users", json={"username": "x"})
    assert refused.status_code == 400
    assert "error" in refused.json()


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_a_workflow_is_kept(files_client: httpx.AsyncClient, user: Path, prefix: str) -> None:
    """Bytes go in and come out; the slashes of a name are encoded, and its per cent signs are its own."""
    url = f"{prefix}/userdata/workflows%2Fmy%20100%2525.json"
    answer = await files_client.post(url, content=b"\x00\xffbytes")
    assert (answer.status_code, answer.json()) == (200, "workflows/my 100%25.json")
    assert (user / "workflows" / "my 100%25.json").read_bytes() == b"\x00\xffbytes"
    assert (await files_client.get(url)).content == b"\x00\xffbytes"
    assert (await files_client.get(f"{prefix}/userdata/workflows/my%20100%2525.json")).content == b"\x00\xffbytes"
    gone = await files_client.delete(url)
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await files_client.get(url)).status_code == 404
    assert (await files_client.delete(url)).status_code == 404


async def test_a_file_is_not_overwritten_unasked(files_client: httpx.AsyncClient, user: Path) -> None:
    """``overwrite=false`` leaves what is there; without it the new bytes take the place; of many at once one wins."""
    sent = [files_client.post("/userdata/a.json?overwrite=false", content=b"%d" % number) for number in range(6)]
    statuses = [answer.status_code for answer in await asyncio.gather(*sent)]
    assert sorted(statuses) == [200, *[409] * 5]
    assert (user / "a.json").read_bytes() == b"%d" % statuses.index(200)
    assert (await files_client.post("/userdata/a.json", content=b"new")).status_code == 200
    assert [path.read_bytes() for path in user.iterdir()] == [b"new"]


async def test_a_file_is_described(files_client: httpx.AsyncClient, user: Path) -> None:
    """``full_info`` says size and times, and the path from the user's folder."""
    answer = await files_client.post("/userdata/workflows%2Fa.json?full_info=true", content=b"12345")
    found = (user / "workflows" / "a.json").stat()
    assert answer.json() == {
        "path": "workflows/a.json",
        "size": 5,
        "modified": found.st_mtime,
        "created": found.st_ctime,
    }


async def test_a_file_is_moved(files_client: httpx.AsyncClient, user: Path) -> None:
    """A new name may be in a new folder; what is there is replaced only when asked."""
    (user / "a.json").write_bytes(b"a")
    (user / "b.json").write_bytes(b"b")
    moved = await files_client.post("/api/userdata/a.json/move/x%2Fy%2Fa.json")
    assert (moved.status_code, moved.json()) == (200, "x/y/a.json")
    assert (user / "x" / "y" / "a.json").read_bytes() == b"a"
    taken = await files_client.post("/userdata/x%2Fy%2Fa.json/move/b.json?overwrite=false")
    assert taken.status_code == 409
    assert (user / "b.json").read_bytes() == b"b"
    replaced = await files_client.post("/userdata/x%2Fy%2Fa.json/move/b.json?overwrite=true&full_info=true")
    assert (replaced.json()["path"], replaced.json()["size"]) == ("b.json", 1)
    assert (user / "b.json").read_bytes() == b"a"
    assert (await files_client.post("/userdata/none.json/move/c.json")).status_code == 404


async def test_lists(files_client: httpx.AsyncClient, user: Path) -> None:
    """Files of a folder, or of all below it, as names, parts or descriptions; hidden ones are not listed."""
    for name in ("workflows/b.json", "workflows/sub/a.json", "workflows/.index.json", "workflows/.x/c.json", "d.txt"):
        (user / name).parent.mkdir(parents=True, exist_ok=True)
        (user / name).write_bytes(name.encode())

    async def listed(query: str) -> object:
        return (await files_client.get(f"/api/userdata?{query}")).json()

    assert await listed("dir=workflows") == ["b.json"]
    assert await listed("dir=workflows&recurse=true") == ["b.json", "sub/a.json"]
    assert await listed("dir=workflows&recurse=true&split=true") == [
        ["b.json", "b.json"],
        ["sub/a.json", "sub", "a.json"],
    ]
    described = await listed("dir=workflows&recurse=true&full_info=true&split=false")
    assert isinstance(described, list)
    assert [(entry["path"], entry["size"]) for entry in described] == [("b.json", 16), ("sub/a.json", 20)]
    assert all(isinstance(entry[key], float) for entry in described for key in ("modified", "created"))
    entries = (await files_client.get("/v2/userdata?path=workflows")).json()
    assert [(entry["name"], entry["path"], entry["type"]) for entry in entries] == [
        ("b.json", "workflows/b.json", "file"),
        ("sub", "workflows/sub", "directory"),
    ]
    top = (await files_client.get("/v2/userdata")).json()
    assert [entry["path"] for entry in top] == ["d.txt", "workflows"]


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("dir=", 400), ("dir=none", 404), ("dir=..", 403), ("dir=%2Fetc", 403), ("dir=away", 403)],
)
async def test_lists_of_nothing(files_client: httpx.AsyncClient, user: Path, query: str, status: int) -> None:
    """No folder, one that is not there, and one that is elsewhere."""
    (user / "away").symlink_to("/etc")
    assert (await files_client.get(f"/userdata?{query}")).status_code == status
    assert (await files_client.get(f"/v2/userdata?{query.replace('dir', 'path')}")).status_code in (200, status)


OUTSIDE = [
    "..%2F..%2Fsecret.txt",
    "..%2Fsecret.txt",
    "workflows%2F..%2F..%2Fsecret.txt",
    "..%5Csecret.txt",
    "%2Fetc%2Fpasswd",
    "C%3A%5Csecret.txt",
    "a%00.json",
    "a%0D%0AX.json",
    ".hidden.json",
    ".hidden%2Fa.json",
    ".index.json%2Fa.json",
    "link.txt",
    "away%2Fsecret.txt",
    "%ff.json",
    "%2E%2E%2Fsecret.txt",
    "",
]


@pytest.mark.parametrize("name", OUTSIDE)
async def test_no_name_leaves_the_users_folder(
    files_client: httpx.AsyncClient, files_desk: Desk, user: Path, name: str
) -> None:
    """Read, written, deleted or moved: what is elsewhere or hidden is out of reach, and stays as it is."""
    secrets = [user.parent / "secret.txt", user.parent.parent / "secret.txt", user / ".hidden.json"]
    (user / ".hidden").mkdir()
    secrets.append(user / ".hidden" / "a.json")
    for secret in secrets:
        secret.write_bytes(b"secret")
    (user / "link.txt").symlink_to(secrets[0])
    (user / "away").symlink_to(user.parent)
    (user / "mine.json").write_bytes(b"mine")
    before = sorted(files_desk.places.state.rglob("*"))
    answers = [
        await files_client.get(f"/userdata/{name}"),
        await files_client.post(f"/userdata/{name}", content=b"new"),
        await files_client.delete(f"/userdata/{name}"),
        await files_client.post(f"/userdata/mine.json/move/{name}"),
        await files_client.post(f"/userdata/{name}/move/stolen.txt"),
    ]
    assert {answer.status_code for answer in answers} <= {403, 404}, answers
    assert all(b"secret\n" not in answer.content for answer in answers)
    assert {secret.read_bytes() for secret in secrets} == {b"secret"}
    assert sorted(files_desk.places.state.rglob("*")) == before


async def test_names_are_decoded_once(files_client: httpx.AsyncClient, user: Path) -> None:
    """A name that is encoded twice is a name with per cent signs."""
    (user.parent / "secret.txt").write_bytes(b"secret")
    assert (await files_client.get("/userdata/a%252F..%252F..%252Fsecret.txt")).status_code == 404
    answer = await files_client.post("/userdata/a%252F..%252F..%252Fsecret.txt", content=b"x")
    assert answer.status_code == 200
    assert (user / "a%2F..%2F..%2Fsecret.txt").read_bytes() == b"x"
    assert (user.parent / "secret.txt").read_bytes() == b"secret"


async def test_bookmarks_of_the_editor(files_client: httpx.AsyncClient, user: Path) -> None:
    """The one hidden file an editor keeps."""
    assert (await files_client.post("/userdata/workflows%2F.index.json", content=b"{}")).status_code == 200
    assert (await files_client.get("/userdata/workflows%2F.index.json")).json() == {}


@pytest.mark.parametrize("name", ["x.html", "x.svg", "x.js", "x.css", "sub%2Fuser.css", "x.xml", "x"])
async def test_nothing_that_could_run_is_shown(files_client: httpx.AsyncClient, name: str) -> None:
    """A stored page or script is bytes to be saved."""
    await files_client.post(f"/userdata/{name}", content=b"<script>alert(1)</script>")
    answer = await files_client.get(f"/userdata/{name}")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_users_style_is_a_style(files_client: httpx.AsyncClient) -> None:
    """``user.css`` is what an editor links to; JSON says that it is JSON."""
    await files_client.post("/userdata/user.css", content=b"body {}")
    await files_client.post("/userdata/a.json", content=b"{}")
    assert (await files_client.get("/userdata/user.css")).headers["content-type"] == "text/css; charset=utf-8"
    assert (await files_client.get("/userdata/a.json")).headers["content-type"] == "application/json"


async def test_a_file_in_the_way(files_client: httpx.AsyncClient, user: Path) -> None:
    """A folder where a file should be, and a file where a folder should be, are refused."""
    (user / "a").write_bytes(b"a")
    (user / "folder").mkdir()
    for name in ("a%2Fb.json", "folder"):
        assert (await files_client.post(f"/userdata/{name}", content=b"x")).status_code == 403
    assert (await files_client.post("/userdata/a/move/folder")).status_code == 409
    assert (await files_client.delete("/userdata/folder")).status_code == 404
    assert sorted(path.name for path in user.iterdir()) == ["a", "folder"]


async def test_bodies_are_limited(tmp_path: Path) -> None:
    """Neither files nor settings may be larger than a service takes."""
    desk = make_desk(tmp_path, body=1000)
    async with asking(desk) as client:
        for path in ("/userdata/a.json", "/settings", "/settings/x"):
            assert (await client.post(path, content=b"1" * 1001)).status_code == 413, path
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
