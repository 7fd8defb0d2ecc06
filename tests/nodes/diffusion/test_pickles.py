"""A pickle becomes a safetensors file, or a reason why not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import InputError, MissingFile, ModelFileError
from nodes.diffusion.pickles import convert_pickle, read_pickle


class Evil:
    """Unpickles into a call that makes a folder."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._mark),)


def test_checkpoint_is_converted_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Weights come out under their names, unwrapped, equal; shared and cut ones become whole."""
    shared = torch.arange(6.0)
    tensors = {"a": shared, "b": shared, "c": torch.ones(4, 4)[:, 1], "d": torch.ones(2, dtype=torch.float16)}
    torch.save({"state_dict": tensors | {"step": 3}, "epoch": 7}, tmp_path / "old.ckpt")
    (tmp_path / "old.ckpt").chmod(0o644)
    target = convert_pickle(tmp_path / "old.ckpt")
    assert target == tmp_path / "old.safetensors"
    assert target.stat().st_mode & 0o777 == 0o644
    converted = load_file(target)
    assert converted.keys() == tensors.keys()
    assert all(torch.equal(converted[name], tensors[name]) for name in tensors)
    with pytest.raises(InputError, match="found one"):
        convert_pickle(tmp_path / "old.ckpt")


def test_refused_pickle_leaves_nothing(tmp_path: Path) -> None:
    """A pickle that would run code fails in one line, runs none, and leaves no file."""
    torch.save({"x": torch.ones(2), "y": Evil(tmp_path / "code ran")}, tmp_path / "evil.ckpt")
    with pytest.raises(ModelFileError, match=r"evil\.ckpt") as caught:
        convert_pickle(tmp_path / "evil.ckpt")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.ckpt"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"no pickle at all"])
def test_broken_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    """What is no pickle is a ModelFileError."""
    (tmp_path / "broken.pt").write_bytes(content)
    with pytest.raises(ModelFileError):
        read_pickle(tmp_path / "broken.pt")


def test_pickle_without_tensors_is_refused(tmp_path: Path) -> None:
    """Plain data is no model."""
    torch.save({"x": 1}, tmp_path / "plain.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("plain.pt", "list.pt"):
        with pytest.raises(ModelFileError, match="holds"):
            read_pickle(tmp_path / name)


def test_missing_pickle_is_said(tmp_path: Path) -> None:
    """No file is a MissingFile."""
    with pytest.raises(MissingFile):
        convert_pickle(tmp_path / "none.ckpt")
