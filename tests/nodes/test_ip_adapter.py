"""IP-Adapter nodes in whole workflows, on the demo model with random adapters and a small CLIP vision model."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.random_models import SMALL, UNET
from engine.errors import InputError
from engine.graph.graph import Call
from nodes.diffusion.configs import UNetConfig
from nodes.diffusion.inspection import inspect_model
from nodes.diffusion.ip_adapter import attention_widths, open_adapter
from nodes.diffusion.ip_apply import together
from nodes.diffusion.ip_prompts import ImagePrompt, prompts_of
from nodes.diffusion.pickles import read_pickle
from nodes.diffusion.sources import open_source
from nodes.diffusion.vision import encode
from tests.nodes.diffusion import ip_adapters
from tests.nodes.diffusion.clip_vision import transformers_layout, vision
from tests.nodes.studio import DEMO, Studio, checkpoint, link

PROJECTED, WIDTH = 64, 128
"""Numbers that the small CLIP vision model gives for a picture and for a patch."""

H = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"

MANNER = {"weight": 1.0, "start_at": 0.0, "end_at": 1.0}
ADVANCED: dict[str, Any] = {**MANNER, "weight_type": "linear", "combine_embeds": "concat", "embeds_scaling": "V only"}


@cache
def config() -> UNetConfig:
    found = open_source(str(DEMO)).part("unet").config
    assert isinstance(found, UNetConfig)
    return found


def adapter(kind: str = "base", seed: int = 4, width: int | None = None) -> ip_adapters.Half:
    """A file for the demo model, or for one that reads texts of another width."""
    width = width or config().context_dim
    projection = {"base": ip_adapters.base, "plus": ip_adapters.plus, "full": ip_adapters.full}[kind]
    own = ip_adapters.layers(attention_widths(config()), width, seed)
    return ip_adapters.whole(projection(width, PROJECTED if kind == "base" else WIDTH), own)


@pytest.fixture
def room(studio: Studio) -> Studio:
    """With adapters and the CLIP vision model under their usual names."""
    studio.write("ipadapter/ip-adapter_sd15.safetensors", adapter())
    studio.write("ipadapter/sd/ip-adapter-plus_sd15.safetensors", adapter("plus"))
    studio.write(f"clip_vision/{H}", transformers_layout(vision()))
    return studio


def calls(**more: Call) -> dict[str, Call]:
    """The loaders, two pictures, and what comes after them."""
    return {
        "checkpoint": checkpoint(),
        "adapter": Call("IPAdapterModelLoader", {"ipadapter_file": "ip-adapter_sd15.safetensors"}),
        "vision": Call("CLIPVisionLoader", {"clip_name": H}),
        "red": Call("EmptyImage", {"width": 48, "height": 32, "batch_size": 1, "color": 0xFF2010}),
        "blue": Call("EmptyImage", {"width": 48, "height": 32, "batch_size": 1, "color": 0x1020FF}),
        "both": Call("ImageBatch", {"image1": link("red"), "image2": link("blue")}),
        **more,
    }


def advanced(model: Any = None, image: str = "red", adapter: str = "adapter", **more: Any) -> Call:
    inputs = {"model": model or link("checkpoint"), "ipadapter": link(adapter), "image": link(image)}
    return Call("IPAdapterAdvanced", {**inputs, "clip_vision": link("vision"), **ADVANCED, **more})


def unified(preset: str) -> Call:
    return Call("IPAdapterUnifiedLoader", {"model": link("checkpoint"), "preset": preset})


def sampled(model: str) -> dict[str, Call]:
    """Two steps with ``model``, out of the node ``sampler``."""
    return {
        "latent": Call("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 2}),
        "positive": Call("CLIPTextEncode", {"text": "a red circle", "clip": link("checkpoint", 1)}),
        "negative": Call("CLIPTextEncode", {"text": "", "clip": link("checkpoint", 1)}),
        "sampler": Call(
            "KSampler",
            {"model": link(model), "seed": 3, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal",
             "positive": link("positive"), "negative": link("negative"), "latent_image": link("latent"), "denoise": 1.0},
        ),
    }  # fmt: skip


def latent(studio: Studio, graph: dict[str, Call], model: str) -> Tensor:
    found: Tensor = studio.values({**graph, **sampled(model)}, "sampler")[0]["samples"]
    return found


def prompt_of(studio: Studio, graph: dict[str, Call], node: str = "one") -> ImagePrompt:
    """The last picture of the model that comes out of ``node``."""
    return prompts_of(studio.values(graph, node)[0])[-1][1]


def seen(studio: Studio, graph: dict[str, Call], image: str, output: str) -> Tensor:
    picture = studio.values(graph, image)[0]
    with studio.store.lease(studio.values(graph, "vision")[0]) as loaded:
        return encode(picture, loaded, "center")[output]


def test_a_picture_is_followed_beside_the_prompt(room: Studio) -> None:
    """Another picture is another result; two nodes in a row add up; the same workflow again is known."""
    graph = calls(one=advanced(), other=advanced(image="blue"), two=advanced(link("one"), image="blue", weight=0.5))
    found = [latent(room, graph, model) for model in ("checkpoint", "one", "other", "two")]
    assert all(not torch.allclose(a, b, atol=1e-2) for n, a in enumerate(found) for b in found[:n])
    assert torch.equal(latent(room, graph, "one"), found[1])


def test_tokens_are_those_of_what_clip_sees(room: Studio) -> None:
    """The projected state and zeros for a base adapter; the states of patches, and those of a black picture, for a plus one."""
    graph = calls(
        plus=Call("IPAdapterModelLoader", {"ipadapter_file": "sd/ip-adapter-plus_sd15.safetensors"}),
        black=Call("EmptyImage", {"width": 28, "height": 28, "batch_size": 1, "color": 0}),
        one=advanced(),
        two=advanced(adapter="plus"),
    )
    folder, cpu = room.folder / "models" / "ipadapter", torch.device("cpu")
    base = open_adapter(str(folder / "ip-adapter_sd15.safetensors"))
    found = prompt_of(room, graph)
    assert torch.allclose(found.toward, base.tokens(seen(room, graph, "red", "image_embeds"), cpu), atol=1e-5)
    assert torch.allclose(found.away, base.tokens(torch.zeros(1, PROJECTED), cpu), atol=1e-6)
    plus = open_adapter(str(folder / "sd" / "ip-adapter-plus_sd15.safetensors"))
    found = prompt_of(room, graph, "two")
    for tokens, image in ((found.toward, "red"), (found.away, "black")):
        expected = plus.tokens(seen(room, graph, image, "penultimate_hidden_states"), cpu)
        assert torch.allclose(tokens, expected, atol=1e-4)


def test_the_negative_side_sees_the_picture_it_is_given(room: Studio) -> None:
    graph = calls(one=advanced(image_negative=link("blue")), two=advanced(image="blue"))
    assert torch.allclose(prompt_of(room, graph).away, prompt_of(room, graph, "two").toward, atol=1e-6)


def test_pictures_are_joined_before_they_are_projected(room: Studio) -> None:
    """Side by side they keep tokens of their own; their mean has those of one."""
    names = ("concat", "average", "add", "subtract", "norm average")
    graph = calls(**{name: advanced(image="both", combine_embeds=name) for name in names})
    adapter_file = open_adapter(str(room.folder / "models" / "ipadapter" / "ip-adapter_sd15.safetensors"))
    red, blue = seen(room, graph, "both", "image_embeds").split(1)
    norm = (red**2 + blue**2).sqrt()
    expected = {
        "average": (red + blue) / 2, "add": red + blue, "subtract": red - blue,
        "norm average": (red / norm + blue / norm) / 2, "concat": torch.cat([red, blue]),
    }  # fmt: skip
    for name in names:
        found = prompt_of(room, graph, name)
        assert torch.allclose(found.toward, adapter_file.tokens(expected[name], torch.device("cpu")), atol=1e-4)
        assert len(found.away) == (2 if name == "concat" else 1)


def test_the_unified_loader_finds_files_by_their_names(room: Studio) -> None:
    """In folders below, too. The simple node takes the CLIP vision model from it, and is the same as the long way."""
    simple = {**MANNER, "model": link("checkpoint"), "image": link("red")}
    graph = calls(
        standard=unified("STANDARD (medium strength)"),
        plus=Call(
            "IPAdapterUnifiedLoader",
            {"model": link("checkpoint"), "preset": "PLUS (high strength)", "ipadapter": link("standard", 1)},
        ),
        one=Call("IPAdapter", {**simple, "ipadapter": link("standard", 1), "weight_type": "standard"}),
        two=advanced(),
        three=Call("IPAdapter", {**simple, "ipadapter": link("plus", 1), "weight_type": "prompt is more important"}),
    )
    one, two = room.values(graph, "one")[0], room.values(graph, "two")[0]
    assert one == two
    found = prompt_of(room, graph, "three")
    assert found.toward.shape[1] == 16
    assert found.weights[0] == [0.05]


def test_the_unified_loader_runs_again_when_a_file_comes(room: Studio) -> None:
    """What it says depends on the files that its preset means, and on no others."""
    graph = calls(light=unified("LIGHT - SD1.5 only (low strength)"))
    failed = room.failure(graph, "light")
    assert "expected a file whose name ends in ip-adapter_sd15_light_v11.safetensors in models/ipadapter" in failed
    room.write("ipadapter/ip-adapter_sd15_light.safetensors", adapter(seed=7))
    old = room.values(graph, "light")[1]
    room.write("ipadapter/ip-adapter_sd15_light_v11.safetensors", adapter(seed=8))
    new = room.values(graph, "light")[1]
    assert [recipe.parts["file"].name for recipe in (old, new)] == [
        "ip-adapter_sd15_light.safetensors",
        "ip-adapter_sd15_light_v11.safetensors",
    ]


def test_a_changed_adapter_under_the_same_name_counts(room: Studio) -> None:
    graph = calls(one=advanced())
    before = latent(room, graph, "one")
    room.write("ipadapter/ip-adapter_sd15.safetensors", adapter(seed=9))
    assert not torch.allclose(latent(room, graph, "one"), before, atol=1e-2)


def test_embeddings_are_kept_in_files(room: Studio) -> None:
    """Encoded, saved, loaded and followed: the same as the picture itself. Twice the weight is twice the numbers."""
    graph = calls(
        encoded=Call(
            "IPAdapterEncoder",
            {"ipadapter": link("adapter"), "image": link("red"), "weight": 1.0, "clip_vision": link("vision")},
        ),
        doubled=Call(
            "IPAdapterEncoder",
            {"ipadapter": link("adapter"), "image": link("red"), "weight": 2.0, "clip_vision": link("vision")},
        ),
        saved=Call("IPAdapterSaveEmbeds", {"embeds": link("encoded"), "filename_prefix": "IP_embeds"}),
    )
    result = room.run(graph)
    assert result.status == "succeeded", result.failures
    (written,) = (room.folder / "output").glob("*.ipadpt")
    (room.folder / "input").mkdir(exist_ok=True)
    written.rename(room.folder / "input" / "picture.ipadpt")
    embeds = {"pos_embed": link("loaded"), "weight_type": "linear", "embeds_scaling": "V only", **MANNER}
    graph |= {
        "loaded": Call("IPAdapterLoadEmbeds", {"embeds": "picture.ipadpt"}),
        "one": Call("IPAdapterEmbeds", {"model": link("checkpoint"), "ipadapter": link("adapter"), **embeds}),
        "two": advanced(),
    }
    assert room.values(graph, "one")[0] == room.values(graph, "two")[0]
    assert torch.equal(room.values(graph, "doubled")[0], 2 * room.values(graph, "encoded")[0])
    torch.save(torch.zeros(1, 4), room.folder / "input" / "old.ipadpt")
    graph["loaded"] = Call("IPAdapterLoadEmbeds", {"embeds": "old.ipadpt"})
    assert "old.ipadpt is a pickle, and reading one can run code; encode the picture again" in room.failure(
        graph, "loaded"
    )


def test_under_a_mask_clip_sees_nothing(room: Studio) -> None:
    """A mask of zeros is a picture of the mean colour, whatever the picture; one of ones changes nothing."""

    def encoded(image: str, **more: Any) -> Call:
        inputs = {"ipadapter": link("adapter"), "image": link(image), "weight": 1.0, "clip_vision": link("vision")}
        return Call("IPAdapterEncoder", {**inputs, **more})

    graph = calls(
        none=Call("SolidMask", {"value": 0.0, "width": 64, "height": 64}),
        all=Call("SolidMask", {"value": 1.0, "width": 64, "height": 48}),
        a=encoded("red", mask=link("none")), b=encoded("blue", mask=link("none")),
        c=encoded("red", mask=link("all")), d=encoded("red"),
    )  # fmt: skip
    a, b, c, d = (room.values(graph, name)[0] for name in "abcd")
    assert torch.equal(a, b)
    assert torch.allclose(c, d, atol=1e-5)
    assert not torch.allclose(a, d, atol=1e-2)


def test_embeddings_are_combined() -> None:
    """Numbers by hand; embeddings of different widths are no one value."""
    a, b = torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, -4.0]])
    assert together([a, b], "max").tolist() == [[3.0, 4.0]]
    assert together([a, b], "min").tolist() == [[1.0, -4.0]]
    assert together([a, b], "subtract").tolist() == [[-2.0, 8.0]]
    assert together([a], "subtract").tolist() == a.tolist()
    assert together([a, b], "concat").shape == (2, 2)
    with pytest.raises(InputError, match="expected embeddings of one kind"):
        together([a, torch.zeros(1, 3)], "add")


def test_tiles_are_followed_where_they_are(room: Studio) -> None:
    """A wide picture is a row of three; each tile's mask is its own place, and together they are all of it."""
    graph = calls(wide=Call("EmptyImage", {"width": 300, "height": 100, "batch_size": 1, "color": 0x808080}))
    graph["one"] = Call(
        "IPAdapterTiled",
        {"model": link("checkpoint"), "ipadapter": link("adapter"), "image": link("wide"), "clip_vision": link("vision"),
         "sharpening": 0.0, **ADVANCED},
    )  # fmt: skip
    model, tiles, masks = room.values(graph, "one")
    assert tiles.shape == (3, 256, 256, 3)
    assert torch.allclose(masks.sum(0), torch.ones(256, 768))
    assert torch.equal(masks[1].nonzero().amin(0), torch.tensor([0, 256]))
    assert len(prompts_of(model)) == 3


def test_regions_have_pictures_and_prompts_of_their_own(room: Studio) -> None:
    def region(image: str, weight: float, mask: str) -> Call:
        inputs = {"image": link(image), "image_weight": weight, "prompt_weight": 2.0, "weight_type": "linear"}
        where = {"start_at": 0.0, "end_at": 1.0, "mask": link(mask), "positive": link("positive")}
        return Call("IPAdapterRegionalConditioning", {**inputs, **where})

    graph = calls(
        positive=Call("CLIPTextEncode", {"text": "a circle", "clip": link("checkpoint", 1)}),
        left=Call("SolidMask", {"value": 0.5, "width": 16, "height": 16}),
        right=Call("SolidMask", {"value": 1.0, "width": 16, "height": 16}),
        first=region("red", 0.5, "left"),
        second=region("blue", 0.8, "right"),
        params=Call("IPAdapterCombineParams", {"params_1": link("first"), "params_2": link("second")}),
        one=Call(
            "IPAdapterFromParams",
            {"model": link("checkpoint"), "ipadapter": link("adapter"), "ipadapter_params": link("params"),
             "combine_embeds": "concat", "embeds_scaling": "K+V", "clip_vision": link("vision")},
        ),
    )  # fmt: skip
    found = [prompt for _, prompt in prompts_of(room.values(graph, "one")[0])]
    assert [prompt.weights[0] for prompt in found] == [[0.5], [0.8]]
    assert [float(prompt.mask.mean()) for prompt in found if prompt.mask is not None] == [0.5, 1.0]
    assert {prompt.scaling for prompt in found} == {"K+V"}
    conditioning = room.values(graph, "first")[1]
    assert conditioning[0][1]["mask_strength"] == 2.0
    assert torch.equal(conditioning[0][1]["mask"], torch.full((1, 16, 16), 0.5))


def test_weights_of_frames_go_to_a_batch(room: Studio) -> None:
    """From 1 to 0 over two frames: the second sample is as without a picture, the first as with one."""
    graph = calls(frames=Call("IPAdapterWeights", {"weights": "1.0, 0.0", "timing": "linear", "frames": 2}))
    graph["one"] = Call(
        "IPAdapterBatch",
        {"model": link("checkpoint"), "ipadapter": link("adapter"), "image": link("both"), "clip_vision": link("vision"),
         "weight_type": "linear", "embeds_scaling": "V only", **MANNER, "weight": link("frames")},
    )  # fmt: skip
    graph["two"] = advanced()
    found, plain, whole = (latent(room, graph, name) for name in ("one", "checkpoint", "two"))
    assert torch.allclose(found[1], plain[1], atol=1e-3)
    assert torch.allclose(found[0], whole[0], atol=1e-3)
    assert not torch.allclose(found[0], plain[0], atol=1e-2)


def test_styles_need_a_model_with_known_transformers(room: Studio) -> None:
    """The demo model is smaller than those whose transformers are known; layers can be weighed one by one."""
    graph = calls(
        styled=advanced(weight_type="style transfer"),
        one=Call(
            "IPAdapterMS",
            {**dict(advanced().inputs), "weight_faceidv2": 1.0, "layer_weights": "0:0.5, 1:2"},
        ),
        wrong=Call("IPAdapterMS", {**dict(advanced().inputs), "weight_faceidv2": 1.0, "layer_weights": "0:0.5, 99:2"}),
    )
    assert "input weight_type: expected a model with 16 or 11 transformers" in room.failure(graph, "styled")
    assert prompt_of(room, graph).weights[:3] == [[0.5], [2.0], [0.0]]
    assert "input layer_weights: expected layers from 0 to" in room.failure(graph, "wrong")


# what does not go together


def test_adapters_of_another_family_are_refused_before_sampling(room: Studio) -> None:
    """By the width of the text that is read, and by how many layers there are."""
    room.write("ipadapter/xl.safetensors", adapter(width=2048))
    graph = calls(adapter=Call("IPAdapterModelLoader", {"ipadapter_file": "xl.safetensors"}), one=advanced())
    failed = room.failure(graph, "one")
    assert "input ipadapter: expected an IP-Adapter for this Stable Diffusion 1" in failed
    assert "found one for SDXL in xl.safetensors" in failed
    few = {name: it for name, it in adapter().items() if not name.startswith("ip_adapter.3.")}
    room.write("ipadapter/few.safetensors", few)
    graph["adapter"] = Call("IPAdapterModelLoader", {"ipadapter_file": "few.safetensors"})
    assert "expected an IP-Adapter for this" in room.failure(graph, "one")


def test_a_transformer_takes_no_adapter(room: Studio) -> None:
    from benchmarks.random_sd15 import write_shapes

    path = room.folder / "models" / "checkpoints" / "sd3.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shapes(path, {k: v for k, v in SMALL["sd3"].shapes().items() if k.startswith(UNET)}, "float32")
    graph = calls(checkpoint=checkpoint("sd3.safetensors"), one=advanced(), two=unified("STANDARD (medium strength)"))
    assert "input model: expected a model with a UNet for the IP-Adapter ip-adapter_sd15.safetensors" in room.failure(
        graph, "one"
    )
    assert "expected a Stable Diffusion 1.5 or Stable Diffusion XL model for the preset STANDARD" in room.failure(
        graph, "two"
    )


def test_another_clip_vision_model_is_refused(room: Studio) -> None:
    """Or none at all."""
    room.write("clip_vision/wide.safetensors", transformers_layout(vision(128, 96)))
    graph = calls(vision=Call("CLIPVisionLoader", {"clip_name": "wide.safetensors"}), one=advanced())
    failed = room.failure(graph, "one")
    assert "input clip_vision: expected a CLIP vision model whose projected states are 64 wide" in failed
    assert "found one with 96 in wide.safetensors" in failed
    alone = {
        **MANNER,
        "model": link("checkpoint"),
        "ipadapter": link("adapter"),
        "image": link("red"),
        "weight_type": "standard",
    }
    assert "found none; load" in room.failure(calls(one=Call("IPAdapter", alone)), "one")


def test_files_of_other_kinds_are_no_adapters(room: Studio) -> None:
    """Each is called by its name, and where it belongs is said."""
    file = adapter()
    files: dict[str, tuple[dict[str, Tensor], str]] = {
        "lora": ({"lora_unet_x.lora_up.weight": torch.zeros(2, 2), "lora_unet_x.lora_down.weight": torch.zeros(2, 2)},
                 "expected an IP-Adapter in lora.safetensors, found a LoRA"),
        "face": ({**file, "ip_adapter.0.to_q_lora.down.weight": torch.zeros(2, 2)}, "found one for faces (FaceID)"),
        "half": ({name: it for name, it in file.items() if "ip_adapter." in name}, "found a part of one"),
        "hole": ({name: it for name, it in file.items() if name != "image_proj.norm.bias"}, "found one without norm.bias"),
        "vae": (transformers_layout(vision()), "found a CLIP vision model; put it in models/clip_vision"),
    }  # fmt: skip
    for name, (tensors, words) in files.items():
        room.write(f"ipadapter/{name}.safetensors", tensors)
        graph = calls(adapter=Call("IPAdapterModelLoader", {"ipadapter_file": f"{name}.safetensors"}))
        assert words in room.failure(graph, "adapter")
    room.write("checkpoints/ip.safetensors", file)
    assert "an IP-Adapter; put it in models/ipadapter" in room.failure({"one": checkpoint("ip.safetensors")}, "one")
    assert inspect_model(room.folder / "models" / "checkpoints" / "ip.safetensors").folder == "ipadapter"


def test_a_pickle_is_refused_and_can_be_converted(room: Studio) -> None:
    """To the same names, tensor by tensor."""
    file = adapter("plus", seed=6)
    folder = room.folder / "models" / "ipadapter"
    torch.save(ip_adapters.halves(file), folder / "ip-adapter-full-face_sd15.bin")
    graph = calls(
        adapter=Call("IPAdapterModelLoader", {"ipadapter_file": "ip-adapter-full-face_sd15.bin"}),
        full=unified("FULL FACE - SD1.5 only (portraits stronger)"),
    )
    for node in ("adapter", "full"):
        assert "mezzotint models convert" in room.failure(graph, node)
    room.write("ipadapter/ip-adapter-full-face_sd15.safetensors", read_pickle(folder / "ip-adapter-full-face_sd15.bin"))
    path = folder / "ip-adapter-full-face_sd15.safetensors"
    found = open_adapter(str(path))
    assert found.tensors.keys() == file.keys()
    assert found.kind == "plus"
    assert room.values(graph, "full")[1].parts["file"].path == path
