"""Digests follow content and are remembered."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import blake3
import pytest

from engine.digests import DigestIndex
from engine.errors import MissingFile


@pytest.fixture
def index(tmp_path: Path) -> DigestIndex:
    return DigestIndex(tmp_path / "state")


def test_digest_is_that_of_the_content(index: DigestIndex, tmp_path: Path) -> None:
    """A file's digest is blake3 of its bytes, whatever it is called."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"weights")
    assert index.digest(tmp_path / "a") == index.digest(tmp_path / "b") == blake3.blake3(b"weights").hexdigest()


def test_unchanged_file_is_not_read_again(index: DigestIndex, tmp_path: Path) -> None:
    """A second question, also by another process' index, is answered from the database."""
    path = tmp_path / "a"
    path.write_bytes(b"weights")
    digest = index.digest(path)
    again = DigestIndex(tmp_path / "state")
    assert (again.digest(path), again.hashed, index.hashed) == (digest, 0, 1)


def test_changed_file_is_read_again(index: DigestIndex, tmp_path: Path) -> None:
    """New content gives a new digest, also when size and name are the old ones."""
    path = tmp_path / "a"
    path.write_bytes(b"weights")
    old = index.digest(path)
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert index.digest(path) != old
    assert index.hashed == 2


def test_folder_digest_counts_names_and_contents(index: DigestIndex, tmp_path: Path) -> None:
    """A folder's digest changes with its model files and not with notes or hidden files beside them."""
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text("{}")
    first = index.digest(folder)
    (folder / "README.md").write_text("about")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    assert index.digest(folder) == first
    (folder / "unet" / "config.json").rename(folder / "unet" / "other.json")
    assert index.digest(folder) != first


def test_missing_file_is_said(index: DigestIndex, tmp_path: Path) -> None:
    """A name without a file is a MissingFile, not an error of the operating system."""
    with pytest.raises(MissingFile, match="nothing"):
        index.digest(tmp_path / "none")


def test_broken_database_is_replaced(tmp_path: Path) -> None:
    """A database that is no database is thrown away: all it held can be found again."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "digests.sqlite").write_bytes(b"not a database, and long enough to be told from one" * 9)
    path = tmp_path / "a"
    path.write_bytes(b"weights")
    index = DigestIndex(tmp_path / "state")
    assert index.digest(path) == index.digest(path)
    assert index.hashed == 1


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    """Processes that fill the same database at the same time both succeed, and all they found is kept."""
    paths = [tmp_path / f"{number}.bin" for number in range(40)]
    for path in paths:
        path.write_bytes(path.name.encode())
    code = (
        "import sys; from pathlib import Path; from engine.digests import DigestIndex\n"
        "index = DigestIndex(Path(sys.argv[1]))\n"
        "for name in sys.argv[2:]: index.digest(Path(name))"
    )
    halves = [list(map(str, paths[:25])), list(map(str, paths[15:]))]
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "state"), *half]) for half in halves]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    index = DigestIndex(tmp_path / "state")
    digests = {index.digest(path) for path in paths}
    assert (len(digests), index.hashed) == (40, 0)
