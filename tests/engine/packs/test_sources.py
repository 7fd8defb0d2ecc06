"""Which files are packs, and what counts in their digests."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import UsageError
from engine.packs.sources import find_packs, source_digest

TREE = {
    "single.py": "A = 1",
    "folder/__init__.py": "from .inner import B",
    "folder/inner.py": "B = 2",
    "folder/deep/table.json": "{}",
    "with_script/__init__.py": "",
    "with_script/prestartup_script.py": "",
    "__init__.py": "",
    "no_pack/readme.md": "",
    "notes.txt": "",
    "off.py.disabled": "",
    "off.disabled/__init__.py": "",
    ".hidden/__init__.py": "",
    ".hidden.py": "",
    "__pycache__/__init__.py": "",
}


def _write(root: Path, files: dict[str, str] = TREE) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_packs_are_python_files_and_folders_with_an_init(tmp_path: Path) -> None:
    """In order of name; neither hidden nor disabled ones, nor what else lies about."""
    found = find_packs([_write(tmp_path)])
    assert [pack.name for pack in found] == ["folder", "single", "with_script"]
    assert [pack.entry.relative_to(tmp_path.resolve()).as_posix() for pack in found] == [
        "folder/__init__.py",
        "single.py",
        "with_script/__init__.py",
    ]
    assert [pack.prestartup is not None for pack in found] == [False, False, True]


def test_of_two_packs_of_one_name_the_first_counts(tmp_path: Path) -> None:
    """In the order in which the folders were named."""
    one = _write(tmp_path / "one", {"same.py": "1"})
    two = _write(tmp_path / "two", {"same/__init__.py": "2", "other.py": "3"})
    assert [(pack.name, pack.path.parent.name) for pack in find_packs([one, two])] == [
        ("same", "one"),
        ("other", "two"),
    ]
    assert [pack.path.parent.name for pack in find_packs([two, one])] == ["two", "two"]


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    """The message says which, and by what option it was named."""
    with pytest.raises(
        UsageError, match=r"expected a folder of node packs at .*/gone, found none; check --custom-nodes"
    ):
        find_packs([tmp_path / "gone"])
    with pytest.raises(UsageError):
        find_packs([_write(tmp_path) / "single.py"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("inner.py", "B = 3"),
        ("deep/table.json", "[]"),
        ("new.py", ""),
        ("deep/new.yaml", ""),
        ("requirements.txt", "numpy"),
    ],
)
def test_the_digest_changes_with_the_source(name: str, content: str, tmp_path: Path) -> None:
    """Code, and what code reads beside it; a new file too, even if it is empty."""
    pack = _write(tmp_path) / "folder"
    before = source_digest(pack)
    _write(pack, {name: content})
    assert source_digest(pack) != before


def test_the_digest_changes_with_a_name(tmp_path: Path) -> None:
    """The same content in another file is another source, and so is the same pack under another name."""
    pack = _write(tmp_path) / "folder"
    before = source_digest(pack)
    (pack / "inner.py").rename(pack / "outer.py")
    moved = source_digest(pack)
    (pack / "outer.py").rename(pack / "inner.py")
    assert before == source_digest(pack) != moved
    assert source_digest(pack.rename(tmp_path / "renamed")) != before


@pytest.mark.parametrize(
    "name",
    [
        "__pycache__/inner.cpython-311.pyc", "__pycache__/x.py", "picture.png", "weights.safetensors", "readme.md",
        ".git/config.txt", ".hidden.py", "web/script.js", "venv/lib.py", "node_modules/x.json", "locales/en.json",
    ],
)  # fmt: skip
def test_the_digest_does_not_change_with_what_is_no_source(name: str, tmp_path: Path) -> None:
    """Compiled code, pictures, weights, browser scripts, what version control and editors leave behind."""
    pack = _write(tmp_path) / "folder"
    before = source_digest(pack)
    _write(pack, {name: "anything"})
    assert source_digest(pack) == before


def test_large_files_do_not_count_and_links_do(tmp_path: Path) -> None:
    """What a pack downloaded does not; code that lies elsewhere does, and a link that leads back is not followed for ever."""
    pack = _write(tmp_path) / "folder"
    before = source_digest(pack)
    with (pack / "data.json").open("wb") as file:
        file.truncate((16 << 20) + 1)
    (pack / "loop").symlink_to(pack)
    assert source_digest(pack) == before
    (pack / "elsewhere").symlink_to(tmp_path / "with_script")
    assert source_digest(pack) != before


def test_the_digest_of_one_file_is_that_of_its_content(tmp_path: Path) -> None:
    """Nothing beside it counts; the same file elsewhere has the same digest."""
    _write(tmp_path)
    before = source_digest(tmp_path / "single.py")
    _write(tmp_path, {"other.py": ""})
    assert source_digest(tmp_path / "single.py") == before
    assert source_digest(_write(tmp_path / "copy", {"single.py": "A = 1"}) / "single.py") == before
    assert source_digest(_write(tmp_path, {"single.py": "A = 2"}) / "single.py") != before
