"""A diffusers folder is the same model as a checkpoint file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import MissingFile, ModelFileError
from engine.models import Digest, ModelRef, Part
from nodes.diffusion.folders import read_schedule, read_text, read_unet, read_vae, weight_files
from nodes.diffusion.sources import Source
from nodes.diffusion.store import LoadedModel, LocalModelStore
from tests.nodes.diffusion.conftest import MakeRef


def save_part(folder: Path, model: LoadedModel, **changes: Any) -> None:
    """Write a leased part as diffusers and transformers write it, in half precision."""
    folder.mkdir(parents=True)
    module: Any = model.module.get_submodule("l.text") if model.ref.part == "clip" else model.module
    config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": type(module).__name__} | changes))
    weights = {name: tensor.half().contiguous() for name, tensor in module.state_dict().items()}
    stem = "model" if model.ref.part == "clip" else "diffusion_pytorch_model"
    save_file(weights, folder / f"{stem}.fp16.safetensors")


FOLDERS: dict[Part, str] = {"unet": "unet", "clip": "text_encoder", "vae": "vae"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_store: LocalModelStore, demo: MakeRef) -> Path:
    path = tmp_path_factory.mktemp("demo-folder")
    for part, name in FOLDERS.items():
        with demo_store.lease(demo(part)) as model:
            save_part(path / name, model)
    index = {name: ["library", "class"] for name in FOLDERS.values()} | {"safety_checker": [None, None]}
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"} | index))
    (path / "scheduler").mkdir()
    (path / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"prediction_type": "v_prediction", "beta_start": 0.00085, "beta_end": 0.012})
    )
    return path


@pytest.mark.parametrize("part", ["unet", "clip", "vae"])
def test_folder_gives_the_same_model_as_the_file(
    folder: Path, demo_store: LocalModelStore, demo: MakeRef, part: Part
) -> None:
    """Configuration and weights of each part are those of the file the folder was made from."""
    with (
        demo_store.lease(demo(part)) as expected,
        demo_store.lease(ModelRef(Digest("folder"), part, str(folder))) as found,
    ):
        assert found.config == expected.config
        theirs = expected.module.state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in found.module.state_dict().items())
        assert found.facts.schedule.prediction == "v_prediction"


def test_part_alone_is_a_source(folder: Path) -> None:
    """The folder of one part can be opened by itself."""
    assert set(Source(folder / "vae").description.parts) == {"vae"}


def test_shards_are_read_together(folder: Path, tmp_path: Path) -> None:
    """Weights in several files, listed by an index, are one part."""
    from safetensors.torch import load_file

    whole = load_file(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    names = sorted(whole)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for name, kept in parts.items():
        save_file({key: whole[key] for key in kept}, tmp_path / name)
    (tmp_path / "config.json").write_text((folder / "vae" / "config.json").read_text())
    index = {"weight_map": {key: name for name, kept in parts.items() for key in kept}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert [path.name for path in weight_files(tmp_path)] == ["a.safetensors", "b.safetensors"]
    assert len(Source(tmp_path).part("vae").names) == len(names)


@pytest.mark.parametrize(
    "files",
    [{}, {"diffusion_pytorch_model.bin": ""}, {"model.safetensors.index.json": '{"weight_map": {"a": "../b.safetensors"}}'},
     {"model.safetensors.index.json": "{}"}],
)  # fmt: skip
def test_folder_without_safe_weights_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    """No weights, only pickles, or shards elsewhere: an error each, that names the folder."""
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises((MissingFile, ModelFileError), match=tmp_path.name):
        weight_files(tmp_path)


UNET = {"block_out_channels": [32, 64], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "cross_attention_dim": 64, "attention_head_dim": 8, "layers_per_block": 1}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"addition_embed_type": "text_image"}, {"attention_head_dim": [5, 10]}, {"block_out_channels": [32, 48]},
     {"down_block_types": ["CrossAttnDownBlock2D", "AttnDownBlock2D"]}, {"layers_per_block": [1]},
     {"transformer_layers_per_block": [1, 0]}, {"transformer_layers_per_block": [[0], 1]}, {"mid_block_type": "X"},
     {"cross_attention_dim": [64]}, {"attention_head_dim": 7}],
)  # fmt: skip
def test_other_unets_are_refused(change: dict[str, Any]) -> None:
    """A config of a UNet that no known family has is a ModelFileError."""
    assert read_unet(UNET).context_dim == 64
    with pytest.raises(ModelFileError):
        read_unet(UNET | change)


def test_other_configs_are_refused() -> None:
    """Configs of an autoencoder that scales by nothing, a text tower of no size, a linear schedule: a ModelFileError each."""
    with pytest.raises(ModelFileError):
        read_vae({"block_out_channels": [32], "scaling_factor": 0})
    with pytest.raises(ModelFileError):
        read_text({"hidden_size": 0})
    with pytest.raises(ModelFileError):
        read_schedule({"beta_schedule": "linear"})


def test_folders_of_other_models_are_refused(tmp_path: Path) -> None:
    """A folder made for a model with a prior, or of no known part, is named as such."""
    index = {"_class_name": "StableCascadeCombinedPipeline", "unet": ["a", "b"], "prior": ["a", "b"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match="StableCascadeCombinedPipeline with a prior"):
        Source(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "X"}))
    with pytest.raises(ModelFileError, match="none of them"):
        Source(tmp_path)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "config.json").write_text('{"_class_name": "PriorTransformer"}')
    with pytest.raises(ModelFileError, match="PriorTransformer"):
        Source(tmp_path)
