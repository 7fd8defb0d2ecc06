"""Networks that restore faces: GFPGAN's at a small size, CodeFormer's by its file, and what is said of each."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.errors import InputError
from engine.graph.graph import Call
from engine.models import Digest, ModelRef
from nodes.diffusion import upscale, upscalers
from nodes.diffusion.configs import UpscalerConfig
from nodes.diffusion.faces import restoring
from nodes.diffusion.faces.aligning import SIDE
from nodes.diffusion.inspection import inspect_model
from nodes.diffusion.store import LoadedModel
from nodes.diffusion.upscalers import Upscaler
from tests.nodes.studio import Studio
from tests.nodes.upscalers import nearest

SMALL = 32


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


@pytest.fixture(scope="module")
def gfpgan() -> nn.Module:
    """GFPGAN for faces of 32 pixels, with random weights, noise of its own among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from spandrel.architectures.GFPGAN import GFPGAN

        torch.manual_seed(0)
        network: nn.Module = GFPGAN(
            out_size=SMALL, num_style_feat=16, channel_multiplier=1, decoder_load_path=None, fix_decoder=False, num_mlp=2,
            input_is_latent=True, different_w=True, narrow=0.0625, sft_half=True,
        )  # fmt: skip
    for parameter in network.parameters():
        if parameter.shape == (1,):  # how much of the noise a layer takes
            nn.init.constant_(parameter, 0.5)
    return network.requires_grad_(False).eval()


def described(network: nn.Module, kind: str = "GFPGAN") -> Any:
    """As spandrel describes a restorer, but for pictures as small as these."""
    from spandrel import ImageModelDescriptor, SizeRequirements

    architecture: Any = SimpleNamespace(id=kind, name=kind)
    given: Any = {"purpose": "FaceSR", "tags": [], "supports_half": False, "supports_bfloat16": True}
    return ImageModelDescriptor(
        network, network.state_dict(), architecture=architecture, scale=1, input_channels=3, output_channels=3,
        size_requirements=SizeRequirements(minimum=SMALL), call_fn=lambda model, image: model(image)[0], **given,
    )  # fmt: skip


def leased(module: nn.Module, architecture: str = "GFPGAN", channels: int = 3) -> LoadedModel:
    config = UpscalerConfig(
        architecture=architecture, purpose="FaceSR", scale=1, in_channels=channels, out_channels=channels
    )
    given: Any = {"ref": ModelRef(Digest("x"), "upscaler", ""), "facts": None, "derived": {}, "exchanged": None,
                  "streamed": False, "spare": 0}  # fmt: skip
    return LoadedModel(module=module, config=config, device=torch.device("cpu"), dtype=torch.float32, **given)


def shapes(build: Any) -> dict[str, Any]:
    """Names and shapes of a network's tensors, as a file's header has them."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        state = build().state_dict()
    return {name: SimpleNamespace(shape=tuple(tensor.shape)) for name, tensor in state.items()}


def face(side: int = SMALL) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def original(network: Any, pictures: Tensor, **told: Any) -> Tensor:
    result: Tensor = type(network).forward(network, pictures, **told)[0]
    return result


def test_gfpgan_sees_the_colours_it_was_trained_on_and_answers_the_same_twice(gfpgan: nn.Module) -> None:
    """-1..1, with the noise of its file; it would draw other noise each time, and the noise does tell."""
    restorer = Upscaler(described(gfpgan))
    expected = original(gfpgan, face() * 2 - 1, randomize_noise=False) / 2 + 0.5
    first, second = restorer.restored(face(), 0.5), restorer.restored(face(), 0.9)
    assert torch.equal(first, second)
    assert torch.allclose(first, expected)
    assert float((original(gfpgan, face() * 2 - 1) / 2 + 0.5 - expected).abs().max()) > 1e-3


def test_a_restorer_as_an_upscaler_is_what_its_library_calls(gfpgan: nn.Module) -> None:
    """Colours as they are, 0..1; whoever shows it anything but a face of 512 pixels is told what finds faces."""
    warned: list[str] = []
    pictures = face().movedim(1, -1)
    made = upscale.upscaled(pictures, leased(Upscaler(described(gfpgan))), lambda done, total: None, warned.append)
    expected = original(gfpgan, face(), randomize_noise=False).clamp(0, 1)
    assert torch.allclose(made, expected.movedim(1, -1), atol=1e-6)
    (warning,) = warned
    found, _, advice = warning.partition("; ")
    assert found == "GFPGAN restores a face that fills a picture of 512 x 512 pixels, and was shown one of 32 x 32"
    assert advice.startswith("FaceRestoreCFWithModel")


class _Faithful(nn.Module):
    """A stand-in for CodeFormer's call: what it sees, times the fidelity, and something beside it."""

    def forward(self, pictures: Tensor, weight: float = 0.5) -> tuple[Tensor, Tensor]:
        return pictures * weight, pictures


def test_codeformer_s_fidelity_reaches_it() -> None:
    """At 1 all that was shown, at 0 the middle of -1..1."""
    model = leased(Upscaler(described(_Faithful(), "CodeFormer")), "CodeFormer")
    restore = {fidelity: restoring.by(model, fidelity) for fidelity in (1.0, 0.0, 0.25)}
    shown = face(SIDE)[0].movedim(0, -1).numpy()
    assert abs(restore[1.0](shown) - shown).max() < 1e-6
    assert abs(restore[0.0](shown) - 0.5).max() < 1e-6
    assert abs(restore[0.25](shown) - (0.5 + 0.25 * (shown - 0.5))).max() < 1e-6


def test_a_restorer_that_makes_a_face_larger_is_brought_back() -> None:
    """An upscaler by 2 that repeats pixels leaves a face as it was; one of other channels, and numbers that are none, are refused."""
    from spandrel import ModelLoader

    double = Upscaler(ModelLoader().load_from_state_dict(nearest(2)))
    shown = face(SIDE)[0].movedim(0, -1).numpy()
    assert abs(restoring.by(leased(double, "Compact"), 0.5)(shown) - shown).max() < 1e-6
    with pytest.raises(InputError, match="found Compact of 1 channels in and 1 out; choose GFPGAN"):
        restoring.by(leased(double, "Compact", channels=1), 0.5)
    shown[0, 0] = float("nan")
    with pytest.raises(InputError, match="numbers that are none"):
        restoring.by(leased(double, "Compact"), 0.5)(shown)


def test_restorers_are_recognised_by_their_files(tmp_path: Path) -> None:
    """GFPGAN by the names and shapes of its layout; its file is said to belong with the restorers."""
    from spandrel.architectures.GFPGAN import GFPGAN

    build = partial(
        GFPGAN, out_size=512, num_style_feat=512, channel_multiplier=2, decoder_load_path=None, fix_decoder=False, num_mlp=8,
        input_is_latent=True, different_w=True, narrow=1, sft_half=True,
    )  # fmt: skip
    tensors, marks = shapes(build), ("toRGB.0.weight", "stylegan_decoder.style_mlp.1.weight")
    assert upscalers.recognised(tensors) == "GFPGAN"
    assert tensors.keys() >= set(marks)
    save_file({mark: torch.zeros(2) for mark in marks}, tmp_path / "restorer.safetensors")
    found = inspect_model(tmp_path / "restorer.safetensors")
    assert (found.what, found.folder) == ("a restorer of faces (GFPGAN)", "facerestore_models")


def test_codeformer_is_recognised_with_its_extra() -> None:
    pytest.importorskip("spandrel_extra_arches", reason="the extra faces is not installed")
    from spandrel_extra_arches.architectures.CodeFormer import CodeFormer

    assert upscalers.recognised(shapes(CodeFormer)) == "CodeFormer"


def test_without_its_extra_codeformer_is_said_to_need_it(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file with the names of CodeFormer's tensors, at the node that loads faces' models and at the other."""
    from spandrel import MAIN_REGISTRY

    monkeypatch.setattr(upscalers, "_registry", lambda: (MAIN_REGISTRY, False))
    names = ("position_emb", "idx_pred_layer.1.weight", "quantize.embedding.weight", "encoder.blocks.0.weight")
    for folder, node in (("facerestore_models", "FaceRestoreModelLoader"), ("upscale_models", "UpscaleModelLoader")):
        name = studio.write(f"{folder}/codeformer.safetensors", {name: torch.zeros(2, 2) for name in names})
        problem = studio.failure({"model": Call(node, {"model_name": name})}, "model")
        assert "found CodeFormer, which the extra faces is needed for: pip install 'mezzotint[faces]'" in problem
