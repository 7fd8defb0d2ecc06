"""Where files go, under which names, and what is there when something goes wrong."""

from __future__ import annotations

import io
import multiprocessing
import os
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from engine.errors import InputError, PathOutsideRoots, ResourceError
from engine.graph.png import read_text
from engine.run.atomic import TEMPORARY
from engine.run.outputs import OutputFolder, expand
from engine.run.results import OutputFile


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path / "output", tmp_path / "temp")


def file(prefix: str, data: bytes = b"x", extension: str = "bin", **more: int) -> OutputFile:
    return OutputFile(data, prefix, extension, **more)  # type: ignore[arg-type]


def names(folder: OutputFolder) -> list[str]:
    root = folder.output_dir
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_counters_go_on_after_the_highest_of_the_prefix(folder: OutputFolder) -> None:
    """Whatever follows the number and whichever extension it has; other prefixes do not count."""
    folder.output_dir.mkdir()
    for name in ["a_00007_.jpg", "a_0012_more.png", "ab_00099_.bin", "a_x.bin", "a_", "A_00050_.bin"]:
        (folder.output_dir / name).touch()
    assert folder.place(file("a"), {})["filename"] == "a_00013_.bin"
    assert folder.place(file("a"), {})["filename"] == "a_00014_.bin"
    (folder.output_dir / "a_00014_.bin").unlink()
    assert folder.place(file("a"), {})["filename"] == "a_00014_.bin"


def test_folders_in_the_prefix_become_the_subfolder(folder: OutputFolder) -> None:
    """With either slash."""
    assert folder.place(file("one/two/x"), {}) == {"filename": "x_00001_.bin", "subfolder": "one/two", "type": "output"}
    assert folder.place(file("one\\two\\x"), {})["filename"] == "x_00002_.bin"
    temp = OutputFile(b"x", "p", ".bin", kind="temp")
    assert folder.place(temp, {})["type"] == "temp"
    assert (folder.temp_dir / "p_00001_.bin").exists()


def test_tokens_are_replaced() -> None:
    """Sizes, the batch index and local time with leading zeros; what is no token stays."""
    now = datetime(2031, 2, 3, 4, 5, 6)
    prefix = "%year%-%month%-%day%/%hour%%minute%%second%_%width%x%height%_%batch_num%_%date:yy%_%nope%_100%"
    assert (
        expand(prefix, file("", width=64, height=32, batch_index=2), now)
        == "2031-02-03/040506_64x32_2_%date:yy%_%nope%_100%"
    )


@pytest.mark.parametrize("prefix", ["../x", "a/../../x", "/etc/x", "..\\x", "\\x", "/x", "link/x"])
def test_no_prefix_leaves_the_folder(folder: OutputFolder, prefix: str, tmp_path: Path) -> None:
    """Not by dots, not from the root, not over a link; and nothing is written anywhere."""
    folder.output_dir.mkdir()
    (folder.output_dir / "link").symlink_to(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PathOutsideRoots, match="use a name inside it"):
        folder.place(file(prefix), {})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_prefix_may_wander_within_the_folder(folder: OutputFolder) -> None:
    """Dots that end up inside are no harm."""
    folder.place(file("a/./b/../../c/x"), {})
    assert names(folder) == ["c/x_00001_.bin"]


@pytest.mark.parametrize("prefix", ["x" * 300, "a\0b", "\ud800"])
def test_what_cannot_be_a_name_is_an_input_error(folder: OutputFolder, prefix: str) -> None:
    """Too long, a null byte, no Unicode."""
    with pytest.raises(InputError, match="cannot be a file name"):
        folder.place(file(prefix), {})
    assert names(folder) == []


def test_pictures_carry_the_metadata_of_this_run(folder: OutputFolder) -> None:
    """And are the same pictures."""
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(buffer, "png")
    placed = folder.place(
        file("p", buffer.getvalue(), "png"), {"prompt": {"1": {"class_type": "X"}}, "workflow": {"nodes": []}}
    )
    data = (folder.output_dir / placed["filename"]).read_bytes()
    assert read_text(data) == {"prompt": '{"1": {"class_type": "X"}}', "workflow": '{"nodes": []}'}
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((3, 2), (255, 0, 0))


def _place_many(root: Path, count: int) -> None:
    folder = OutputFolder(root / "output", root / "temp")
    for index in range(count):
        folder.place(file("same", b"%d" % index * 1000), {})


def test_two_processes_never_take_the_same_name(tmp_path: Path) -> None:
    """Forty files from two processes are forty files."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_place_many, args=(tmp_path, 20)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    found = sorted((tmp_path / "output").iterdir())
    assert [path.name for path in found] == [f"same_{number:05}_.bin" for number in range(1, 41)]
    assert sorted(path.read_bytes() for path in found) == sorted(2 * [b"%d" % index * 1000 for index in range(20)])


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """On a real file system of 64 kB."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, check=False
    ).returncode:
        pytest.skip("may not mount a small file system here")
    try:
        folder = OutputFolder(small, tmp_path / "temp")
        folder.place(file("fits", b"x" * 1000), {})
        with pytest.raises(ResourceError, match=r"no room for 0.1 MB in .*no space left on device.*free some space"):
            folder.place(file("large", b"x" * 100_000), {})
        assert [path.name for path in small.iterdir()] == ["fits_00001_.bin"]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """Here a file is in its place."""
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot write into"):
        OutputFolder(tmp_path / "file" / "output", tmp_path).place(file("x"), {})


def test_what_a_killed_process_left_is_cleaned_up_later(folder: OutputFolder) -> None:
    """Temporary files of an hour ago go; younger ones may still be somebody's."""
    folder.output_dir.mkdir()
    old, young = (folder.output_dir / f"{TEMPORARY}{name}" for name in ("old", "young"))
    for path in (old, young):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    folder.place(file("x"), {})
    assert (old.exists(), young.exists()) == (False, True)


def test_a_file_without_a_number_is_called_as_it_says(folder: OutputFolder) -> None:
    """The next of that name gets _2 and so on; nothing is overwritten, and numbered files count for themselves."""
    bare = OutputFile(b"first", "deep/cat", "bin", numbered=False)
    names = [folder.place(bare, {})["filename"] for _ in range(3)]
    assert names == ["cat.bin", "cat_2.bin", "cat_3.bin"]
    assert folder.place(file("deep/cat"), {})["filename"] == "cat_00004_.bin"
    assert (folder.output_dir / "deep" / "cat.bin").read_bytes() == b"first"


@pytest.mark.parametrize("prefix", ["deep/", "", ".htaccess", "deep/.mezzotint-x"])
def test_a_file_without_a_number_has_a_name_that_is_seen(folder: OutputFolder, prefix: str) -> None:
    """An empty one, or one that begins with a dot, would be hidden."""
    with pytest.raises(InputError, match="ends in no name, or in one that begins with a dot"):
        folder.place(OutputFile(b"x", prefix, "bin", numbered=False), {})
