"""LoRA loaders: the picture is that of a checkpoint with the LoRA in it, and what does not fit is said before anything is sampled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.random_sd15 import Sizes, write
from engine.errors import MissingFile
from engine.graph.graph import Call
from engine.models import ModelRef
from nodes.diffusion.budget import Budget
from nodes.diffusion.devices import device_policy
from nodes.diffusion.lora import LoraFile
from nodes.diffusion.patches import patcher
from nodes.diffusion.store import LocalModelStore
from tests.nodes.studio import Studio, checkpoint, demo_metadata, demo_tensors, link, picture

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."
ATTENTION = "transformer_blocks.0.attn2"

TARGETS = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": f"{UNET}input_blocks.1.1.{ATTENTION}.to_k",
    "lora_unet_middle_block_1_transformer_blocks_0_ff_net_2": f"{UNET}middle_block.1.transformer_blocks.0.ff.net.2",
    "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_out.0": (
        f"{UNET}output_blocks.3.1.transformer_blocks.0.attn1.to_out.0"
    ),
    "lora_unet_mid_block_resnets_0_conv1": f"{UNET}middle_block.0.in_layers.2",
    "lora_te_text_model_encoder_layers_1_mlp_fc1": f"{TEXT}encoder.layers.1.mlp.fc1",
}
"""A LoRA's spelling of a module -> the module in the checkpoint."""


Factors = dict[str, tuple[Tensor, Tensor]]


def random_factors() -> Factors:
    """Strong random changes of rank 2 for ``TARGETS``: up and down of each."""
    draw = torch.Generator().manual_seed(0)
    found: Factors = {}
    for spelled, module in TARGETS.items():
        rows, *columns = demo_tensors()[f"{module}.weight"].shape
        up = torch.randn(rows, 2, *[1] * len(columns[1:]), generator=draw) * 0.5
        found[spelled] = up, torch.randn(2, *columns, generator=draw) * 0.5
    return found


def random_lora() -> dict[str, Tensor]:
    """The file of ``random_factors``, alpha 1; one module is spelled as PEFT does."""
    tensors: dict[str, Tensor] = {}
    for spelled, factors in random_factors().items():
        sides = ("lora_B", "lora_A") if spelled.startswith("unet.") else ("lora_up", "lora_down")
        tensors |= {f"{spelled}.{side}.weight": factor for side, factor in zip(sides, factors, strict=True)}
        tensors[f"{spelled}.alpha"] = torch.tensor(1.0)
    return tensors


def merged_by_hand(unet: float, text: float) -> dict[str, Tensor]:
    """The demo checkpoint with half of ``up @ down`` (alpha 1 over rank 2) in each module."""
    tensors = demo_tensors()
    for spelled, (up, down) in random_factors().items():
        name = f"{TARGETS[spelled]}.weight"
        strength = text if name.startswith(TEXT) else unet
        tensors[name] += strength * 0.5 * (up.flatten(1) @ down.flatten(1)).reshape(tensors[name].shape)
    return tensors


def loader(name: str, model: float = 1.0, clip: float = 1.0, source: str = "checkpoint") -> Call:
    return Call(
        "LoraLoader",
        {
            "model": link(source),
            "clip": link(source, 1),
            "lora_name": name,
            "strength_model": model,
            "strength_clip": clip,
        },
    )


def test_a_picture_with_a_lora_is_that_of_a_checkpoint_with_it_merged_in(studio: Studio) -> None:
    """Both strengths count on their sides, two loaders add up, and nothing of it is left in the plain model."""
    name = studio.write("loras/random.safetensors", random_lora())
    merged = studio.write("checkpoints/merged.safetensors", merged_by_hand(0.7, 1.3), demo_metadata())
    patched = {
        "checkpoint": checkpoint(),
        "first": loader(name, 0.2, 1.0),
        "second": loader(name, 0.5, 0.3, "first"),
        **picture(link("second"), link("second", 1), link("checkpoint", 2)),
    }
    by_hand = {"merged": checkpoint(merged), **picture(link("merged"), link("merged", 1), link("merged", 2))}
    plain = {"checkpoint": checkpoint(), **picture(link("checkpoint"), link("checkpoint", 1), link("checkpoint", 2))}
    found, expected, without = (studio.values(calls, "picture")[0] for calls in (patched, by_hand, plain))
    assert (found - expected).abs().max() < 1e-4
    assert (found - without).abs().mean() > 0.01
    assert studio.warnings == []


def test_a_recipe_leased_again_is_not_patched_again(studio: Studio) -> None:
    """The patched weights stay loaded; another strength is another model."""
    name = studio.write("loras/random.safetensors", random_lora())
    calls = {"checkpoint": checkpoint(), "lora": loader(name), "other": loader(name, 0.5)}
    ref: ModelRef = studio.values(calls, "lora")[0]
    with studio.store.lease(ref) as first:
        weight = first.module.get_parameter("mid_block.resnets.0.conv1.weight")
    with studio.store.lease(ref) as second:
        assert second.module.get_parameter("mid_block.resnets.0.conv1.weight") is weight
    assert (studio.store.counters.reads, studio.store.counters.loads) == (1, 1)
    with studio.store.lease(studio.values(calls, "other")[0]) as other:
        assert not torch.equal(other.module.get_parameter("mid_block.resnets.0.conv1.weight"), weight)


def test_embeddings_in_a_lora_come_with_its_text_encoder(studio: Studio) -> None:
    """They are no modules that fit nothing; where the LoRA is loaded for the model alone they are not known."""
    vectors = {"bundle_emb.mine.emb_params": torch.ones(2, 64)}
    name = studio.write("loras/bundle.safetensors", random_lora() | vectors)
    encode = {"text": "embedding:mine", "clip": link("lora", 1)}
    calls = {"checkpoint": checkpoint(), "lora": loader(name), "prompt": Call("CLIPTextEncode", encode)}
    studio.values(calls, "prompt")
    assert studio.warnings == []
    studio.values({**calls, "lora": loader(name, clip=0.0)}, "prompt")
    assert ["'mine'" in warning for warning in studio.warnings] == [True]


def test_strengths_of_zero_leave_the_recipe_alone(studio: Studio) -> None:
    """Both zero: the inputs come out, and the file is not even looked at; one zero leaves that side alone."""
    name = studio.write("loras/random.safetensors", random_lora())
    vae = studio.write("loras/vae.safetensors", {"decoder.conv_in.weight": torch.zeros(1)})
    calls = {"checkpoint": checkpoint(), "none": loader(vae, 0.0, 0.0), "text": loader(name, 0.0, 1.0)}
    model, clip, _ = studio.values(calls, "checkpoint")
    assert studio.values(calls, "none") == (model, clip)
    found = studio.values(calls, "text")
    assert found[0] == model
    assert [patch.kind for patch in found[1].patches] == ["lora"]


def test_the_model_alone_does_not_miss_what_is_for_text(studio: Studio) -> None:
    """LoraLoaderModelOnly leaves text encoder modules out without a word; strength 0 is the input."""
    name = studio.write("loras/random.safetensors", random_lora())
    only = Call("LoraLoaderModelOnly", {"model": link("checkpoint"), "lora_name": name, "strength_model": 1.0})
    calls = {"checkpoint": checkpoint(), "only": only, "none": only.with_inputs(strength_model=0.0)}
    (model,) = studio.values(calls, "only")
    assert model.patches[0].strength == 1.0
    assert studio.values(calls, "none") == (studio.values(calls, "checkpoint")[0],)
    assert studio.warnings == []


def test_modules_without_a_place_are_named_once_each(studio: Studio) -> None:
    """All keys of one module are one name in one line; the rest of the LoRA works."""
    strange = {f"lora_unet_nowhere_{n}.lora_{side}.weight": torch.ones(2, 2) for n in (1, 2) for side in ("up", "down")}
    wide = {"lora_unet_conv_in.diff": torch.ones(64, 9, 3, 3)}
    name = studio.write("loras/strange.safetensors", random_lora() | strange | wide)
    studio.values({"checkpoint": checkpoint(), "lora": loader(name)}, "lora")
    assert studio.warnings == [
        "3 of 8 modules of the LoRA strange.safetensors fit nothing in the model and are left out: "
        "lora_unet_conv_in, lora_unet_nowhere_1, lora_unet_nowhere_2"
    ]


def factors_of(shapes: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    """A LoRA of zeros for layers of these outputs and inputs."""
    return {
        f"{module}.{role}.weight": torch.zeros(shape)
        for module, (rows, columns) in shapes.items()
        for role, shape in (("lora_up", (rows, 4)), ("lora_down", (4, columns)))
    }


BLOCK = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
TEXT_LAYER = "lora_te1_text_model_encoder_layers_0_mlp_fc1"


def sdxl_lora() -> dict[str, Tensor]:
    """A query that the demo has as well, and a key that it has not."""
    return factors_of({f"{BLOCK}_attn1_to_q": (64, 64), f"{BLOCK}_attn2_to_k": (64, 2048)})


def sdxl_lokr() -> dict[str, Tensor]:
    """The same as Kronecker products."""
    key = {f"{BLOCK}_attn2_to_k.lokr_w1": torch.zeros(4, 32), f"{BLOCK}_attn2_to_k.lokr_w2_a": torch.zeros(16, 2),
           f"{BLOCK}_attn2_to_k.lokr_w2_b": torch.zeros(2, 64)}  # fmt: skip
    return key | factors_of({f"{BLOCK}_attn1_to_q": (64, 64)})


def flux_lora() -> dict[str, Tensor]:
    """Its first text encoder is Stable Diffusion 1's."""
    return factors_of({"lora_unet_single_transformer_blocks_0_attn_to_q": (8, 8), TEXT_LAYER: (256, 64)})


def vae_file() -> dict[str, Tensor]:
    prefix = "first_stage_model."
    return {name.removeprefix(prefix): it for name, it in demo_tensors().items() if name.startswith(prefix)}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (sdxl_lora, ("UNet reads texts 64 wide", "wrong.safetensors, made for SDXL")),
        (vae_file, ("expected a LoRA in wrong.safetensors, found a VAE; put it in models/vae",)),
        (lambda: {"clip_l": torch.zeros(1, 64)}, ("expected a LoRA", "a textual inversion embedding")),
        (sdxl_lokr, ("UNet reads texts 64 wide", "wrong.safetensors, made for SDXL")),
        (flux_lora, ("wrong.safetensors, made for FLUX",)),
        (
            lambda: factors_of({"lora_te_nowhere": (8, 8)}),
            ("text encoder and UNet", "with modules such as lora_te_nowhere", "none of its modules is in the model"),
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_lora_for_the_model_is_refused_by_the_loader(
    studio: Studio, file: object, words: tuple[str, ...]
) -> None:
    """The node and its input are named, what the file is, and what the model is."""
    assert callable(file)
    name = studio.write("loras/wrong.safetensors", file())
    message = studio.failure({"checkpoint": checkpoint(), "lora": loader(name)}, "lora")
    assert "node lora (LoraLoader), input lora_name" in message
    assert all(part in message for part in words), message


def test_a_lora_cut_short_is_refused_by_the_loader(studio: Studio) -> None:
    """The header is held against the file's size before anything is made of it."""
    name = studio.write("loras/short.safetensors", random_lora())
    path = studio.folder / "models" / "loras" / name
    path.write_bytes(path.read_bytes()[:-100])
    message = studio.failure({"checkpoint": checkpoint(), "lora": loader(name)}, "lora")
    assert "input lora_name" in message
    assert "short.safetensors is not a whole safetensors file" in message


def test_a_lora_that_is_gone_by_the_time_of_the_lease_is_missed(studio: Studio, tmp_path: Path) -> None:
    """The recipe says where it was; the lease says that it is not there."""
    name = studio.write("loras/random.safetensors", random_lora())
    ref: ModelRef = studio.values({"checkpoint": checkpoint(), "lora": loader(name)}, "lora")[0]
    (tmp_path / "models" / "loras" / name).unlink()
    with (
        pytest.raises(MissingFile, match=r"expected a LoRA at .*random\.safetensors, found nothing"),
        studio.store.lease(ref),
    ):
        pass


@pytest.mark.parametrize(
    ("tensors", "metadata", "family"),
    [
        (factors_of({f"{BLOCK}_attn2_to_k": (320, 768)}), {}, "Stable Diffusion 1"),
        (factors_of({f"{BLOCK}_attn2_to_k": (320, 1024)}), {}, "Stable Diffusion 2"),
        ({f"{BLOCK}_attn2_to_v.diff": torch.zeros(640, 2048)}, {}, "SDXL"),
        ({f"{BLOCK}_attn2_to_v.hada_w1_b": torch.zeros(2, 96)}, {}, "a UNet that reads texts 96 wide"),
        (factors_of({"lora_te2_text_model_encoder_layers_0_mlp_fc1": (8, 8)}), {}, "SDXL"),
        (factors_of({"transformer.transformer_blocks.0.attn.add_k_proj": (8, 8)}), {}, "Stable Diffusion 3"),
        (
            factors_of({TEXT_LAYER: (8, 8)}),
            {"modelspec.architecture": "stable-diffusion-v1/lora"},
            "stable-diffusion-v1",
        ),
        (factors_of({TEXT_LAYER: (8, 8)}), {}, None),
    ],
)
def test_what_a_lora_looks_made_for(
    studio: Studio, tensors: dict[str, Tensor], metadata: dict[str, str], family: str | None
) -> None:
    """The text that its cross attention reads tells best, then names of modules, then what the file says of itself."""
    whole = tensors | factors_of({TEXT_LAYER: (8, 8)})
    name = studio.write("loras/l.safetensors", whole, metadata)
    assert LoraFile(studio.folder / "models" / "loras" / name).family == family


def test_a_lora_for_two_text_encoders_is_none_for_stable_diffusion_1(studio: Studio, tmp_path: Path) -> None:
    """Even where all that it has for the UNet would fit: SDXL shares some of its layers."""
    path = tmp_path / "models" / "checkpoints" / "wide.safetensors"
    path.parent.mkdir(parents=True)
    write(path, Sizes(channels=32, mult=(1, 2), blocks=1, attention=(True, False), vae_channels=32, vae_mult=(1, 2),
                      vae_blocks=1, width=768, layers=1, vocabulary=100), "float16")  # fmt: skip
    two = factors_of({f"{BLOCK}_attn1_to_q": (32, 32), "lora_te2_text_model_encoder_layers_0_mlp_fc1": (8, 8)})
    name = studio.write("loras/l.safetensors", two)
    message = studio.failure({"checkpoint": checkpoint("wide.safetensors"), "lora": loader(name)}, "lora")
    assert (
        "expected a LoRA for Stable Diffusion 1, whose UNet reads texts 768 wide, found l.safetensors, made for SDXL"
        in message
    )


def test_a_streamed_model_has_its_lora_as_well(studio: Studio) -> None:
    """Weights that visit the device block by block are the patched ones, made once, and give the same numbers."""
    name = studio.write("loras/random.safetensors", random_lora())
    ref: ModelRef = studio.values({"checkpoint": checkpoint(), "lora": loader(name)}, "lora")[0]
    draw = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 4, 8, 8, generator=draw), torch.randn(1, 7, 64, generator=draw)

    def run(store: LocalModelStore) -> Tensor:
        with store.lease(ref) as model, torch.inference_mode():
            output: Tensor = model.module(x, torch.tensor([500.0]), text, return_dict=False)[0]
        return output

    policy = device_policy("cpu")
    assert torch.equal(run(LocalModelStore(policy, Budget(1), patcher(policy.device))), run(studio.store))
