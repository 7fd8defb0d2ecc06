"""Prompts become the conditioning that the interoperability contract describes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import ModelFileError
from engine.models import Digest, Patch
from nodes.diffusion.store import LoadedModel, LocalModelStore
from nodes.diffusion.text import encode, tokens_of, weigh
from nodes.diffusion.tokenizer import END_TOKEN, START_TOKEN, tokenize
from tests.nodes.diffusion.conftest import MakeRef


def states(text: str, clip: LoadedModel, **options: object) -> Tensor:
    tensor: Tensor = encode(text, clip, **options)[0][0]  # type: ignore[arg-type]
    return tensor


def reference(text: str, clip: LoadedModel, layer: int = -1) -> Tensor:
    """transformers' own states of a short prompt."""
    ids = [START_TOKEN, *tokenize(text)]
    padded = torch.tensor([ids + [END_TOKEN] * (77 - len(ids))])
    with torch.inference_mode():
        tower: Any = clip.module.get_submodule("l.text")
        out = tower(input_ids=padded, output_hidden_states=True)
        if layer == -1:
            last: Tensor = out.last_hidden_state
            return last
        skipped: Tensor = tower.final_layer_norm(out.hidden_states[layer])
        return skipped


def test_plain_prompt_is_clip_itself(demo_store: LocalModelStore, demo: MakeRef) -> None:
    """Without weights, the conditioning is the text tower's last state, and the pooled one that of the end token."""
    with demo_store.lease(demo("clip")) as clip:
        entry = encode("a red circle", clip)[0]
        expected = reference("a red circle", clip)
    assert entry[0].shape == (1, 77, 64)
    assert torch.equal(entry[0], expected)
    assert torch.equal(entry[1]["pooled_output"], expected[:, 1 + len(tokenize("a red circle"))])


def test_weight_moves_away_from_the_empty_prompt(demo_store: LocalModelStore, demo: MakeRef) -> None:
    """A weight scales the difference to the empty prompt, for its own tokens and no others."""
    with demo_store.lease(demo("clip")) as clip:
        plain, empty = states("a red circle", clip), states("", clip)
        weighted = states("a (red:1.5) circle", clip)
    assert torch.allclose(weighted[0, 2], empty[0, 2] + 1.5 * (plain[0, 2] - empty[0, 2]), atol=1e-6)
    others = [place for place in range(77) if place != 2]
    assert torch.equal(weighted[0, others], plain[0, others])


def test_weight_zero_is_the_empty_prompt(demo_store: LocalModelStore, demo: MakeRef) -> None:
    """Weight 0 leaves, at the place of the words, what the empty prompt has there."""
    with demo_store.lease(demo("clip")) as clip:
        nothing, empty = states("(red circle:0)", clip), states("", clip)
    assert torch.allclose(nothing[0, 1:3], empty[0, 1:3], atol=1e-6)


def test_long_prompt_is_encoded_in_chunks(demo_store: LocalModelStore, demo: MakeRef) -> None:
    """Beyond 75 tokens, chunks are encoded alone and laid behind each other; the pooled state is the first chunk's."""
    first, second = "red " * 75, "blue circle"
    with demo_store.lease(demo("clip")) as clip:
        entry = encode(first + second, clip)[0]
        alone, rest = encode(first.strip(), clip)[0], states(second, clip)
    assert entry[0].shape == (1, 154, 64)
    assert torch.allclose(entry[0], torch.cat([alone[0], rest], dim=1), atol=1e-5)
    assert torch.allclose(entry[1]["pooled_output"], alone[1]["pooled_output"], atol=1e-5)


def test_clip_skip_takes_an_earlier_layer_with_the_final_norm(demo_store: LocalModelStore, demo: MakeRef) -> None:
    """Layer -2 is the state before the last layer, normed; a layer beyond the first is the last."""
    with demo_store.lease(demo("clip")) as clip:
        assert torch.equal(states("a red circle", clip, layer=-2), reference("a red circle", clip, -2))
        assert torch.equal(states("a red circle", clip, layer=-24), reference("a red circle", clip))
        assert not torch.equal(states("a red circle", clip, layer=-2), reference("a red circle", clip))


def test_embedding_stands_in_the_place_of_tokens(demo_store: LocalModelStore, demo: MakeRef, tmp_path: Path) -> None:
    """The learned vectors of an embedding act as tokens: those of a word give that word's encoding."""
    path = tmp_path / "mine.safetensors"
    with demo_store.lease(demo("clip")) as clip:
        tower: Any = clip.module.get_submodule("l.text")
        table: Tensor = tower.embeddings.token_embedding.weight
        save_file({"emb_params": table[tokenize("red circle")].clone()}, path)
        found = states("a embedding:mine, blue", clip, find_embedding={"mine": path}.get)
        assert torch.equal(found, states("a red circle, blue", clip))


@pytest.mark.parametrize("key", ["emb_params", "clip_l", "<my-token>"])
def test_embedding_files_of_several_trainers(
    demo_store: LocalModelStore, demo: MakeRef, tmp_path: Path, key: str
) -> None:
    """The vectors are found under each trainer's key, beside those for other text encoders."""
    path = tmp_path / "mine.safetensors"
    save_file({key: torch.ones(2, 64, dtype=torch.float16), "clip_g": torch.zeros(2, 1280)}, path)
    with demo_store.lease(demo("clip")) as clip:
        given = states("embedding:mine", clip, find_embedding=lambda name: path)
        assert not torch.equal(given, states("", clip))


def test_embeddings_bundled_in_loras(demo_store: LocalModelStore, demo: MakeRef, tmp_path: Path) -> None:
    """One that a LoRA of the text encoder holds is known by its own name, and goes before a file; all of a LoRA in the folder of
    embeddings by the file's."""
    with demo_store.lease(demo("clip")) as clip:
        tower: Any = clip.module.get_submodule("l.text")
        table: Tensor = tower.embeddings.token_embedding.weight
        words = {word: table[tokenize(word)].clone() for word in ("red", "circle", "square")}
        save_file(
            {"bundle_emb.shape.of.mine.string_to_param.*": words["circle"], "bundle_emb.hue.emb_params": words["red"],
             "bundle_emb.hue.clip_g": torch.zeros(1, 1280), "lora_unet_x.lora_up.weight": torch.zeros(64, 64)},
            tmp_path / "lora.safetensors",
        )  # fmt: skip
        save_file({"emb_params": words["square"]}, tmp_path / "hue.safetensors")
        patch = Patch("lora", Digest("lora"), 1.0, str(tmp_path / "lora.safetensors"))
        with_lora = replace(clip, ref=clip.ref.with_patches(patch))
        files = {"hue": tmp_path / "hue.safetensors", "lora": tmp_path / "lora.safetensors"}
        text = "a embedding:hue embedding:shape.of.mine, blue"
        assert torch.equal(states(text, with_lora, find_embedding=files.get), states("a red circle, blue", clip))
        assert torch.equal(states("a embedding:hue", clip, find_embedding=files.get), states("a square", clip))
        assert torch.equal(states("a embedding:lora", clip, find_embedding=files.get), states("a red circle", clip))


def test_missing_and_unfit_embeddings_are_left_out_with_a_warning(
    demo_store: LocalModelStore, demo: MakeRef, tmp_path: Path
) -> None:
    """An embedding that is not there, or of another width, changes nothing and is said."""
    path = tmp_path / "wide.safetensors"
    save_file({"emb_params": torch.ones(2, 768)}, path)
    said: list[str] = []
    with demo_store.lease(demo("clip")) as clip:
        found = states(
            "embedding:none, red embedding:wide circle", clip, find_embedding={"wide": path}.get, warn=said.append
        )
        assert torch.equal(found, states(", red circle", clip))
    assert ["none" in said[0], "width 768" in said[1], len(said)] == [True, True, 2]


def test_a_network_in_the_place_of_an_embedding_is_refused(
    demo_store: LocalModelStore, demo: MakeRef, tmp_path: Path
) -> None:
    """Though its first tensor may be as wide as the text."""
    path = tmp_path / "lora.safetensors"
    save_file(
        {"lora_unet_x.lora_down.weight": torch.ones(4, 64), "lora_unet_x.lora_up.weight": torch.ones(64, 4)}, path
    )
    words = r"expected a textual inversion embedding in lora\.safetensors, found a LoRA"
    with demo_store.lease(demo("clip")) as clip, pytest.raises(ModelFileError, match=words):
        encode("embedding:lora", clip, find_embedding=lambda name: path)


def test_pickled_embedding_is_refused(demo_store: LocalModelStore, demo: MakeRef, tmp_path: Path) -> None:
    """An embedding in a pickle is an error that says how to convert it."""
    torch.save({"string_to_param": {"*": torch.ones(1, 64)}}, tmp_path / "old.pt")
    with demo_store.lease(demo("clip")) as clip, pytest.raises(ModelFileError, match="models convert"):
        encode("embedding:old", clip, find_embedding=lambda name: tmp_path / "old.pt")


def test_lease_is_clean_after_embeddings(demo: MakeRef, demo_store: LocalModelStore, tmp_path: Path) -> None:
    """Putting vectors in the place of tokens leaves nothing behind in the text tower."""
    save_file({"emb_params": torch.ones(1, 64)}, tmp_path / "mine.safetensors")
    reads = demo_store.counters.reads
    for _ in range(2):
        with demo_store.lease(demo("clip")) as clip:
            encode("embedding:mine", clip, find_embedding=lambda name: tmp_path / "mine.safetensors")
    with demo_store.lease(demo("clip")):
        assert demo_store.counters.reads <= reads + 1


def test_tokens_are_framed_and_padded() -> None:
    """A chunk is start, text, end, and end tokens again up to 77, framing always of weight 1."""
    chunk = tokens_of("(a cat:0.5)", lambda name: ([], ""))[0]  # type: ignore[arg-type]
    assert len(chunk) == 77
    assert [token.item for token in chunk[:4]] == [START_TOKEN, *tokenize("a cat"), END_TOKEN]
    assert {token.item for token in chunk[3:]} == {END_TOKEN}
    assert [token.weight for token in chunk[:4]] == [1.0, 0.5, 0.5, 1.0]


def test_weighing_is_exact_where_it_must_be() -> None:
    """Weight 1 gives the state bit for bit, weight 2 doubles the difference, -1 mirrors it."""
    z, empty = torch.tensor([[[0.1], [3.0], [3.0]]]), torch.tensor([[7.0], [1.0], [1.0]])
    assert weigh(z, empty, torch.tensor([[1.0, 2.0, -1.0]])).flatten().tolist() == [z[0, 0, 0].item(), 5.0, -1.0]
