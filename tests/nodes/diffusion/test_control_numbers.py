"""ControlNets and adapters steer the model as diffusers' own classes do with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.random_controls import CLDM
from benchmarks.random_controls import SMALL as NETS
from benchmarks.random_models import SMALL as MODELS
from benchmarks.random_models import UNET, VAE
from benchmarks.random_sd15 import write_shapes
from engine.models import Digest, ModelRef, Patch, Recipe
from nodes.diffusion import control
from nodes.diffusion.budget import Budget
from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.devices import device_policy
from nodes.diffusion.leases import leases
from nodes.diffusion.patches import patcher
from nodes.diffusion.sample import Settings, sample_latent
from nodes.diffusion.sources import open_source
from nodes.diffusion.store import LoadedModel, LocalModelStore
from nodes.diffusion.unet import denoiser

XL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "block_out_channels": (64, 128, 128),
    "cross_attention_dim": 128,
    "attention_head_dim": (1, 2, 2),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1600,
}
SD1: dict[str, Any] = {"block_out_channels": (64, 128, 128, 128), "cross_attention_dim": 64, "attention_head_dim": 8}
SD3: dict[str, Any] = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "joint_attention_dim": 256,
    "caption_projection_dim": 128,
    "pooled_projection_dim": 128,
    "pos_embed_max_size": 16,
}

STREAMING: Final = 20_000_000
"""Bytes that are too few for model and net."""

Told = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], dict[str, Any]]
"""What diffusers' networks are told beside sample [1,C,h,w], step [1] and text, for the options of an entry."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("controls")


@pytest.fixture(scope="module")
def store() -> LocalModelStore:
    policy = device_policy("cpu")
    return LocalModelStore(policy, patcher=patcher(policy.device))


@pytest.fixture(scope="module")
def write(folder: Path) -> Callable[[str, Mapping[str, Any]], Path]:
    """A file of random weights, written once."""

    def written(name: str, shapes: Mapping[str, Any]) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            write_shapes(path, shapes, "float32", seed=len(name))
        return path

    return written


def shapes_of(name: str) -> dict[str, Any]:
    """Those of a model without its text encoders."""
    return {key: shape for key, shape in MODELS[name].shapes().items() if key.startswith((UNET, VAE))}


Write = Callable[[str, Mapping[str, Any]], Path]


def net(path: Path, model: ModelRef | None = None) -> ModelRef:
    ref = ModelRef(Digest(str(path)), "control", str(path))
    return control.net(open_source(str(path)), ref, model)


def unet(path: Path) -> ModelRef:
    return ModelRef(Digest(str(path)), "unet", str(path))


def picture(seed: int = 0, size: int = 64, count: int = 1) -> Tensor:
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))


@contextmanager
def sampling(store: LocalModelStore, model: ModelRef) -> Iterator[tuple[LoadedModel, Denoiser]]:
    with store.lease(model) as loaded, leases(store) as beside:
        yield loaded, denoiser(loaded, beside)


def entry(width: int, pooled: int, seed: int, *controls: Recipe, **options: Any) -> list[Any]:
    draw = torch.Generator().manual_seed(seed)
    found = {"pooled_output": torch.randn(1, pooled, generator=draw), **options}
    embedding = torch.randn(1, 77, width, generator=draw)
    return [[embedding, {**found, "control": list(controls)} if controls else found]]


def settings(cfg: float = 3.0, steps: int = 2) -> Settings:
    return Settings(seed=5, steps=steps, cfg=cfg, sampler="euler", scheduler="simple")


def sampled(denoise: Denoiser, positive: list[Any], negative: list[Any], **changes: Any) -> Tensor:
    """In the model's space."""
    shape = changes.pop("shape", (1, denoise.latent_format.channels, 8, 8))
    found: Tensor = sample_latent(denoise, settings(**changes), positive, negative, {"samples": torch.zeros(shape)})[
        "samples"
    ]
    return (found - denoise.latent_format.shift) * denoise.latent_format.scale


def expected(
    loaded: LoadedModel, denoise: Denoiser, positive: list[Any], negative: list[Any], told: Told, cfg: float = 3.0
) -> Tensor:
    """The same by diffusers' networks, guidance and Euler's method written out."""
    flow, table = denoise.schedule.flow, denoise.schedule.table
    sigmas = torch.tensor([*table[[-1, -501]], 0.0]).float()
    module: Any = loaded.module

    def clean(x: Tensor, sigma: Tensor, side: list[Any]) -> Tensor:
        context, options = side[0]
        step = sigma[None] * 1000 if flow else torch.tensor([int(abs(table - float(sigma)).argmin())])
        seen = x if flow else x / (sigma**2 + 1) ** 0.5
        more = told(seen, step, context, options)
        if flow:
            given = {"pooled_projections": options["pooled_output"]}
            out = module(hidden_states=seen, timestep=step, encoder_hidden_states=context, **given, **more).sample
        else:
            vector = {"class_labels": labels(options)} if module.config.class_embed_type else {}
            out = module(seen, step, context, **vector, **more).sample
        found: Tensor = x - sigma * out
        return found

    x = torch.randn((1, denoise.latent_format.channels, 8, 8), generator=torch.Generator().manual_seed(5))
    x = x if flow else x * (1 + sigmas[0] ** 2) ** 0.5
    with torch.inference_mode():
        for now, after in pairwise(sigmas):
            sides = [clean(x, now, side) for side in (positive, negative)]
            guided = sides[1] + cfg * (sides[0] - sides[1])
            x = x + (x - guided) / now * (after - now)
    return x


def labels(options: Mapping[str, Any]) -> Tensor:
    """SDXL's vector for a picture of 64 x 64, by diffusers' sinusoids."""
    from diffusers.models.embeddings import get_timestep_embedding

    sizes = torch.tensor([64, 64, 0, 0, 64, 64])
    embedded = get_timestep_embedding(sizes, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    return torch.cat([options["pooled_output"], embedded.reshape(1, -1)], -1)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Random weights give latents of any spread; those of pictures have about 1."""
    return float((ours - theirs).abs().max() / theirs.std())


def as_theirs(make: Callable[..., Any], config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """diffusers' network with these weights."""
    with torch.device("meta"):
        module = make(**config)
    module.load_state_dict(tensors, assign=True)
    return module.eval()


def controlnet(config: dict[str, Any], path: Path) -> Any:
    """diffusers' ControlNet, with the weights of a file of the original layout as its own converter reads them."""
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
    from diffusers.models.controlnets.controlnet import ControlNetModel

    checkpoint = load_file(path)
    vector = {  # which the converter forgets
        key.replace("label_emb.0.0", "add_embedding.linear_1").replace("label_emb.0.2", "add_embedding.linear_2"): it
        for key, it in checkpoint.items()
        if key.startswith("label_emb.")
    }
    converted = convert_controlnet_checkpoint(checkpoint, {"layers_per_block": 2})
    return as_theirs(ControlNetModel, config, converted | vector)


def residuals(module: Any, hint: Tensor, scale: float = 1.0, **more: Any) -> Told:
    """What a ControlNet of diffusers says of a hint [1,3,H,W]; SDXL's is told the sizes itself."""

    def told(seen: Tensor, step: Tensor, context: Tensor, options: dict[str, Any]) -> dict[str, Any]:
        sizes = {"text_embeds": options["pooled_output"], "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]])}
        down, mid = module(seen, step, context, hint, scale, added_cond_kwargs=sizes, return_dict=False, **more)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    return told


@pytest.mark.parametrize(("name", "config", "width"), [("sd15", SD1, 64), ("sdxl", XL, 128)])
def test_a_controlnet_is_that_of_diffusers(
    write: Write, store: LocalModelStore, name: str, config: dict[str, Any], width: int
) -> None:
    """In the original layout, at a strength of its own, on both sides of guidance."""
    path = write(f"{name}-net", NETS[name])
    applied = control.recipe(net(path), picture(), 0.7)
    positive, negative = entry(width, 64, 1, applied), entry(width, 64, 2, applied)
    with sampling(store, unet(write(name, shapes_of(name)))) as (loaded, denoise):
        ours = sampled(denoise, positive, negative)
        told = residuals(controlnet(config, path), picture().movedim(-1, 1), 0.7)
        theirs = expected(loaded, denoise, positive, negative, told)
        plain = sampled(denoise, entry(width, 64, 1), entry(width, 64, 2))
    assert difference(ours, theirs) < 1e-4
    assert difference(plain, theirs) > 0.1


def saved(folder: Path, name: str, module: Any) -> Path:
    """A network of diffusers with random weights, its zeros included, as a file."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / max(parameter[0].numel(), 8) ** 0.5)
    path = folder / f"{name}.safetensors"
    save_file(module.eval().state_dict(), path)
    return path


@pytest.mark.parametrize("kind", ["repaint", "auto"])
def test_a_union_net_is_that_of_diffusers(folder: Path, write: Write, store: LocalModelStore, kind: str) -> None:
    """Behind the picture, which its small transformer sees alone; told no kind, the picture is added as it is. Streamed it is the same."""
    from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel

    torch.manual_seed(3)
    union = {"num_control_type": 8, "num_trans_channel": 64, "num_proj_channel": 64}
    module: Any = ControlNetUnionModel(**XL, **union, conditioning_embedding_out_channels=(16, 32, 48, 64))
    ref = control.with_type(net(saved(folder, "union", module)), kind)
    applied = control.recipe(ref, picture(), 1.0)
    positive, negative = entry(128, 64, 1, applied), entry(128, 64, 2, applied)
    hint = picture().movedim(-1, 1)
    marks = torch.zeros(1, 8)
    number = {"repaint": 7}.get(kind)
    with torch.no_grad():
        added = module.controlnet_cond_embedding(hint)
        if number is not None:
            marks[:, number] = 1
            token = added.mean((2, 3)) + module.task_embedding[number]
            for layer in module.transformer_layes:
                token = layer(token[None])[0]
            added = added + module.spatial_ch_projs(token)[..., None, None]

    def told(seen: Tensor, step: Tensor, context: Tensor, options: dict[str, Any]) -> dict[str, Any]:
        sizes = {"text_embeds": options["pooled_output"], "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]])}
        handle = module.conv_in.register_forward_hook(lambda _, __, out: out + added)
        down, mid = module(seen, step, context, [], marks, [], added_cond_kwargs=sizes, return_dict=False)
        handle.remove()
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    model = unet(write("sdxl", shapes_of("sdxl")))
    with sampling(store, model) as (loaded, denoise):
        ours = sampled(denoise, positive, negative)
        theirs = expected(loaded, denoise, positive, negative, told)
    assert difference(ours, theirs) < 1e-4
    if number is not None:
        with sampling(LocalModelStore(store.policy, Budget(STREAMING)), model) as (_, denoise):
            assert torch.equal(sampled(denoise, positive, negative), ours)


def features(module: Any, hint: Tensor, scale: float) -> Told:
    """What an adapter of diffusers adds; the UNet uses the list up."""
    return lambda *_: {"down_intrablock_additional_residuals": [scale * it for it in module(hint)]}


@pytest.mark.parametrize(
    ("name", "model", "config"),
    [
        ("sd15-adapter", "sd15", {"channels": [64, 128, 128, 128]}),
        ("sd15-grey-adapter", "sd15", {"channels": [64, 128, 128, 128], "in_channels": 1}),
        ("sd15-light-adapter", "sd15", {"channels": [64, 128, 128], "num_res_blocks": 4, "adapter_type": "light_adapter"}),
        ("sdxl-adapter", "sdxl", {"channels": [64, 128, 128, 128], "downscale_factor": 16, "adapter_type": "full_adapter_xl"}),
    ],
)  # fmt: skip
def test_an_adapter_is_that_of_diffusers(
    write: Write, store: LocalModelStore, name: str, model: str, config: dict[str, Any]
) -> None:
    """In TencentARC's layout: each block by the place that it has in diffusers' network. Grey pictures are the mean of the colours."""
    from diffusers.models.adapter import T2IAdapter

    path = write(name, NETS[name])
    places = {}
    for key in load_file(path):
        parts = key.split(".")
        if parts[0] == "body" and "light" in name:
            parts[2] = parts[2].replace("body", "resnets")
        elif parts[0] == "body":
            level, block = divmod(int(parts[1]), 2)
            parts[1:2] = [str(level)] if parts[2] == "in_conv" else [str(level), "resnets", str(block)]
        places[key] = "adapter." + ".".join(parts)
    module = as_theirs(T2IAdapter, config, {places[key]: it for key, it in load_file(path).items()})
    width = 128 if model == "sdxl" else 64
    applied = control.recipe(net(path), picture(), 0.5)
    positive, negative = entry(width, 64, 1, applied), entry(width, 64, 2, applied)
    hint = picture().movedim(-1, 1)
    hint = hint.mean(1, keepdim=True) if "grey" in name else hint
    with sampling(store, unet(write(model, shapes_of(model)))) as (loaded, denoise):
        ours = sampled(denoise, positive, negative)
        theirs = expected(loaded, denoise, positive, negative, features(module, hint, 0.5))
        plain = sampled(denoise, entry(width, 64, 1), entry(width, 64, 2))
    assert difference(ours, theirs) < 1e-4
    assert difference(plain, theirs) > 1e-2


def latent_of(store: LocalModelStore, path: Path, pixels: Tensor) -> Tensor:
    """A picture [1,3,H,W], -1..1, through the autoencoder, as it is."""
    with store.lease(ModelRef(Digest(str(path)), "vae", str(path))) as vae:
        module: Any = vae.module
        with torch.inference_mode():
            found: Tensor = module.encode(pixels).latent_dist.mode()
    return found


def blocks(module: Any, hint: Tensor, scale: float, **more: Any) -> Told:
    def told(seen: Tensor, step: Tensor, context: Tensor, options: dict[str, Any]) -> dict[str, Any]:
        found = {"hidden_states": seen, "encoder_hidden_states": context}
        found |= {"pooled_projections": torch.zeros_like(options["pooled_output"])}
        found |= {name: make(seen, options) for name, make in more.items()}
        (states,) = module(timestep=step, controlnet_cond=hint, conditioning_scale=scale, return_dict=False, **found)
        return {"block_controlnet_hidden_states": states}

    return told


@pytest.mark.parametrize("masks", [0, 1])
def test_a_net_for_sd3_is_that_of_diffusers(folder: Path, write: Write, store: LocalModelStore, masks: int) -> None:
    """It sees the picture's latent, scaled and not moved; the text, and zeros for the pooled one; of an inpainting what is kept, too."""
    from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel

    torch.manual_seed(4)
    module: Any = SD3ControlNetModel(**SD3, extra_conditioning_channels=masks)
    path, model = saved(folder, f"sd3-{masks}", module), write("sd3", shapes_of("sd3"))
    vae = ModelRef(Digest(str(model)), "vae", str(model))
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    ref = net(path)
    seen, kept = control.masked(ref, picture(), mask)
    applied = control.recipe(ref, seen, 0.8, vae=vae, mask=kept)
    positive, negative = entry(256, 128, 1, applied), entry(256, 128, 2, applied)
    pixels = picture().movedim(-1, 1) * (1 - mask if masks else 1)
    hint = latent_of(store, model, pixels * 2 - 1) * 1.5305
    if masks:
        below = torch.cat([torch.zeros(1, 1, 4, 8), torch.ones(1, 1, 4, 8)], 2)
        hint = torch.cat([hint, below], 1)
    with sampling(store, unet(model)) as (loaded, denoise):
        ours = sampled(denoise, positive, negative)
        theirs = expected(loaded, denoise, positive, negative, blocks(module, hint, 0.8))
        plain = sampled(denoise, entry(256, 128, 1), entry(256, 128, 2))
    assert difference(ours, theirs) < 1e-4
    assert difference(plain, theirs) > 1e-2


@pytest.mark.parametrize(("number", "change"), [(0.0, (2.0, -1.0)), (1.0, (255.0, 0.0)), (2.0, (-2.0, 1.0))])
def test_a_net_of_stability_is_that_of_diffusers(
    folder: Path, write: Write, store: LocalModelStore, number: float, change: tuple[float, float]
) -> None:
    """It begins with the model's own embedding, reads the pooled text alone, and its file says what is done to the picture."""
    from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel

    tensors = load_file(write("sd35-net", NETS["sd35"])) | {"control_type": torch.tensor(number)}
    path, model = folder / f"stability-{number}.safetensors", write("sd3", shapes_of("sd3"))
    save_file(tensors, path)
    config = SD3 | {
        "joint_attention_dim": None,
        "use_pos_embed": False,
        "pos_embed_max_size": None,
        "pos_embed_type": None,
    }
    renamed = {
        "attn.proj": "attn.to_out.0",
        "mlp.fc1": "ff.net.0.proj",
        "mlp.fc2": "ff.net.2",
        "adaLN_modulation.1": "norm1.linear",
    }
    theirs: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        for old, new in renamed.items():
            key = key.replace(old, new) if key.startswith("transformer_blocks.") else key
        if "attn.qkv" in key:
            parts = zip(("to_q", "to_k", "to_v"), tensor.chunk(3), strict=True)
            theirs |= {key.replace("qkv", part): piece for part, piece in parts}
        elif key != "control_type":
            theirs[key] = tensor
    module = as_theirs(SD3ControlNetModel, config, theirs)
    applied = control.recipe(net(path), picture(), 1.0, vae=ModelRef(Digest(str(model)), "vae", str(model)))
    positive, negative = entry(256, 128, 1, applied), entry(256, 128, 2, applied)
    pixels = picture().movedim(-1, 1) * change[0] + change[1]
    hint = (latent_of(store, model, pixels) - 0.0609) * 1.5305
    with sampling(store, unet(model)) as (loaded, denoise):
        transformer: Any = loaded.module
        told = blocks(
            module,
            hint,
            1.0,
            hidden_states=lambda seen, _: transformer.pos_embed(seen),
            encoder_hidden_states=lambda *_: None,
            pooled_projections=lambda _, options: options["pooled_output"],
        )
        ours = sampled(denoise, positive, negative)
        assert difference(ours, expected(loaded, denoise, positive, negative, told)) < 1e-4


def merged(model: Path, path: Path) -> dict[str, Tensor]:
    """A ControlNet made whole by hand: the model's weights and the products of the factors, by the original names."""
    base, told = load_file(model), load_file(path)
    found = {name: it for name, it in told.items() if not name.endswith((".up", ".down")) and name != "lora_controlnet"}
    for name in (key.removesuffix(".up") for key in told if key.endswith(".up")):
        weight = base[f"model.diffusion_model.{name}.weight"]
        found[f"{name}.weight"] = weight + (told[f"{name}.up"].flatten(1) @ told[f"{name}.down"].flatten(1)).view(
            weight.shape
        )
    return found


def test_a_control_lora_is_taken_with_the_models_own_weights(
    folder: Path, write: Write, store: LocalModelStore
) -> None:
    """Also where the model is patched: what it is made whole by are the weights that are sampled with."""
    path, model = write("sdxl-lora", NETS["sdxl-lora"]), write("sdxl", shapes_of("sdxl"))
    save_file(merged(model, path), folder / "merged.safetensors")
    patched = unet(model).with_patches(Patch("scale", Digest(""), 1.0, "", ((".attn2.to_k", 0.5),)))
    found = {}
    for kind, file, of in (("lora", path, unet(model)), ("whole", folder / "merged.safetensors", unet(model)),
                           ("patched", path, patched)):  # fmt: skip
        applied = control.recipe(net(file), picture(), 1.0)
        with sampling(store, of) as (_, denoise):
            found[kind] = sampled(denoise, entry(128, 64, 1, applied), entry(128, 64, 2, applied), steps=1)
    assert difference(found["lora"], found["whole"]) < 1e-4
    assert difference(found["patched"], found["whole"]) > 1e-2


def test_a_difference_is_added_to_a_model(folder: Path, write: Write, store: LocalModelStore) -> None:
    """To the layers that the model has; those for the picture stay."""
    whole, model = load_file(write("sd15-net", NETS["sd15"])), write("sd15", shapes_of("sd15"))
    base = load_file(model)
    told = {
        name: it - base.get(name.replace(CLDM, "model.diffusion_model."), torch.zeros(())) for name, it in whole.items()
    }
    path = folder / "difference.safetensors"
    save_file(told | {"difference": torch.zeros(1)}, path)
    found = []
    for ref in (net(path, unet(model)), net(write("sd15-net", NETS["sd15"]))):
        applied = control.recipe(ref, picture(), 1.0)
        with sampling(store, unet(model)) as (_, denoise):
            found.append(sampled(denoise, entry(64, 64, 1, applied), entry(64, 64, 2, applied), steps=1))
    assert difference(*found) < 1e-4
