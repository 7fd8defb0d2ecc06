from __future__ import annotations

import copy

import pytest

from engine.errors import DefinitionError, InvalidGraph
from engine.graph.api_format import write_api
from engine.graph.builder import Builder
from engine.graph.graph import Link, NodeId
from engine.graph.validate import validate
from tests.engine.graph.vocabulary import ListedFiles, registry


@pytest.fixture
def w() -> Builder:
    return Builder(registry())


def test_a_workflow_is_written_line_by_line(w: Builder) -> None:
    """Outputs unpack, a node with one output is that output, ids and titles can be chosen."""
    model, clip, vae = w.CheckpointLoaderSimple(ckpt_name="demo.safetensors")
    positive = w.CLIPTextEncode(text="a star", clip=clip)
    negative = w.CLIPTextEncode(text="", clip=clip)
    latent = w.EmptyLatentImage(width=64, height=64, batch_size=1)
    sampled = w.at("ks", title="First pass").KSampler(
        model=model,
        positive=positive,
        negative=negative,
        latent_image=latent,
        seed=1,
        steps=2,
        cfg=7,
        sampler_name="euler",
        scheduler="normal",
        denoise=1,
    )
    w.SaveImage(images=w.VAEDecode(samples=sampled, vae=vae), filename_prefix="x")
    graph = w.graph()
    assert list(graph) == ["1", "2", "3", "4", "ks", "5", "6"]
    assert graph["ks"].title == "First pass"
    assert graph["5"].links == {"samples": Link(NodeId("ks"), 0), "vae": Link(NodeId("1"), 2)}
    assert validate(graph, registry()) == []
    assert write_api(graph)["6"]["inputs"] == {"images": ["5", 0], "filename_prefix": "x"}


def test_outputs_are_found_by_number_name_and_slice(w: Builder) -> None:
    """A loader's outputs, each way."""
    loaded = w.CheckpointLoaderSimple(ckpt_name="x")
    assert loaded["CLIP"] == loaded[1] == loaded[-2] == loaded[1:][0]
    assert [handle.type for handle in loaded] == ["MODEL", "CLIP", "VAE"]
    for key in (3, -4, "IMAGE"):
        with pytest.raises(DefinitionError, match="its outputs are MODEL, CLIP, VAE"):
            loaded[key]


def test_wrong_lines_fail_where_they_are_written(w: Builder) -> None:
    """Wrong types, names and values are what validation would say, and add nothing."""
    loaded = w.CheckpointLoaderSimple(ckpt_name="x")
    with pytest.raises(InvalidGraph, match="expected CLIP, found MODEL from output 0 of node 1") as caught:
        w.CLIPTextEncode(text="", clip=loaded["MODEL"])
    assert [problem.type for problem in caught.value.problems] == ["return_type_mismatch"]
    with pytest.raises(InvalidGraph, match='did you mean "width"'):
        w.EmptyImage(widht=1, width=1, height=1, batch_size=1, color=0)
    with pytest.raises(InvalidGraph, match="expected at least 1, found 0"):
        w.EmptyImage(width=0, height=1, batch_size=1, color=0)
    with pytest.raises(InvalidGraph, match="input text: it is required and not there"):
        w.CLIPTextEncode(clip=loaded["CLIP"])
    assert list(w.graph()) == ["1"]


def test_misuse_is_explained(w: Builder) -> None:
    """An unknown type, a taken id, several outputs for one input, another builder's output."""
    with pytest.raises(DefinitionError, match='no node type "KSamplr"; did you mean "KSampler"'):
        w.KSamplr()
    loaded = w.CheckpointLoaderSimple(ckpt_name="x")
    with pytest.raises(DefinitionError, match="node 1 is there already"):
        w.at(1).CheckpointLoaderSimple(ckpt_name="x")
    with pytest.raises(DefinitionError, match="expected one output, found node 1 with MODEL, CLIP, VAE"):
        w.CLIPTextEncode(text="", clip=loaded)
    with pytest.raises(DefinitionError, match="belongs to another builder"):
        Builder(registry()).CLIPTextEncode(text="", clip=loaded["CLIP"])


def test_files_are_looked_for_where_the_builder_knows_them() -> None:
    """With files, a missing one fails its line."""
    w = Builder(registry(), ListedFiles({"checkpoints": ["a.safetensors"]}))
    w.CheckpointLoaderSimple(ckpt_name="a.safetensors")
    with pytest.raises(InvalidGraph, match='a file of the folder "checkpoints"'):
        w.CheckpointLoaderSimple(ckpt_name="b.bin")


def test_a_type_that_is_no_python_name_has_another_way(w: Builder) -> None:
    """Node types may have spaces; Python's own attributes are none."""
    assert w.type("EmptyImage")(width=1, height=1, batch_size=1, color=0).id == "1"
    assert not hasattr(w, "__len__")
    assert list(copy.copy(w).graph()) == ["1"]
