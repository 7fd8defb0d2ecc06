"""GLIGEN against diffusers' own modules, and through whole samplings."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from engine.graph.graph import Call
from nodes.diffusion import gligen
from nodes.diffusion.alterations import Moment, altered
from nodes.diffusion.budget import Budget
from nodes.diffusion.configs import UNetConfig
from nodes.diffusion.convert import rename, unet_modules
from nodes.diffusion.library_arguments import unet_arguments
from nodes.diffusion.schedules import FlowSchedule
from nodes.diffusion.sources import open_source
from nodes.diffusion.store import LocalModelStore
from tests.nodes.studio import DEMO, Studio, checkpoint, link

BOXES = ((16, 24, 0, 8), (8, 8, 16, 4))
"""Height, width, y and x in cells."""


@cache
def gated() -> Any:
    """The demo's UNet with random fusers and position net, as diffusers builds it."""
    source = open_source(str(DEMO))
    config = source.part("unet").config
    assert isinstance(config, UNetConfig)
    torch.manual_seed(0)
    model: Any = UNet2DConditionModel(**unet_arguments(config), attention_type="gated")
    own = {name: tensor.shape for name, tensor in model.state_dict().items() if not is_gligen(name)}
    model.load_state_dict(dict(source.weights("unet", own)), strict=False)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "alpha" in name or "null" in name:
                tensor.normal_(0, 0.7)
            if is_gligen(name) and any(part in name for part in ("linears", "fuser.linear", "to_q", "to_k")):
                tensor.mul_(4)  # so that boxes count beside the picture
    return model.eval()


def is_gligen(name: str) -> bool:
    return ".fuser." in name or name.startswith("position_net.")


@cache
def tensors() -> dict[str, Tensor]:
    """What a file of GLIGEN alone holds, by the names of the original UNet."""
    config = open_source(str(DEMO)).part("unet").config
    assert isinstance(config, UNetConfig)
    back = {new: old for old, new in unet_modules(config).items()}
    return {rename(name, back): tensor for name, tensor in gated().state_dict().items() if is_gligen(name)}


def boxed(text: str, width: int, height: int, x: int, y: int, to: str = "positive") -> Call:
    return Call(
        "GLIGENTextBoxApply",
        {"conditioning_to": link(to), "clip": link("checkpoint", 1), "gligen_textbox_model": link("gligen"), "text": text,
         "width": width, "height": height, "x": x, "y": y},
    )  # fmt: skip


def calls(name: str, **more: Call) -> dict[str, Call]:
    """A small picture sampled; ``positive`` and ``negative`` are the plain prompts."""
    found = {
        "checkpoint": checkpoint(),
        "gligen": Call("GLIGENLoader", {"gligen_name": name}),
        "latent": Call("EmptyLatentImage", {"width": 128, "height": 192, "batch_size": 1}),
        "positive": Call("CLIPTextEncode", {"text": "a red circle", "clip": link("checkpoint", 1)}),
        "negative": Call("CLIPTextEncode", {"text": "", "clip": link("checkpoint", 1)}),
        **more,
    }
    sampler = {"model": link("checkpoint"), "seed": 3, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal",
               "positive": link("told" if "told" in found else "positive"), "negative": link("denied" if "denied" in found else "negative"),
               "latent_image": link("latent"), "denoise": 1.0}  # fmt: skip
    return {**found, "sampler": Call("KSampler", sampler)}


def sampled(studio: Studio, nodes: dict[str, Call]) -> Tensor:
    samples: Tensor = studio.values(nodes, "sampler")[0]["samples"]
    return samples


def test_the_network_computes_what_that_of_diffusers_does(studio: Studio) -> None:
    """With boxes, words and masks as StableDiffusionGLIGENPipeline prepares them; and nothing is left of it."""
    name = studio.write("gligen/boxes.safetensors", tensors())
    ref = studio.values(calls(name), "gligen")[0]
    model = studio.values(calls(name), "checkpoint")[0]
    draw = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 4, 24, 32, generator=draw), torch.randn(2, 77, 64, generator=draw)
    words = torch.randn(2, 64, generator=draw)
    corners, states, masks = torch.zeros(2, 30, 4), torch.zeros(2, 30, 64), torch.zeros(2, 30)
    corners[:, :2] = torch.tensor([(x / 32, y / 24, (x + w) / 32, (y + h) / 24) for h, w, y, x in BOXES])
    states[:, :2], masks[:, :2] = words, 1
    told = {"boxes": corners, "positive_embeddings": states, "masks": masks}
    step = torch.full((2,), 400.0)
    boxes = [(one[None], *box) for one, box in zip(words, BOXES, strict=True)]
    with torch.no_grad(), studio.store.lease(model) as loaded, studio.store.lease(ref) as beside:
        plain = loaded.module(x, step, text, return_dict=False)[0]
        moment = Moment(1.0, 24, 32, FlowSchedule(1.0))
        with altered(loaded.module, gligen.Grounding(beside.module, boxes))(moment):
            found = loaded.module(x, step, text, return_dict=False)[0]
        again = loaded.module(x, step, text, return_dict=False)[0]
        expected = gated()(x, step, text, cross_attention_kwargs={"gligen": told}, return_dict=False)[0]
    assert (found - expected).abs().max() < 1e-4
    assert (found - plain).abs().max() > 0.05
    assert torch.equal(plain, again)


def test_boxes_are_the_same_where_memory_is_too_small(studio: Studio) -> None:
    """A UNet whose layers come one by one finds the GLIGEN model whole: it is asked part by part."""
    name = studio.write("gligen/boxes.safetensors", tensors())
    nodes = calls(name, told=boxed("a red circle", 64, 64, 0, 0))
    expected = sampled(studio, nodes)
    tight = Studio(studio.folder)
    tight.__dict__["store"] = LocalModelStore(studio.store.policy, Budget(1_000_000))
    try:
        assert torch.equal(sampled(tight, nodes), expected)
    finally:
        tight.executor.close()


def test_words_are_the_state_at_the_end_of_a_prompt(studio: Studio) -> None:
    """A CLIP without a projection gives as the pooled state what GLIGEN was trained on, and boxes add up on an entry."""
    name = studio.write("gligen/boxes.safetensors", tensors())
    nodes = calls(name, one=boxed("a red circle", 64, 72, 16, 24), told=boxed("", 128, 8, 0, 0, to="one"))
    [[text, options]] = studio.values(nodes, "told")[0]
    [[plain, pooled]] = studio.values(nodes, "positive")[0]
    kind, ref, [(words, *first), (_, *second)] = options["gligen"]
    assert (kind, ref.part, first, second) == ("position", "gligen", [9, 8, 3, 2], [1, 16, 0, 0])
    assert torch.equal(words, pooled["pooled_output"])
    assert torch.equal(text, plain)


def test_boxes_change_what_is_sampled_and_leave_the_models_as_they_were(studio: Studio) -> None:
    name = studio.write("gligen/boxes.safetensors", tensors())
    plain = sampled(studio, calls(name))
    told = sampled(studio, calls(name, told=boxed("a red circle", 64, 64, 0, 0)))
    moved = sampled(studio, calls(name, told=boxed("a red circle", 64, 64, 64, 128)))
    assert min((told - plain).abs().max(), (moved - told).abs().max()) > 0.02
    with studio.store.lease(studio.values(calls(name), "checkpoint")[0]) as loaded:
        assert not any("fuser" in vars(child) or "position_net" in vars(child) for child in loaded.module.modules())
    assert studio.store.counters.reads == 3  # UNet, text encoder and GLIGEN, each once


def test_the_negative_side_is_told_of_the_same_boxes(studio: Studio) -> None:
    """Unless it has its own: guidance leads along the prompt."""
    name = studio.write("gligen/boxes.safetensors", tensors())
    box = boxed("a red circle", 64, 64, 0, 0)
    same = boxed("a red circle", 64, 64, 0, 0, to="negative")
    other = boxed("a square", 64, 64, 0, 64, to="negative")
    alone = sampled(studio, calls(name, told=box))
    assert torch.allclose(sampled(studio, calls(name, told=box, denied=same)), alone, atol=1e-3)
    assert (sampled(studio, calls(name, told=box, denied=other)) - alone).abs().max() > 0.01


@pytest.mark.parametrize(("change", "expected"), [
    ("wide", "expected a text encoder whose states are 96 wide"),
    ("few", "expected a GLIGEN model for the"),
    ("model", "expected a GLIGEN model in model.safetensors, found only a style model"),
])  # fmt: skip
def test_a_model_that_does_not_fit_is_refused(studio: Studio, change: str, expected: str) -> None:
    kept = dict(tensors())
    if change == "wide":
        kept["position_net.null_positive_feature"] = torch.zeros(96)
        kept["position_net.linears.0.weight"] = torch.zeros(512, 160)
    if change == "few":
        kept = {key: tensor for key, tensor in kept.items() if not key.startswith("output_blocks.")}
    name = studio.write("gligen/boxes.safetensors", kept)
    if change == "model":
        name = studio.write(
            "gligen/model.safetensors",
            {
                "style_embedding": torch.zeros(1, 8, 64),
                "proj": torch.zeros(64, 64),
                "transformer_layes.0.attn.in_proj_weight": torch.zeros(192, 64),
            },
        )
    message = studio.failure(calls(name, told=boxed("a", 64, 64, 0, 0)), "sampler")
    assert expected in message


def test_more_boxes_than_it_was_trained_with_are_refused() -> None:
    known: dict[str, Any] = {}
    words = torch.zeros(1, 4)
    for _ in range(30):
        known = gligen.with_box(known, None, (words, 1, 1, 0, 0))  # type: ignore[arg-type]
    with pytest.raises(Exception, match="at most 30 boxes"):
        gligen.with_box(known, None, (words, 1, 1, 0, 0))  # type: ignore[arg-type]
