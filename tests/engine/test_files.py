"""Names reach files in the configured folders, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import MissingFile, PathOutsideRoots, UsageError
from engine.fileref import FileRef
from engine.files import FileRoots, LocalFiles, open_files, split_annotation
from engine.model_folders import ModelFolders, default_hub, hub_folders, read_extra_folders
from engine.paths import checked_name, folders_below, is_inside, walk
from engine.spec import FileChoice


def put(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    put(root / "checkpoints" / "demo.safetensors")
    put(root / "checkpoints" / "sd" / "old.ckpt")
    put(root / "checkpoints" / "notes.txt")
    put(root / "clip" / "l.safetensors")
    return root


def test_listing_is_sorted_and_relative(models: Path) -> None:
    """Models are listed from all depths by relative name, files of other kinds left out."""
    assert ModelFolders.under([models]).list("checkpoints") == ["demo.safetensors", os.path.join("sd", "old.ckpt")]


def test_alias_names_the_same_folders(models: Path) -> None:
    """``clip`` is another name of ``text_encoders``, whose files may lie in a folder of either name."""
    folders = ModelFolders.under([models])
    assert folders.list("clip") == folders.list("text_encoders") == ["l.safetensors"]
    assert "clip" not in folders.keys()  # noqa: SIM118 - keys() is a method of ours


def test_earlier_root_wins(models: Path, tmp_path: Path) -> None:
    """Of two models of the same name, the one in the root given first is found."""
    other = put(tmp_path / "other" / "checkpoints" / "demo.safetensors", "y")
    assert ModelFolders.under([tmp_path / "other", models]).find("checkpoints", "demo.safetensors") == other
    both = ModelFolders.under([models, tmp_path / "other"])
    assert both.find("checkpoints", "demo.safetensors") == models / "checkpoints" / "demo.safetensors"
    assert both.list("checkpoints").count("demo.safetensors") == 1


def test_name_from_windows_is_found(models: Path) -> None:
    """A workflow written on Windows separates with backslashes, and still finds its model."""
    assert ModelFolders.under([models]).find("checkpoints", "sd\\old.ckpt").name == "old.ckpt"


HOSTILE = ["", ".", "..", "../secret", "sd/../../secret", "..\\secret", "/etc/passwd", "\\\\host\\share\\x", "C:\\x", "C:x",
           "demo\0.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_is_refused(models: Path, name: str) -> None:
    """A name that could leave its folder is refused before the disk is asked."""
    with pytest.raises(PathOutsideRoots):
        ModelFolders.under([models]).find("checkpoints", name)


@given(st.text(alphabet="a./\\:\0C ~", max_size=12))
def test_checked_name_never_leaves(name: str) -> None:
    """Whatever passes the check, joined to a folder, is inside that folder."""
    folder = Path("/roots/models")
    try:
        path = checked_name(name)
    except PathOutsideRoots:
        return
    assert os.path.normpath(folder / path).startswith("/roots/models/")


def test_link_out_of_the_roots_is_refused_and_not_listed(models: Path, tmp_path: Path) -> None:
    """A symbolic link that leads out of the models folders is no model."""
    secret = put(tmp_path / "secret.safetensors")
    (models / "checkpoints" / "link.safetensors").symlink_to(secret)
    (models / "checkpoints" / "away").symlink_to(tmp_path)
    folders = ModelFolders.under([models])
    assert folders.list("checkpoints") == ["demo.safetensors", os.path.join("sd", "old.ckpt")]
    for name in ("link.safetensors", "away/secret.safetensors"):
        with pytest.raises(PathOutsideRoots, match="link"):
            folders.find("checkpoints", name)


def test_link_between_roots_and_link_upwards(models: Path) -> None:
    """A link to another models folder is followed; one that leads upwards does not go round for ever."""
    (models / "checkpoints" / "shared").symlink_to(models / "clip")
    (models / "checkpoints" / "loop").symlink_to(models / "checkpoints")
    folders = ModelFolders.under([models])
    assert os.path.join("shared", "l.safetensors") in folders.list("checkpoints")
    assert folders.find("checkpoints", "shared/l.safetensors").read_text() == "x"


def test_missing_file_names_the_nearest_and_the_folders(models: Path) -> None:
    """The message for a missing model says where it was looked for and what has a similar name."""
    with pytest.raises(MissingFile) as caught:
        ModelFolders.under([models]).find("checkpoints", "dema.safetensors")
    assert "nearest: demo.safetensors" in str(caught.value)
    assert str(models / "checkpoints") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_key_is_a_usage_error(models: Path) -> None:
    """Asking for a folder key that does not exist names those that do."""
    with pytest.raises(UsageError, match="checkpoints"):
        ModelFolders.under([models]).list("checkpoint")


EXTRA = """
a111:
    base_path: webui
    checkpoints: models/Stable-diffusion
    loras: |
        models/Lora
        models/LyCORIS
    unet: models/unet
    own_kind: own
empty:
comfy:
    is_default: true
    base_path: {absolute}
    checkpoints: ckpt/
"""


def test_extra_model_paths_are_understood(models: Path, tmp_path: Path) -> None:
    """Base paths, several lines, aliases, new keys and default sections mean what they mean to ComfyUI."""
    config = put(tmp_path / "conf" / "extra_model_paths.yaml", EXTRA.format(absolute=tmp_path / "comfy"))
    folders = ModelFolders.under([models]).with_extra(read_extra_folders(config))
    webui = tmp_path / "conf" / "webui"
    assert folders.paths("checkpoints") == (
        tmp_path / "comfy" / "ckpt",
        models / "checkpoints",
        webui / "models" / "Stable-diffusion",
    )
    assert folders.paths("loras") == (models / "loras", webui / "models" / "Lora", webui / "models" / "LyCORIS")
    assert folders.paths("unet")[-1] == webui / "models" / "unet"
    assert folders.paths("own_kind") == (webui / "own",)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "section: 3\n", "\0"])
def test_broken_extra_file_is_one_line(tmp_path: Path, text: str) -> None:
    """A configuration file of another form is refused in one line that names it."""
    config = put(tmp_path / "extra.yaml", text)
    with pytest.raises(UsageError, match=r"extra\.yaml") as caught:
        read_extra_folders(config)
    assert "\n" not in str(caught.value)


def test_hugging_face_cache_is_listed_as_diffusers(tmp_path: Path, models: Path) -> None:
    """Of a cached repository, the snapshot that main names is found under owner/name; other repositories are not."""
    repository = tmp_path / "hub" / "models--me--tiny-sd"
    put(repository / "snapshots" / "aaa" / "model_index.json")
    put(repository / "snapshots" / "bbb" / "model_index.json")
    put(repository / "refs" / "main", "aaa")
    put(tmp_path / "hub" / "models--me--bert" / "snapshots" / "ccc" / "config.json")
    put(models / "diffusers" / "local" / "model_index.json")
    folders = ModelFolders.under([models], hub=tmp_path / "hub")
    assert folders.list("diffusers") == ["local", "me/tiny-sd"]
    assert folders.find("diffusers", "me/tiny-sd") == repository / "snapshots" / "aaa"
    assert folders.find("diffusers", "local") == models / "diffusers" / "local"
    assert hub_folders(None) == {}


def test_hugging_face_cache_is_where_its_library_puts_it() -> None:
    """The cache's place follows the environment in the order that the library documents."""
    assert default_hub({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}) == Path("/a")
    assert default_hub({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}) == Path("/b/hub")
    assert default_hub({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert default_hub({}) == Path.home() / ".cache" / "huggingface" / "hub"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.png [output]", ("x.png", "output")),
        ("a/x.png[temp]", ("a/x.png", "temp")),
        ("x.png [other]", ("x.png [other]", None)),
        ("x.png", ("x.png", None)),
    ],
)
def test_annotation_names_the_folder(name: str, expected: tuple[str, str | None]) -> None:
    """A mark at the end of a name, and nothing else in brackets, says which folder is meant."""
    assert split_annotation(name) == expected


def test_pictures_are_found_in_the_marked_folder(tmp_path: Path) -> None:
    """A name goes to the input folder unless its mark says otherwise."""
    roots = FileRoots(tmp_path / "in", tmp_path / "out", tmp_path / "tmp")
    put(roots.input / "x.png", "in")
    put(roots.output / "sub" / "x.png", "out")
    assert roots.find("x.png").read_text() == "in"
    assert roots.find("sub/x.png [output]").read_text() == "out"
    assert roots.list("output") == [os.path.join("sub", "x.png")]
    with pytest.raises(MissingFile, match=r"nearest: x\.png"):
        roots.find("y.png")
    with pytest.raises(MissingFile):
        roots.find("sub [output]")


def test_new_file_cannot_be_placed_outside(tmp_path: Path) -> None:
    """A result is placed below its folder, though a link there leads away."""
    roots = FileRoots(tmp_path / "in", tmp_path / "out", tmp_path / "tmp")
    roots.output.mkdir()
    (roots.output / "away").symlink_to(tmp_path)
    assert roots.place("output", "a/b.png") == roots.output / "a" / "b.png"
    for name in ("../b.png", "away/b.png"):
        with pytest.raises(PathOutsideRoots):
            roots.place("output", name)


def test_root_that_is_a_link_is_a_root(tmp_path: Path) -> None:
    """A models folder may itself be a link, to a bigger disk say."""
    put(tmp_path / "disk" / "checkpoints" / "a.safetensors")
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    assert ModelFolders.under([tmp_path / "models"]).list("checkpoints") == ["a.safetensors"]
    assert is_inside(tmp_path / "disk" / "checkpoints", [tmp_path / "models"])


def test_links_that_lead_nowhere_hide_nothing_else(tmp_path: Path) -> None:
    """Those in a circle and those that the system cannot follow: what lies beside them is found."""
    wanted = put(tmp_path / "sub" / "a.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (tmp_path / "nowhere.png").symlink_to("x" * 300)  # a longer name than file systems have
    (tmp_path / "up").symlink_to(tmp_path)
    assert not is_inside(tmp_path / "circle.png", [tmp_path])
    assert list(walk(tmp_path, [tmp_path])) == [wanted]
    assert list(folders_below(tmp_path, [tmp_path])) == [tmp_path / "sub"]


def test_embedding_is_found_without_suffix_and_at_any_depth(models: Path) -> None:
    """A prompt names an embedding by its stem; of two, the one with the safer suffix is taken."""
    put(models / "embeddings" / "style.pt")
    safe = put(models / "embeddings" / "style.safetensors")
    deep = put(models / "embeddings" / "people" / "ann.bin")
    folders = ModelFolders.under([models])
    assert folders.find("embeddings", "style") == safe
    assert folders.find("embeddings", "ann") == deep
    assert folders.find("embeddings", "people/ann.bin") == deep
    with pytest.raises(MissingFile):
        folders.find("embeddings", "sty")


@pytest.fixture
def files(models: Path, tmp_path: Path) -> LocalFiles:
    put(tmp_path / "in" / "a.png", "picture")
    put(tmp_path / "in" / "a.latent", "latent")
    return open_files(
        models=[models],
        input=tmp_path / "in",
        output=tmp_path / "out",
        temp=tmp_path / "tmp",
        state=tmp_path / "state",
    )


def test_choices_are_the_files_a_node_reads(files: LocalFiles) -> None:
    """An editor is offered pictures, or the files with the suffixes a node asks for, or the models of a folder."""
    assert files.choices(FileChoice("input")) == ["a.png"]
    assert files.choices(FileChoice("input", suffixes=(".latent",))) == ["a.latent"]
    assert files.choices(FileChoice("checkpoints", suffixes=(".safetensors",))) == ["demo.safetensors"]


def test_the_name_of_a_pickle_is_also_that_of_what_it_was_converted_to(files: LocalFiles, models: Path) -> None:
    """Workflows go on naming the file that was released, whether it is still there or not."""
    checkpoints, embeddings = FileChoice("checkpoints"), FileChoice("embeddings")
    assert files.resolve(checkpoints, "sd/old.ckpt").name == "old.ckpt"
    converted = put(models / "checkpoints" / "sd" / "old.safetensors", "y")
    assert files.resolve(checkpoints, "sd/old.ckpt") == files.resolve(checkpoints, "sd\\old.ckpt") == converted
    assert files.ref(checkpoints, "sd/old.ckpt").digest == files.ref(checkpoints, "sd/old.safetensors").digest
    style = put(models / "embeddings" / "mine" / "v1.5.safetensors")
    assert files.resolve(embeddings, "v1.5.pt") == files.resolve(embeddings, "v1.5") == style
    with pytest.raises(MissingFile, match=r"'sd/new\.ckpt'"):
        files.resolve(checkpoints, "sd/new.ckpt")


def test_refs_are_equal_by_content(files: LocalFiles, tmp_path: Path) -> None:
    """A file is known by what is in it: the same picture under another name and mark is an equal ref."""
    put(tmp_path / "out" / "b.png", "picture")
    first = files.ref(FileChoice("input"), "a.png")
    second = files.ref(FileChoice("input"), "b.png [output]")
    assert isinstance(first, FileRef)
    assert first == second
    assert (first.name, second.name) == ("a.png", "b.png [output]")
    assert first != files.ref(FileChoice("input"), "a.latent")


def test_folders_are_chosen_below_the_input_folder(files: LocalFiles, tmp_path: Path) -> None:
    """All of them are offered, the input folder itself as a dot; hidden ones and links that lead out are not."""
    put(tmp_path / "in" / "faces" / "old" / "a.png")
    (tmp_path / "in" / ".hidden").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "faces" / "loop").symlink_to(tmp_path / "in" / "faces")
    folders = FileChoice("input", tree=True)
    assert files.choices(folders) == [".", "faces", "faces/old"]
    assert files.resolve(folders, ".") == tmp_path / "in"
    assert files.resolve(folders, "faces\\old") == tmp_path / "in" / "faces" / "old"
    put(tmp_path / "out" / "made" / "b.png")
    assert files.resolve(folders, "made [output]") == tmp_path / "out" / "made"


@pytest.mark.parametrize("name", ["..", "../out", "/etc", "faces/../..", "out", "", "C:\\x", "a\0"])
def test_no_folder_outside_is_chosen(files: LocalFiles, tmp_path: Path, name: str) -> None:
    """Neither by name nor by link."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PathOutsideRoots):
        files.ref(FileChoice("input", tree=True), name)


def test_a_folder_that_is_not_there_names_those_that_are(files: LocalFiles, tmp_path: Path) -> None:
    """A file's name is no folder's."""
    (tmp_path / "in" / "faces").mkdir()
    with pytest.raises(MissingFile, match=r"expected a folder 'facse' in .*, found none; nearest: faces"):
        files.ref(FileChoice("input", tree=True), "facse")
    with pytest.raises(MissingFile, match=r"expected a folder 'a.png'"):
        files.ref(FileChoice("input", tree=True), "a.png")


def test_a_folder_counts_by_the_names_and_contents_in_it(files: LocalFiles, tmp_path: Path) -> None:
    """Another file, another name, other content: another digest. Other kinds of files make no difference, nor where it is."""
    pictures = FileChoice("input", tree=True)
    put(tmp_path / "in" / "one" / "x" / "a.png", "first")
    put(tmp_path / "in" / "two" / "x" / "a.png", "first")
    digest = files.ref(pictures, "one").digest
    assert files.ref(pictures, "two").digest == digest
    put(tmp_path / "in" / "one" / "notes.txt")
    put(tmp_path / "in" / "one" / ".cache.png")
    assert files.ref(pictures, "one").digest == digest
    seen = {digest}
    for change in (
        lambda: put(tmp_path / "in" / "one" / "x" / "a.png", "other"),
        lambda: put(tmp_path / "in" / "one" / "b.png", "other"),
        lambda: (tmp_path / "in" / "one" / "b.png").rename(tmp_path / "in" / "one" / "c.png"),
        lambda: (tmp_path / "in" / "one" / "x" / "a.png").unlink(),
    ):
        change()
        seen.add(files.ref(pictures, "one").digest)
    assert len(seen) == 5


def test_annotators_are_found_in_the_hub_s_cache(tmp_path: Path) -> None:
    """By owner, repository and file, or as the folder of a network; what lies in a model folder counts before it."""
    snapshot = tmp_path / "hub" / "models--Intel--dpt" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "net.pth").write_bytes(b"hub")
    folders = ModelFolders.under([tmp_path / "models"], hub=tmp_path / "hub")
    assert folders.find("annotators", "Intel/dpt") == snapshot
    assert folders.find("annotators", "Intel/dpt/net.pth") == snapshot / "net.pth"
    with pytest.raises(MissingFile):
        folders.find("annotators", "Intel/dpt/other.pth")
    with pytest.raises(MissingFile):
        folders.find("vae", "Intel/dpt/net.pth")
    own = tmp_path / "models" / "annotators" / "Intel" / "dpt" / "net.pth"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"own")
    assert folders.find("annotators", "Intel/dpt/net.pth") == own
