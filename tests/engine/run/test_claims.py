"""Files of a job that runs again after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.run import claims
from engine.run.atomic import replace_file
from engine.run.outputs import OutputFolder
from engine.run.results import OutputFile


def _file(data: bytes = b"content") -> OutputFile:
    return OutputFile(data=data, extension="bin", prefix="sub/x")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "sub").iterdir())


def test_a_job_that_runs_again_finds_its_file(tmp_path: Path) -> None:
    """The second run of a job, in a new process, gives the name that the first gave, and writes nothing."""
    first = OutputFolder(tmp_path / "out", tmp_path / "temp").place(_file(), {}, ("job", "9#0"))
    second = OutputFolder(tmp_path / "out", tmp_path / "temp").place(_file(), {}, ("job", "9#0"))
    assert first == second == {"filename": "x_00001_.bin", "subfolder": "sub", "type": "output"}
    assert _names(tmp_path / "out") == ["x_00001_.bin"]


def test_other_jobs_and_places_get_files_of_their_own(tmp_path: Path) -> None:
    """Equal content is no reason to share a file."""
    folder = OutputFolder(tmp_path / "out", tmp_path / "temp")
    for claim in (("job", "9#0"), ("job", "9#1"), ("other", "9#0"), None):
        folder.place(_file(), {}, claim)
    assert len(_names(tmp_path / "out")) == 4


@pytest.mark.parametrize("step", ["claim", "intent", "take_name"])
def test_a_crash_between_any_two_steps_leaves_one_file(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far a process came, the next one ends with exactly one file of the whole content."""

    class DiedError(Exception):
        pass

    def die(*args: object) -> bool:
        raise DiedError

    real = replace_file
    calls: list[Path] = []

    def write(path: Path, parts: list[bytes]) -> None:
        calls.append(path)
        if (step == "claim" and len(calls) == 1) or (step == "intent" and len(calls) == 2):
            raise DiedError
        real(path, parts)

    with monkeypatch.context() as patch:
        patch.setattr(claims, "replace_file", write)
        if step == "take_name":
            patch.setattr(claims, "take_name", die)
        with pytest.raises(DiedError):
            OutputFolder(tmp_path / "out", tmp_path / "temp").place(_file(), {}, ("job", "9#0"))
    placed = OutputFolder(tmp_path / "out", tmp_path / "temp").place(_file(), {}, ("job", "9#0"))
    assert _names(tmp_path / "out") == [placed["filename"]]
    assert (tmp_path / "out" / "sub" / placed["filename"]).read_bytes() == b"content"


def test_settled_jobs_leave_their_files_and_nothing_else(tmp_path: Path) -> None:
    """Claims go; the files stay."""
    folder = OutputFolder(tmp_path / "out", tmp_path / "temp")
    for job in ("a", "b", "c"):
        folder.place(_file(), {}, (job, "9#0"))
    folder.settle("a")
    folder.settle_all_but(["c"])
    assert len(list((tmp_path / "out" / ".mezzotint.claims").iterdir())) == 1
    assert len(_names(tmp_path / "out")) == 3
    assert folder.place(_file(), {}, ("c", "9#0"))["filename"] == "x_00003_.bin"


def test_without_hard_links_the_content_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that knows no second names the file is found by what is in it."""
    import errno
    import os

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links")

    monkeypatch.setattr(os, "link", refuse)
    names = [
        OutputFolder(tmp_path / "out", tmp_path / "temp").place(_file(), {}, ("job", "9#0"))["filename"]
        for _ in range(2)
    ]
    assert names == ["x_00001_.bin"] * 2
    assert _names(tmp_path / "out") == ["x_00001_.bin"]
