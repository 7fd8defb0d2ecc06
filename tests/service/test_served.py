"""Names that clients send, and the files they reach."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from engine.errors import PathOutsideRoots
from engine.service.served import Folder, NameTooLong, inside, safe_name


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.png", "a.png"),
        ("a/b.png", "a/b.png"),
        ("a\\b.png", "a/b.png"),
        ("a//./b.png", "a/b.png"),
        ("100% é.png", "100% é.png"),
    ],
)
def test_plain_names(name: str, path: str) -> None:
    """A name is a path below a folder, whichever slash it is written with."""
    assert safe_name(name) == PurePosixPath(path)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "/", "/etc/passwd", "..", "a/../b", "a\\..\\b", "C:\\x", "\\\\host\\x", "a\0b"),
        *(".env", ".git/config", "a/.b/c", "a\nb", "a\x7f", "\ud800"),
    ],
)
def test_names_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    """What is no plain name below a folder is refused, and reaches no file."""
    with pytest.raises(PathOutsideRoots):
        safe_name(name)
    assert Folder(tmp_path).find(name) is None


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "a/" * 512 + "a"])
def test_names_no_file_can_have(name: str, tmp_path: Path) -> None:
    """A part has 255 bytes at most, and the whole 1,024."""
    with pytest.raises(NameTooLong):
        safe_name(name)
    assert Folder(tmp_path).find(name) is None


def test_a_dotted_name_may_be_allowed() -> None:
    """At the end of a path, where it is one of those that were named."""
    allowed = frozenset({".index.json"})
    assert safe_name("a/.index.json", dotted=allowed) == PurePosixPath("a/.index.json")
    for name in (".index.json/a", ".other"):
        with pytest.raises(PathOutsideRoots):
            safe_name(name, dotted=allowed)


def test_links_count_by_where_they_lead(tmp_path: Path) -> None:
    """Within the folder they are followed, also where the folder is itself a link; out of it and in a circle they are not."""
    real, folder = tmp_path / "real", tmp_path / "folder"
    (real / "sub").mkdir(parents=True)
    folder.symlink_to(real)
    (tmp_path / "secret").write_text("secret")
    (real / "sub" / "a").write_text("a")
    for name, target in {
        "near": real / "sub",
        "out": tmp_path / "secret",
        "up": tmp_path,
        "circle": real / "circle",
    }.items():
        (real / name).symlink_to(target)
    assert inside(folder, PurePosixPath("near/a")) == folder / "near" / "a"
    assert inside(folder, PurePosixPath("sub/none")) == folder / "sub" / "none"
    for name in ("out", "up/secret", "circle"):
        with pytest.raises(PathOutsideRoots):
            inside(folder, PurePosixPath(name))
        assert Folder(folder).find(name) is None


def test_links_of_an_installed_package_lead_anywhere(tmp_path: Path) -> None:
    """To files and folders elsewhere, which are found and listed under the links' names; names lead out no more than they do otherwise."""
    kept, folder = tmp_path / "kept", tmp_path / "package" / "static"
    (kept / "sub").mkdir(parents=True)
    folder.mkdir(parents=True)
    (kept / "0123").write_text("a")
    (kept / "sub" / "b.js").write_text("b")
    (tmp_path / "package" / "secret.py").write_text("secret")
    links = {"a.js": "0123", "deep": "sub", ".env": "0123", "gone.js": "none"}
    for name, target in links.items():
        (folder / name).symlink_to(kept / target)
    (folder / "circle.js").symlink_to(folder / "circle.js")
    (folder / "up").symlink_to(folder)
    installed = Folder(folder, is_installed=True)
    assert installed.find("a.js") == (folder / "a.js", (kept / "0123").stat())
    assert installed.find("deep/b.js") == (folder / "deep" / "b.js", (kept / "sub" / "b.js").stat())
    assert list(installed.files()) == [folder / "a.js", folder / "deep" / "b.js"]
    for name in ("../secret.py", "deep/../../kept/0123", str(kept / "0123"), ".env", "gone.js", "circle.js", "deep"):
        assert installed.find(name) is None, name
    assert [Folder(folder).find(name) for name in ("a.js", "deep/b.js")] == [None, None]
    assert list(Folder(folder).files()) == []


def test_only_files_are_found(tmp_path: Path) -> None:
    """With what the system says of them: no folder, no pipe, nothing that is not there."""
    path = tmp_path / "sub" / "a.txt"
    path.parent.mkdir()
    path.write_text("four")
    os.mkfifo(tmp_path / "pipe")
    assert Folder(tmp_path).find("sub/a.txt") == (path, path.stat())
    assert [Folder(tmp_path).find(name) for name in ("sub", "pipe", "none", "sub/a.txt/b")] == [None] * 4
    assert Folder(tmp_path / "gone").find("a.txt") is None
