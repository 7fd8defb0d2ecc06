"""Hypernetworks change what keys and values are made of, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import ModelFileError
from engine.graph.graph import Call
from engine.models import ModelRef
from nodes.diffusion import hypernetworks
from nodes.diffusion.budget import Budget
from nodes.diffusion.devices import device_policy
from nodes.diffusion.patches import patcher
from nodes.diffusion.pickles import convert_pickle
from nodes.diffusion.store import LocalModelStore
from tests.nodes.studio import Studio, checkpoint, link

WIDTH = 64


def layers(widths: tuple[int, ...], seed: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(after, before, generator=draw) / 8, torch.randn(after, generator=draw))
        for before, after in pairwise(widths)
    ]


def tensors(keys: list[tuple[Tensor, Tensor]], values: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{WIDTH}.{side}.linear.{2 * place}.{leaf}": tensor
        for side, stack in enumerate((keys, values))
        for place, pair in enumerate(stack)
        for leaf, tensor in zip(("weight", "bias"), pair, strict=True)
    }


def loader(name: str, strength: float = 0.5) -> Call:
    return Call("HypernetworkLoader", {"model": link("checkpoint"), "hypernetwork_name": name, "strength": strength})


def test_keys_and_values_see_their_own_stack_added(studio: Studio) -> None:
    """to_k and to_v of both attentions read x + strength * stack(x); queries, and the plain model after it, read x."""
    keys, values = layers((WIDTH, 128, WIDTH), 1), layers((WIDTH, 128, WIDTH), 2)
    name = studio.write("hypernetworks/h.safetensors", tensors(keys, values), {"activation_func": '"relu"'})
    calls = {"checkpoint": checkpoint(), "hyper": loader(name)}
    ref: ModelRef = studio.values(calls, "hyper")[0]
    x = torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(3))

    def outputs(ref: ModelRef, store: LocalModelStore) -> list[Tensor]:
        with store.lease(ref) as model, torch.inference_mode():
            block = model.module.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0")
            return [
                block.get_submodule(f"{attention}.{layer}")(x)
                for attention in ("attn1", "attn2")
                for layer in ("to_k", "to_v", "to_q")
            ]

    def added(stack: list[tuple[Tensor, Tensor]]) -> Tensor:
        (first, first_bias), (second, second_bias) = stack
        return x + 0.5 * (torch.relu(x @ first.T + first_bias) @ second.T + second_bias)

    found = outputs(ref, studio.store)
    plain = outputs(replace(ref, patches=()), studio.store)
    with studio.store.lease(replace(ref, patches=())) as model:
        block = model.module.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0")
        expected = [
            functional.linear(seen, block.get_parameter(f"{attention}.{layer}.weight"))
            for attention in ("attn1", "attn2")
            for layer, seen in (("to_k", added(keys)), ("to_v", added(values)), ("to_q", x))
        ]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))
    assert torch.equal(plain[2], found[2])
    assert not torch.allclose(plain[0], found[0])


def test_a_streamed_model_has_its_hypernetwork_as_well(studio: Studio) -> None:
    """Weights that come block by block, or go and come back, change nothing of it."""
    content = tensors(layers((WIDTH, WIDTH), 1), layers((WIDTH, WIDTH), 2))
    name = studio.write("hypernetworks/h.safetensors", content)
    ref: ModelRef = studio.values({"checkpoint": checkpoint(), "hyper": loader(name)}, "hyper")[0]
    draw = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 4, 8, 8, generator=draw), torch.randn(1, 7, WIDTH, generator=draw)

    def run(store: LocalModelStore, ref: ModelRef) -> Tensor:
        with store.lease(ref) as model, torch.inference_mode():
            output: Tensor = model.module(x, torch.tensor([500.0]), text, return_dict=False)[0]
        return output

    policy = device_policy("cpu")
    found = run(studio.store, ref)
    studio.store.evict_all()
    assert torch.equal(run(studio.store, ref), found)
    assert torch.equal(run(LocalModelStore(policy, Budget(1), patcher(policy.device)), ref), found)
    assert not torch.allclose(run(studio.store, replace(ref, patches=())), found)


def test_a_pickle_of_the_web_ui_is_converted_with_its_settings(tmp_path: Path) -> None:
    """Activations after all layers but the last, or after that as well; norms behind them."""
    draw = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Linear(WIDTH, 32), nn.Mish(), nn.LayerNorm(32), nn.Linear(32, WIDTH), nn.Mish(), nn.LayerNorm(WIDTH)
    )
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    side = {f"linear.{name}": tensor for name, tensor in network.state_dict().items()}
    content: dict[object, object] = {"activation_func": "mish", "is_layer_norm": True, "activate_output": True}
    content |= {"use_dropout": True, "layer_structure": [1, 0.5, 1], "step": 100, "name": "h", WIDTH: (side, side)}
    torch.save(content, tmp_path / "h.pt")
    path = convert_pickle(tmp_path / "h.pt")
    stacks = hypernetworks.read(str(path))
    assert sorted(stacks) == [(WIDTH, "to_k"), (WIDTH, "to_v")]
    x = torch.randn(3, WIDTH, generator=draw)
    with torch.no_grad():
        assert torch.allclose(stacks[WIDTH, "to_k"](x), network(x), atol=1e-5)


def test_before_the_last_norm_there_is_an_activation_anyway() -> None:
    """With norms the last layer is one of them; without, what is linear and last stays so."""
    linear = torch.eye(3), torch.tensor([0.0, -3.0, -1.0])
    norm = torch.ones(3), torch.zeros(3)
    x = torch.tensor([5.0, 1.0, 1.0])
    assert hypernetworks.Stack([linear], "relu", False, False)(x).tolist() == [5.0, -2.0, 0.0]
    # (5, 0, 0) is (2, -1, -1) times 5 / 3 away from its mean
    found = hypernetworks.Stack([linear, norm], "relu", True, False)(x)
    assert found.tolist() == pytest.approx([2**0.5, -(0.5**0.5), -(0.5**0.5)], rel=1e-4)


@pytest.mark.parametrize(
    ("content", "metadata", "words"),
    [
        ({"conv_in.weight": torch.zeros(1)}, {}, "found a textual inversion embedding"),
        (tensors(layers((WIDTH, 32), 0), []), {}, "expected layers from 64 to 64"),
        (tensors(layers((WIDTH, WIDTH), 0), []), {"activation_func": json.dumps("exec")}, "found 'exec'"),
        (tensors(layers((WIDTH, WIDTH), 0), []), {"is_layer_norm": "maybe"}, "expected JSON"),
    ],
)
def test_files_that_are_no_hypernetwork(
    studio: Studio, content: dict[str, Tensor], metadata: dict[str, str], words: str
) -> None:
    """Each is refused in words."""
    name = studio.write("hypernetworks/wrong.safetensors", content, metadata)
    with pytest.raises(ModelFileError, match=words):
        hypernetworks.read(str(studio.folder / "models" / "hypernetworks" / name))


def test_a_hypernetwork_for_wider_attention_is_refused_by_its_loader(studio: Studio) -> None:
    """With what the model reads and what the file is for."""
    content: dict[str, Tensor] = {}
    for side in (0, 1):
        content |= {f"768.{side}.linear.0.weight": torch.zeros(768, 768), f"768.{side}.linear.0.bias": torch.zeros(768)}
    name = studio.write("hypernetworks/wide.safetensors", content)
    message = studio.failure({"checkpoint": checkpoint(), "hyper": loader(name)}, "hyper")
    assert "input hypernetwork_name" in message
    assert "reads [64, 128] channels, found one for [768] in wide.safetensors" in message
