"""``mezzotint models``: what is there, what it is, and how it comes from the hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import blake3
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from typer.testing import CliRunner, Result

from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.catalogue import read_catalogue
from engine.cli.app import app
from engine.model_folders import SUBFOLDERS
from tests.behaviour.hub import Hub, serve_hub
from tests.conftest import ROOT

DEMO = ROOT / "models" / "checkpoints" / "demo.safetensors"
DEMO_PARTS = "Stable Diffusion 1: UNet, text encoder (CLIP L), VAE"
Models = Callable[..., Result]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    """Calls ``mezzotint models`` in an empty folder, where there is no cache of the hub's either."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def call(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, ["models", *map(str, arguments)])

    return call


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def lora(width: int) -> dict[str, torch.Tensor]:
    """Of one layer that reads texts so wide."""
    module = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    return {f"{module}.lora_down.weight": torch.zeros(1, width), f"{module}.lora_up.weight": torch.zeros(64, 1)}


def fill(root: Path) -> None:
    """One file of every sort."""
    for folder in ("checkpoints", "loras", "vae", "tokenizers/t5"):
        (root / folder).mkdir(parents=True)
    (root / "checkpoints" / "old.ckpt").write_bytes(b"PK\3\4")
    (root / "checkpoints" / "cut.safetensors").write_bytes(DEMO.read_bytes()[:100_000])
    save_file({"a.b": torch.zeros(2), "c.d": torch.zeros(2)}, root / "checkpoints" / "odd.safetensors")
    save_file({"double_blocks.0.x": torch.zeros(2)}, root / "checkpoints" / "flux.safetensors")
    save_file(lora(2048), root / "loras" / "xl.safetensors")
    save_file(lora(768), root / "loras" / "one.safetensors")
    vae = {name: shape for name, shape in SMALL["sd3"].shapes().items() if name.startswith("first_stage_model.")}
    write_shapes(root / "vae" / "three.safetensors", vae, "float32")
    (root / "tokenizers" / "t5" / "tokenizer.json").write_text('{"model": {}}')


def test_list_says_what_every_file_is(models: Models, tmp_path: Path) -> None:
    """Families and parts, and of what is no model why; digests where they are known."""
    fill(tmp_path / "models")
    models_of = ("--models", tmp_path / "models", "--models", ROOT / "models")
    shown = models("list", *models_of, "--json")
    assert shown.exit_code == 0, shown.output
    found = {(row["folder"], row["name"]): row for row in json.loads(shown.stdout)}
    said = {name: row["what"] for (_, name), row in found.items()}
    assert said["demo.safetensors"] == DEMO_PARTS
    assert said["old.ckpt"].startswith("a pickle, which is refused")
    assert said["cut.safetensors"].startswith("no known model: cut.safetensors is not a whole safetensors file")
    assert said["odd.safetensors"] == "no known model: 2 tensors in 2 groups, of no known family: a.b, c.d"
    assert said["flux.safetensors"] == "no known model: a FLUX model"
    assert said["xl.safetensors"] == "a LoRA for SDXL"
    assert said["one.safetensors"] == "a LoRA for Stable Diffusion 1"
    assert said["three.safetensors"] == "a VAE"
    assert said["t5/tokenizer.json"] == "a tokenizer"
    assert found["checkpoints", "demo.safetensors"]["size"] == DEMO.stat().st_size
    assert all(row["digest"] is None for row in found.values())

    own = models_of[:2]
    models("info", "xl.safetensors", *own)
    lines = models("list", "--folder", "loras", *own).stdout.splitlines()
    digest = blake3.blake3((tmp_path / "models" / "loras" / "xl.safetensors").read_bytes()).hexdigest()
    assert lines == [
        "loras",
        lines[1],
        f"  xl.safetensors     {lines[2].split()[1]} KiB  a LoRA for SDXL  {digest[:12]}",
    ]
    worked_out = json.loads(models("list", "--folder", "loras", "--digests", "--json", *own).stdout)
    assert [len(row["digest"]) for row in worked_out] == [64, 64]


def test_list_refuses_a_folder_that_is_none(models: Models) -> None:
    """Naming those that are."""
    result = models("list", "--folder", "lora")
    assert result.exit_code == 2
    assert "expected a model folder among checkpoints" in result.stderr


def test_info_gives_parts_and_numbers(models: Models, tmp_path: Path) -> None:
    """By path, by name, and by the folder's key in front; for people and for programs."""
    fill(tmp_path / "models")
    told = json.loads(models("info", DEMO, "--json").stdout)
    assert told["what"] == DEMO_PARTS
    assert told["prediction"] == "epsilon"
    assert told["parts"]["UNet"]["sizes"]["widths"] == [64, 128]
    assert told["parts"]["UNet"]["parameters"] == 3_152_644
    assert told["parts"]["text encoder (CLIP L)"]["sizes"]["l"]["layers"] == 2
    assert told["dtypes"] == {"F16": 420, "I64": 1}
    assert told["digest"] == blake3.blake3(DEMO.read_bytes()).hexdigest()
    lines = models("info", "vae/three.safetensors").stdout.splitlines()
    assert lines[1] == "  VAE: 0.4 million numbers, 32 32 32 32 wide, 16 latent channels"
    (tmp_path / "models" / "loras" / "three.safetensors").symlink_to(tmp_path / "models" / "loras" / "xl.safetensors")
    twice = models("info", "three.safetensors")
    assert twice.exit_code == 2
    assert "name one of loras/three.safetensors, vae/three.safetensors" in twice.stderr
    unknown = models("info", "thee.safetensors")
    assert unknown.exit_code == 2
    assert "which is neither; nearest: " in unknown.stderr


@pytest.mark.parametrize("name", ["sd2", "ssd-1b", "sd3-t5"])
def test_info_tells_the_families_apart(models: Models, tmp_path: Path, name: str) -> None:
    """Title, towers and what is predicted, of small models in the true layouts."""
    write_shapes(tmp_path / "m.safetensors", SMALL[name].shapes(), "float16")
    told = json.loads(models("info", tmp_path / "m.safetensors", "--json").stdout)
    what, prediction = {
        "sd2": ("Stable Diffusion 2: UNet, text encoder (CLIP H), VAE", "epsilon"),
        "ssd-1b": ("Stable Diffusion XL: UNet, text encoders (CLIP L and CLIP G), VAE", "epsilon"),
        "sd3-t5": ("Stable Diffusion 3: transformer, text encoders (CLIP L and CLIP G and T5), VAE", "flow"),
    }[name]
    assert (told["what"], told["prediction"]) == (what, prediction)


def test_the_catalogue_is_listed_and_its_entries_have_places() -> None:
    """Every entry is a repository, a file that is no pickle or is converted, and a folder that exists."""
    for short, entry in read_catalogue().items():
        assert entry.repo.count("/") == 1, short
        assert entry.folder in SUBFOLDERS, short
        assert entry.file is None or entry.is_converted or entry.file.endswith((".safetensors", ".json", ".onnx")), (
            short
        )
        assert not entry.is_converted or entry.local_name.endswith(".safetensors"), short
        assert entry.folder != "diffusers" or entry.file is None, short
    result = CliRunner().invoke(app, ["models", "pull"])
    assert result.exit_code == 0
    assert "stabilityai/stable-diffusion-xl-base-1.0/sd_xl_base_1.0.safetensors" in result.stdout
    assert len(result.stdout.splitlines()) == len(read_catalogue())


def test_a_short_name_is_downloaded_into_its_folder(models: Models, hub: Hub, tmp_path: Path) -> None:
    """Under the catalogue's name, whole, and nothing else is left; a second pull downloads nothing."""
    content = save(lora(768))
    hub.repositories["latent-consistency/lcm-lora-sdv1-5"] = {"pytorch_lora_weights.safetensors": content}
    result = models("pull", "lcm-lora-sd15")
    assert result.exit_code == 0, result.output
    path = Path("models/loras/lcm-lora-sdv1-5.safetensors")
    assert result.stdout.splitlines() == [str(path)]
    assert "a LoRA for Stable Diffusion 1" in result.stderr
    assert (tmp_path / path).read_bytes() == content
    left = {file for file in (tmp_path / "models").rglob("*") if file.is_file()}
    assert left == {tmp_path / path}
    assert models("pull", "lcm-lora-sd15").exit_code == 0
    assert hub.ranges() == [None]


def test_several_are_downloaded_in_one_go(models: Models, hub: Hub, tmp_path: Path) -> None:
    """Each is told by its path; with a name among them that is none, nothing is downloaded."""
    for repo, width in (("latent-consistency/lcm-lora-sdv1-5", 768), ("latent-consistency/lcm-lora-sdxl", 2048)):
        hub.repositories[repo] = {"pytorch_lora_weights.safetensors": save(lora(width))}
    refused = models("pull", "lcm-lora-sd15", "lcm-lora-sdlx")
    assert refused.exit_code == 2
    assert "lcm-lora-sdxl" in refused.stderr
    assert hub.ranges() == []
    result = models("pull", "lcm-lora-sd15", "lcm-lora-sdxl")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"models/loras/lcm-lora-{name}.safetensors" for name in ("sdv1-5", "sdxl")]


def test_a_small_file_is_checked_by_git_s_digest(models: Models, hub: Hub, tmp_path: Path) -> None:
    """As tokenizers are, which have no SHA-256 on the hub."""
    hub.repositories["google/flan-t5-xxl"] = {"tokenizer.json": b'{"model": {}}'}
    hub.small.add("tokenizer.json")
    assert models("pull", "t5-tokenizer").exit_code == 0
    assert (tmp_path / "models/tokenizers/t5/tokenizer.json").read_bytes() == b'{"model": {}}'
    hub.lies["tokenizer.json"] = "1" * 40
    refused = models("pull", "t5-tokenizer", "--to", tmp_path / "b")
    assert refused.exit_code == 1
    assert "with the digest 1111" in refused.stderr


def test_any_file_goes_where_its_content_belongs(models: Models, hub: Hub, tmp_path: Path) -> None:
    """A name that says nothing becomes the repository's; what is not known wants a folder, and is not downloaded again."""
    files = {
        "pytorch_lora_weights.safetensors": save(lora(2048)),
        "sub/odd.safetensors": save({"x.y": torch.zeros(3), "z": torch.ones(1)}),
    }
    hub.repositories["someone/details"] = files
    assert models("pull", "someone/details/pytorch_lora_weights.safetensors").exit_code == 0
    assert (tmp_path / "models/loras/details.safetensors").read_bytes() == files["pytorch_lora_weights.safetensors"]
    unknown = models("pull", "someone/details/sub/odd.safetensors")
    assert unknown.exit_code == 1
    assert "name a folder for it with --to" in unknown.stderr
    before = len(hub.ranges())
    assert models("pull", "someone/details/sub/odd.safetensors", "--to", tmp_path / "mine").exit_code == 0
    assert (tmp_path / "mine" / "odd.safetensors").read_bytes() == files["sub/odd.safetensors"]
    assert len(hub.ranges()) == before


def test_an_interrupted_download_goes_on_where_it_stopped(models: Models, hub: Hub, tmp_path: Path) -> None:
    """The connection breaks and the hub is gone: one line, nothing among the models. Later only the rest is asked for."""
    content = DEMO.read_bytes()
    hub.repositories["someone/demo"] = {"demo.safetensors": content}
    hub.cut = 12_000_000
    broken = models("pull", "someone/demo/demo.safetensors")
    assert broken.exit_code == 1
    assert "the hub could not give someone/demo" in broken.stderr
    assert not (tmp_path / "models" / "checkpoints").exists()
    (partial,) = (tmp_path / "models" / ".pull").iterdir()
    have = partial.stat().st_size
    assert 0 < have <= 12_000_000
    assert content.startswith(partial.read_bytes())
    done = models("pull", "someone/demo/demo.safetensors")
    assert done.exit_code == 0, done.output
    assert hub.ranges() == [None, f"bytes={have}-", f"bytes={have}-"]
    assert (tmp_path / "models" / "checkpoints" / "demo.safetensors").read_bytes() == content


def test_a_wrong_digest_removes_what_arrived(models: Models, hub: Hub, tmp_path: Path) -> None:
    """And says both digests."""
    hub.repositories["someone/lora"] = {"a.safetensors": save(lora(768))}
    hub.lies["a.safetensors"] = "ab" * 32
    result = models("pull", "someone/lora/a.safetensors", "--to", tmp_path / "loras")
    assert result.exit_code == 1
    assert f"with the digest {'ab' * 32} that the hub states, found" in result.stderr
    assert [file for file in tmp_path.rglob("*") if file.is_file() and "state" not in file.parts] == []


def test_what_is_not_to_be_had_is_said_in_a_line(models: Models, hub: Hub, tmp_path: Path) -> None:
    """A missing file, a missing repository, a gated one, a pickle, a name that means nothing; nothing is downloaded."""
    hub.repositories["someone/lora"] = {"a.safetensors": save(lora(768)), "a.ckpt": b"PK"}
    hub.repositories["stabilityai/stable-diffusion-3-medium"] = {"sd3_medium_incl_clips.safetensors": b"x"}
    hub.gated.add("stabilityai/stable-diffusion-3-medium")
    for name, code, said in (
        (
            "someone/lora/b.safetensors",
            2,
            "expected 'b.safetensors' in someone/lora on the hub, found none; nearest: a.safetensors",
        ),
        (
            "someone/nothing/a.safetensors",
            1,
            "expected a repository someone/nothing on the hub, found none that may be seen",
        ),
        (
            "sd3-medium",
            1,
            "is gated: accept its terms at https://huggingface.co/stabilityai/stable-diffusion-3-medium, then log in",
        ),
        ("someone/lora/a.ckpt", 1, "a.ckpt is a pickle, and reading one can run code"),
        ("someone/lora/readme.md", 2, "expected a .safetensors file, an .onnx file or a tokenizer's .json"),
        ("sdxl-turbp", 2, "nearest: sdxl-turbo"),
        (
            "someone/lora",
            2,
            "expected a diffusers folder with model_index.json in someone/lora, found none; name one file",
        ),
    ):
        result = models("pull", name)
        assert result.exit_code == code, (name, result.output)
        assert said in result.stderr
        assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert hub.ranges() == []
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "a.safetensors").write_bytes(b"mine")
    taken = models("pull", "someone/lora/a.safetensors", "--to", tmp_path / "loras")
    assert taken.exit_code == 1
    assert "move it away" in taken.stderr
    assert (tmp_path / "loras" / "a.safetensors").read_bytes() == b"mine"


def test_a_diffusers_folder_comes_with_what_loading_needs(models: Models, hub: Hub, tmp_path: Path) -> None:
    """Configurations and one variant of the weights of each network, and the pictures and pickles beside them do not."""
    config = {"_class_name": "AutoencoderKL", "block_out_channels": [32], "latent_channels": 4}
    weights = save({"decoder.conv_in.weight": torch.zeros(32, 4, 3, 3)})
    hub.repositories["someone/small"] = {
        "model_index.json": json.dumps({"_class_name": "X", "vae": ["diffusers", "AutoencoderKL"]}).encode(),
        "preview.png": b"png",
        "vae/config.json": json.dumps(config).encode(),
        "vae/diffusion_pytorch_model.bin": b"PK",
        "vae/diffusion_pytorch_model.safetensors": weights,
        "vae/diffusion_pytorch_model.fp16.safetensors": weights,
    }
    result = models("pull", "someone/small")
    assert result.exit_code == 0, result.output
    root = tmp_path / "models" / "diffusers" / "small"
    assert {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()} == {
        "model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    }  # fmt: skip
    assert "small" in models("list", "--folder", "diffusers").stdout
    hub.repositories["someone/small"] = {"model_index.json": b"{}", "vae/config.json": b"{}", "vae/model.bin": b"PK"}
    pickled = models("pull", "someone/small", "--to", tmp_path / "other")
    assert pickled.exit_code == 1
    assert "expected vae of someone/small as safetensors, found config.json, model.bin" in pickled.stderr


def test_a_pickle_of_the_catalogue_becomes_safetensors(models: Models, hub: Hub, tmp_path: Path) -> None:
    """It is converted on its way, under the name that annotators are looked for by; a second pull downloads nothing."""
    tensors = {"norm": torch.arange(3.0)}
    pickle = BytesIO()
    torch.save({"state_dict": tensors}, pickle)
    hub.repositories["lllyasviel/Annotators"] = {"ControlNetHED.pth": pickle.getvalue()}
    result = models("pull", "hed")
    assert result.exit_code == 0, result.output
    path = tmp_path / "models/annotators/lllyasviel/Annotators/ControlNetHED.safetensors"
    assert torch.equal(load_file(path)["norm"], tensors["norm"])
    assert {file for file in (tmp_path / "models").rglob("*") if file.is_file()} == {path}
    assert models("pull", "hed").exit_code == 0
    assert hub.ranges() == [None]


def test_a_network_of_transformers_is_pulled_as_a_folder(models: Models, hub: Hub, tmp_path: Path) -> None:
    """Its configuration and its weights; what else the repository holds is left there."""
    files = {
        "config.json": b"{}",
        "model.safetensors": save({"head.weight": torch.ones(2)}),
        "pytorch_model.bin": b"PK",
    }
    hub.repositories["shi-labs/oneformer_coco_swin_large"] = files
    result = models("pull", "oneformer-coco")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "models/annotators/shi-labs/oneformer_coco_swin_large"
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    hub.repositories["shi-labs/oneformer_ade20k_swin_large"] = {"config.json": b"{}"}
    assert "found no such network" in models("pull", "oneformer-ade20k").stderr
