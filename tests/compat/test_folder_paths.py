"""``folder_paths`` over real folders."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import PathOutsideRoots

Write = Callable[[str], Path]


@pytest.fixture
def folder_paths(host: Any) -> Any:
    return importlib.import_module("folder_paths")


def test_models_are_listed_and_found(folder_paths: Any, write: Write, tmp_path: Path) -> None:
    there = write("models/hypernetworks/sub/a.safetensors")
    write("models/hypernetworks/readme.txt")
    assert folder_paths.get_filename_list("hypernetworks") == [os.path.join("sub", "a.safetensors")]
    assert folder_paths.get_full_path("hypernetworks", "sub/a.safetensors") == str(there)
    assert folder_paths.get_full_path("hypernetworks", "b.safetensors") is None
    assert folder_paths.get_full_path("no such key", "b.safetensors") is None
    assert folder_paths.models_dir == str(tmp_path / "models")
    assert folder_paths.base_path == str(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors"):
        folder_paths.get_full_path_or_raise("hypernetworks", "b.safetensors")
    with pytest.raises(KeyError):
        folder_paths.get_filename_list("no such key")


def test_what_a_pack_adds_is_searched(folder_paths: Any, write: Write, tmp_path: Path) -> None:
    there = write("more/x.gguf")
    write("more/x.safetensors")
    folders = folder_paths.folder_names_and_paths
    folders["unet_gguf"] = (folders["diffusion_models"][0], {".gguf"})
    folders["diffusion_models"][0].append(str(tmp_path / "more"))
    assert folder_paths.get_filename_list("unet_gguf") == ["x.gguf"]
    assert folder_paths.get_full_path("unet_gguf", "x.gguf") == str(there)
    assert folder_paths.get_filename_list("unet") == ["x.safetensors"]


def test_a_folder_can_be_added_in_front_or_behind(folder_paths: Any, write: Write, tmp_path: Path) -> None:
    write("models/loras/a.pt")
    first = write("first/a.pt")
    folder_paths.add_model_folder_path("loras", str(tmp_path / "last"))
    folder_paths.add_model_folder_path("loras", str(tmp_path / "first"), is_default=True)
    paths = folder_paths.get_folder_paths("loras")
    assert (paths[0], paths[-1]) == (str(tmp_path / "first"), str(tmp_path / "last"))
    assert folder_paths.get_full_path("loras", "a.pt") == str(first)
    folder_paths.add_model_folder_path("new", str(tmp_path / "first"))
    assert folder_paths.get_filename_list("new") == ["a.pt"]


def test_names_do_not_leave_their_folders(folder_paths: Any, write: Write, tmp_path: Path) -> None:
    write("secret.pt")
    (tmp_path / "models" / "hypernetworks").mkdir(parents=True)
    (tmp_path / "models" / "hypernetworks" / "link.pt").symlink_to(tmp_path / "secret.pt")
    for name in ("../../secret.pt", str(tmp_path / "secret.pt"), "link.pt"):
        with pytest.raises(PathOutsideRoots):
            folder_paths.get_full_path("hypernetworks", name)
    assert folder_paths.get_filename_list("hypernetworks") == []
    with pytest.raises(PathOutsideRoots):
        folder_paths.get_annotated_filepath("../secret.pt [input]")
    assert not folder_paths.exists_annotated_filepath("../secret.pt")


def test_folders_exist_when_asked_for(folder_paths: Any, tmp_path: Path) -> None:
    for kind in ("output", "temp", "input", "user"):
        assert getattr(folder_paths, f"get_{kind}_directory")() == str(tmp_path / kind)
        assert (tmp_path / kind).is_dir()
    assert folder_paths.get_public_user_directory("default") == str(tmp_path / "user/default")
    assert folder_paths.get_public_user_directory("__pack") is None
    assert folder_paths.get_system_user_directory("pack") == str(tmp_path / "user/__pack")
    folder_paths.set_output_directory(str(tmp_path / "elsewhere"))
    assert folder_paths.get_directory_by_type("output") == str(tmp_path / "elsewhere")
    assert folder_paths.get_directory_by_type("no such type") is None


def test_annotated_names(folder_paths: Any, write: Write) -> None:
    there = write("output/x.png")
    assert folder_paths.get_annotated_filepath("x.png [output]") == str(there)
    assert folder_paths.exists_annotated_filepath("x.png [output]")
    assert not folder_paths.exists_annotated_filepath("x.png")
    assert folder_paths.annotated_filepath("x.png") == ("x.png", None)


def test_the_counter_goes_on_behind_the_highest_of_its_prefix(folder_paths: Any, write: Write, tmp_path: Path) -> None:
    for name in ("sub/a_00007_.png", "sub/a_00009_extra.png", "sub/ab_00099_.png"):
        write(f"output/{name}")
    out = folder_paths.get_output_directory()
    found = folder_paths.get_save_image_path("sub/a", out, 4, 8)
    assert found == (str(tmp_path / "output" / "sub"), "a", 10, "sub", "sub/a")
    _, stem, counter, _, prefix = folder_paths.get_save_image_path("%width%x%height%_%year%_%batch_num%", out, 4, 8)
    assert re.fullmatch(r"4x8_\d{4}_%batch_num%", stem)
    assert (stem, counter) == (prefix, 1)
    with pytest.raises(PathOutsideRoots):
        folder_paths.get_save_image_path("../a", out)


def test_files_are_told_apart_by_what_they_hold(folder_paths: Any, write: Write) -> None:
    names = ["a.png", "b.webp", "c.mp4", "d.wav", "e.txt"]
    assert folder_paths.filter_files_content_types(names, ["image"]) == ["a.png", "b.webp"]
    write("input/sub/deep/x.png")
    assert folder_paths.get_input_subfolders() == ["sub", os.path.join("sub", "deep")]
    files, times = folder_paths.recursive_search(folder_paths.get_input_directory(), ["deep"])
    assert (files, len(times)) == ([], 2)
