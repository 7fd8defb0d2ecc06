"""Preprocessors with networks: random weights in the layouts they were released in, through files, store and detector.

The networks are at their true sizes where these are small; those of transformers are built tiny. One store serves all tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SwinConfig,
)

from engine.errors import ModelFileError
from engine.graph.graph import Call
from engine.models import Digest, ModelRef
from nodes.diffusion.annotators import depth, dwpose, edges, files, networks, palettes, segments
from nodes.diffusion.annotators.packaged import package, quiet
from nodes.diffusion.annotators.poses import Networks, openpose
from nodes.diffusion.store import LocalModelStore
from tests.nodes.studio import Studio, link

SIDE = 64


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """One process' import of controlnet_aux, one store, one folder of models."""
    studio = Studio(tmp_path_factory.mktemp("annotators"))
    torch.manual_seed(0)
    return studio


def built(network: str, **more: Any) -> nn.Module:
    """The network with random weights, as its own code draws them."""
    build: dict[str, Callable[[], nn.Module]] = {
        "hed": lambda: package("hed").ControlNetHED_Apache2(),
        "pidinet": lambda: package("pidi.model").pidinet(),
        "lineart": lambda: package("lineart").Generator(3, 1, 3),
        "mlsd": lambda: package("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large(),
        "teed": lambda: package("teed.ted").TED(),
    }
    with quiet():
        module = build[network]()
    return module.eval()


def place(studio: Studio, network: str, content: Any) -> Path:
    """A pickle of ``content`` where the weights of ``network`` are looked for."""
    path = studio.folder / "models" / files.FOLDER / files.NETWORKS[network].places[-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def folder_of(studio: Studio, network: str) -> Path:
    return studio.folder / "models" / files.FOLDER / files.NETWORKS[network].places[0]


def annotate(studio: Studio, name: str, **inputs: Any) -> Tensor:
    """What a preprocessor makes of a picture 96 x 64 that is the same in all tests."""
    path = studio.folder / "input" / "seen.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), seen(64, 96)[..., ::-1])
    calls = {
        "image": Call("LoadImage", {"image": "seen.png"}),
        "map": Call(name, {"image": link("image"), "resolution": SIDE, **inputs}),
    }
    found: Tensor = studio.values(calls, "map")[0]
    return found


def seen(height: int, width: int) -> np.ndarray[Any, Any]:
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [(np.sin(x / 5) + 1) * 127, (3 * x) % 256, (((x - 40) ** 2 + (y - 30) ** 2) < 300) * 255], -1
    ).astype(np.uint8)


def expected_of(network: nn.Module, detect: Callable[..., Any], **options: Any) -> np.ndarray[Any, Any]:
    """What the detector makes of the network itself, of the picture with its sides at multiples of 64."""
    padded = np.pad(seen(64, 96), [(0, 0), (0, 32), (0, 0)], mode="edge")
    found = detect(network, padded, **options)
    return np.broadcast_to(found if found.ndim == 3 else found[..., None], (*padded.shape[:2], 3))[:, :96]


CASES: Mapping[str, tuple[str, dict[str, Any], Callable[..., Any], dict[str, Any], Callable[[Any], Any]]] = {
    "HEDPreprocessor": ("hed", {"safe": "disable"}, edges.hed, {"style": "soft"}, lambda state: state),
    "PiDiNetPreprocessor": (
        "pidinet", {"safe": "disable"}, edges.pidinet, {"style": "soft"},
        lambda state: {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    ),
    "LineArtPreprocessor": ("lineart", {}, edges.lineart, {}, lambda state: state),
    "M-LSDPreprocessor": (
        "mlsd", {}, edges.mlsd, {"score": 0.1, "distance": 0.1},
        lambda state: {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")},
    ),
    "TEEDPreprocessor": ("teed", {"safe_steps": 0}, edges.teed, {"steps": 0}, lambda state: state),
}  # fmt: skip
"""Node -> its network, inputs, detector, the detector's options, and how the weights were released."""


@pytest.mark.parametrize("name", CASES)
def test_a_network_is_read_from_its_pickle(studio: Studio, name: str) -> None:
    """What comes out of the node is what the network itself says, to the level, and not of one colour."""
    network, inputs, detect, options, released = CASES[name]
    module = built(network)
    place(studio, network, released(module.state_dict()))
    found = (annotate(studio, name, **inputs)[0] * 255).round().to(torch.uint8).numpy()
    expected = expected_of(module, detect, **options)
    assert found.shape == (64, 96, 3)
    assert (found == expected).all()
    assert np.ptp(found) > 0


def test_scribbles_have_two_levels(studio: Studio) -> None:
    for name in ("FakeScribblePreprocessor", "Scribble_PiDiNet_Preprocessor"):
        assert set(annotate(studio, name).unique().tolist()) <= {0.0, 1.0}


def test_soft_edges_are_the_package_s_own(studio: Studio) -> None:
    """Before they are thinned: the detector of controlnet_aux, called as it documents, on a picture that it does not resize."""
    module, pixels = built("hed"), seen(64, 128)
    with quiet():
        expected = package("hed").HEDdetector(module)(
            pixels, detect_resolution=64, image_resolution=64, safe=True, output_type="np"
        )
    assert (edges.hed(module, pixels, "safe") == expected).all()


def test_a_converted_file_counts_before_the_pickle(studio: Studio) -> None:
    """Its weights are used, and a network of other weights is another result."""
    before = annotate(studio, "TEEDPreprocessor", safe_steps=1)
    place_of_pickle = studio.folder / "models" / files.FOLDER / files.NETWORKS["teed"].places[0]
    torch.manual_seed(7)
    save_file(built("teed").state_dict(), place_of_pickle.with_suffix(".safetensors"))
    assert not torch.equal(annotate(studio, "TEEDPreprocessor", safe_steps=1), before)


def test_another_network_s_file_is_refused(studio: Studio, tmp_path: Path) -> None:
    """So is one of other shapes, and a pickle that holds more than tensors is not read at all."""
    path = tmp_path / "netG.pth"
    torch.save(built("teed").state_dict(), path)
    with pytest.raises(ModelFileError, match=r"expected the weights of HED in netG.pth, found block_1\.conv1\.bias"):
        networks.load("hed", path)
    state = built("teed").state_dict()
    state["block_1.conv1.weight"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(ModelFileError, match=r"for block_1\.conv1\.weight, found \[1\]"):
        networks.load("teed", path)
    torch.save({"model": Danger()}, path)
    with pytest.raises(ModelFileError, match="holds more than tensors"):
        networks.load("teed", path)
    assert not Danger.done
    with pytest.raises(ModelFileError, match=r"expected model\.safetensors"):
        networks.load("zoe", tmp_path)


class Danger:
    """What a pickle would do if it were believed."""

    done = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Danger, "done", True))


def test_the_store_holds_networks_and_lets_them_go(studio: Studio) -> None:
    """They count in bytes, come back after they had to go, and a second lease loads nothing."""
    path = place(studio, "pidinet", {"state_dict": built("pidinet").state_dict()})
    ref = ModelRef(Digest("pidinet:1"), "annotator", str(path)).with_settings(network="pidinet")
    store: LocalModelStore = studio.store
    with store.lease(ref) as loaded:
        before = {name: tensor.clone() for name, tensor in loaded.module.state_dict().items()}
        assert loaded.dtype == torch.float32
    loads = store.counters.loads
    with store.lease(ref):
        assert store.counters.loads == loads
    size = sum(tensor.nbytes for tensor in before.values())
    assert size in [resident.nbytes for resident in store.resident()]
    store.evict_all()
    with store.lease(ref) as loaded:
        assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.module.state_dict().items())


def test_no_straight_line_is_a_black_map() -> None:
    """No line is sure enough, which the package says by an error."""
    assert edges.mlsd(built("mlsd"), seen(64, 64), 2.0, 20.0).max() == 0


class Still(nn.Module):
    """Says the same, whatever it sees."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.shapes = shapes

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        height, width = x.shape[-2] // 8, x.shape[-1] // 8
        return tuple(torch.zeros(1, *shape, height, width) for shape in self.shapes)


def test_nobody_is_a_black_map() -> None:
    """OpenPose finds no part of a body: no people, and no error."""
    found = openpose(Networks(Still((38,), (19,))), seen(64, 128), 64, 100)
    assert found == {"people": [], "canvas_height": 64, "canvas_width": 100}


def test_openpose_files_name_layers_without_stages() -> None:
    """Layers get the names of the stages that they are in."""
    with torch.device("meta"):
        names = list(package("open_pose.model").bodypose_model().state_dict())
    stored = {name.partition(".")[2]: torch.zeros(1) for name in names}
    renamed = networks._openpose(networks._BODY)(stored)
    assert set(renamed) == set(names)


def test_midas_of_transformers(studio: Studio) -> None:
    """Depth is what transformers' own model and processor say; normals of a flat picture face the viewer."""
    config = DPTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=64, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=16,
    )  # fmt: skip
    torch.manual_seed(3)
    model = DPTForDepthEstimation(config).eval()
    for parameter in (*model.neck.parameters(), *model.head.parameters()):
        nn.init.normal_(parameter, std=0.3)
    nn.init.constant_(model.head.head[4].bias, 100.0)
    folder = folder_of(studio, "midas")
    model.save_pretrained(folder)
    processor = DPTImageProcessor(size={"height": 64, "width": 64})
    processor.save_pretrained(folder)
    padded = np.pad(seen(64, 96), [(0, 0), (0, 32), (0, 0)], mode="edge")
    with torch.no_grad():
        whole = model(**processor(images=padded, return_tensors="pt")).predicted_depth
    resized = torch.nn.functional.interpolate(whole[None], size=padded.shape[:2], mode="bicubic")[0, 0].numpy()
    expected = depth.relief(resized)[:, :96]
    found = (annotate(studio, "MiDaS-DepthMapPreprocessor")[0, ..., 0] * 255).round().to(torch.uint8).numpy()
    assert np.ptp(found) > 200
    assert abs(found.astype(int) - expected).max() <= 1
    assert annotate(studio, "MiDaS-NormalMapPreprocessor").shape == (1, 64, 96, 3)
    assert (depth.normals(np.ones((8, 8)), 1.0, 0.1) == (255, 127, 127)).all()


def test_normals_follow_the_slope() -> None:
    """Depth that rises to the right turns them one way, downwards the other; what is far is flat."""
    y, x = np.mgrid[:16, :16].astype(np.float32)
    right, down = depth.normals(x, 6.28, 0.0)[8, 8], depth.normals(y, 6.28, 0.0)[8, 8]
    assert right[2] > 127
    assert right[1] == 127
    assert down[1] > 127
    assert down[2] == 127
    assert (depth.normals(x, 6.28, 0.5)[8, 2] == (255, 127, 127)).all()


def test_relief_is_from_the_farthest_to_the_nearest() -> None:
    assert depth.relief(np.array([[1.0, 2.0, 3.0]])).tolist() == [[0, 127, 255]]
    assert depth.relief(np.full((2, 2), 7.0)).max() == 0


def test_depth_anything_in_its_first_layout(tmp_path: Path) -> None:
    """Names and pieces: every tensor of the network finds its own, query, key and value from one matrix."""
    from nodes.diffusion.annotators.depth_anything import renamed

    backbone = Dinov2Config(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14,
                            out_indices=[1, 2, 3, 4], reshape_hidden_states=False)  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=24,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    first = {
        "pretrained.cls_token": (1, 1, 24), "pretrained.pos_embed": (1, 5, 24), "pretrained.mask_token": (1, 24),
        "pretrained.patch_embed.proj.weight": (24, 3, 14, 14), "pretrained.patch_embed.proj.bias": (24,),
        "pretrained.norm.weight": (24,), "pretrained.norm.bias": (24,),
    }  # fmt: skip
    for block in range(4):
        at = f"pretrained.blocks.{block}"
        first |= {f"{at}.norm{i}.{leaf}": (24,) for i in (1, 2) for leaf in ("weight", "bias")}
        first |= {f"{at}.ls{i}.gamma": (24,) for i in (1, 2)}
        first |= {f"{at}.attn.qkv.weight": (72, 24), f"{at}.attn.qkv.bias": (72,), f"{at}.attn.proj.weight": (24, 24)}
        first |= {f"{at}.attn.proj.bias": (24,), f"{at}.mlp.fc1.weight": (96, 24), f"{at}.mlp.fc1.bias": (96,)}
        first |= {f"{at}.mlp.fc2.weight": (24, 96), f"{at}.mlp.fc2.bias": (24,)}
    for level in range(4):
        side = {0: 4, 1: 2, 3: 3}
        first |= {f"depth_head.projects.{level}.weight": (8, 24, 1, 1), f"depth_head.projects.{level}.bias": (8,)}
        if level in side:
            first |= {f"depth_head.resize_layers.{level}.weight": (8, 8, side[level], side[level])}
            first |= {f"depth_head.resize_layers.{level}.bias": (8,)}
        first |= {f"depth_head.scratch.layer{level + 1}_rn.weight": (8, 8, 3, 3)}
        at = f"depth_head.scratch.refinenet{level + 1}"
        first |= {f"{at}.out_conv.weight": (8, 8, 1, 1), f"{at}.out_conv.bias": (8,)}
        for unit in (1, 2):
            for conv in (1, 2):
                first |= {
                    f"{at}.resConfUnit{unit}.conv{conv}.weight": (8, 8, 3, 3),
                    f"{at}.resConfUnit{unit}.conv{conv}.bias": (8,),
                }
    first |= {"depth_head.scratch.output_conv1.weight": (4, 8, 3, 3), "depth_head.scratch.output_conv1.bias": (4,)}
    first |= {"depth_head.scratch.output_conv2.0.weight": (8, 4, 3, 3), "depth_head.scratch.output_conv2.0.bias": (8,)}
    first |= {"depth_head.scratch.output_conv2.2.weight": (1, 8, 1, 1), "depth_head.scratch.output_conv2.2.bias": (1,)}
    tensors = {name: torch.randn(shape) for name, shape in first.items()}
    made = networks.from_tensors(DepthAnythingForDepthEstimation, config, dict(renamed(tensors)), tmp_path, "it")
    state = made.state_dict()
    assert len(state) == len(first) + 4 * 2 * 2
    assert any(torch.equal(tensor, tensors["pretrained.blocks.1.attn.qkv.weight"][24:48]) for tensor in state.values())
    assert torch.equal(
        state["neck.fusion_stage.layers.3.projection.weight"], tensors["depth_head.scratch.refinenet1.out_conv.weight"]
    )


def test_segments_have_ade20k_s_colours(studio: Studio) -> None:
    """Each place the colour of the class that is scored highest there, by transformers' own model."""
    config = SegformerConfig(
        num_labels=150,
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
    )
    torch.manual_seed(2)
    model = SegformerForSemanticSegmentation(config).eval()
    folder = folder_of(studio, "ade20k")
    model.save_pretrained(folder)
    found = (annotate(studio, "SemSegPreprocessor")[0] * 255).round().to(torch.uint8).numpy()
    padded = np.pad(seen(64, 96), [(0, 0), (0, 32), (0, 0)], mode="edge")
    with torch.no_grad():
        scores = model(segments.prepared(padded, folder, {"height": 512, "width": 512})).logits
    labels = torch.nn.functional.interpolate(scores, size=padded.shape[:2], mode="bilinear")[0].argmax(0)
    assert (found == palettes.ade20k()[labels.numpy()][:, :96]).all()
    assert len(np.unique(found.reshape(-1, 3), axis=0)) > 1


def test_oneformer_is_asked_for_kinds_of_things(studio: Studio) -> None:
    """By the words of its task as CLIP's tokens; every colour is one of COCO's."""
    swin = SwinConfig(image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
                      out_features=["stage1", "stage2", "stage3", "stage4"])  # fmt: skip
    config = OneFormerConfig(
        backbone_config=swin, hidden_dim=32, mask_dim=32, conv_dim=32, num_attention_heads=2, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_queries=5, text_encoder_width=16, text_encoder_num_layers=1,
        num_labels=133, is_training=False, task_seq_len=77, use_auxiliary_loss=False,
    )  # fmt: skip
    torch.manual_seed(1)
    model = OneFormerForUniversalSegmentation(config)
    folder = folder_of(studio, "oneformer_coco")
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 64, "longest_edge": 128}}')
    found = (annotate(studio, "OneFormer-COCO-SemSegPreprocessor")[0] * 255).round().to(torch.uint8).numpy()
    colours = {tuple(colour) for colour in palettes.coco()}
    assert len(palettes.coco()) == 133
    assert {tuple(colour) for colour in found.reshape(-1, 3)} <= colours
    with pytest.raises(ModelFileError, match="expected a network for 150 kinds of things"):
        segments.oneformer(model.eval(), seen(64, 64), folder, "ade20k")


class Session:
    """Stands for an ONNX network that says the same of everything."""

    def __init__(self, shape: list[Any], *outputs: np.ndarray[Any, Any]) -> None:
        self.shape, self.outputs = shape, list(outputs)
        self.given: list[np.ndarray[Any, Any]] = []

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"name": "x", "shape": self.shape, "type": "tensor(float)"})]

    def run(self, names: None, given: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
        self.given += given.values()
        return self.outputs


def yolox(cells: Mapping[tuple[int, int], float]) -> Session:
    """Finds a person 80 pixels wide and 160 high around each cell of the coarsest grid, as sure as is said."""
    output = np.zeros((1, 8400, 85), np.float32)
    for (column, row), sure in cells.items():
        index = 8000 + 20 * row + column
        output[0, index, :4] = (0.5, 0.5, np.log(80 / 32), np.log(160 / 32))
        output[0, index, 4:6] = (1.0, sure)
    return Session([1, 3, 640, 640], output)


def test_people_are_found_once_each() -> None:
    """Boxes are in the picture's pixels; one that overlaps a likelier one goes, and so do unlikely ones."""
    boxes = dwpose.people(
        yolox({(4, 9): 0.9, (4, 10): 0.6, (14, 9): 0.8, (9, 2): 0.2}), np.zeros((320, 320, 3), np.uint8)
    )
    assert boxes.round().tolist() == [[52, 112, 92, 192], [212, 112, 252, 192]]
    assert len(dwpose.people(yolox({}), np.zeros((100, 50, 3), np.uint8))) == 0


def pose_of(places: Mapping[int, tuple[int, int]]) -> Session:
    """Finds points at places of what it sees, 288 x 384."""
    x, y = np.zeros((1, 133, 576), np.float32), np.zeros((1, 133, 768), np.float32)
    for point, (column, row) in places.items():
        x[0, point, 2 * column] = y[0, point, 2 * row] = 0.9
    return Session([1, 3, 384, 288], x, y)


def test_dwpose_points_are_where_they_were_seen() -> None:
    """What is in the middle of a box is in the middle of it, the neck is between the shoulders, and who is not seen is not there."""
    session = pose_of({0: (144, 192), 5: (164, 232), 6: (124, 232)})
    found = dwpose.dwpose(dwpose.Sessions(session, yolox({(4, 9): 0.9})), np.zeros((640, 640, 3), np.uint8))
    (someone,) = found["people"]
    body = np.array(someone["pose_keypoints_2d"]).reshape(-1, 3)
    middle = (4 + 0.5) * 32, (9 + 0.5) * 32
    scale = 1.25 * 160 / 384
    assert body[0].tolist() == pytest.approx([*middle, 1], abs=0.01)
    assert body[1].tolist() == pytest.approx([middle[0], middle[1] + 40 * scale, 1], abs=0.01)
    assert body[2].tolist() == pytest.approx([middle[0] - 20 * scale, middle[1] + 40 * scale, 1], abs=0.01)
    assert body[5].tolist() == pytest.approx([middle[0] + 20 * scale, middle[1] + 40 * scale, 1], abs=0.01)
    assert body[[3, 4, *range(6, 18)]].max() == 0
    assert someone["hand_left_keypoints_2d"] is None
    nobody = dwpose.dwpose(dwpose.Sessions(session, yolox({})), np.zeros((64, 64, 3), np.uint8))
    assert nobody["people"] == []
    assert len(dwpose.dwpose(dwpose.Sessions(session), np.zeros((64, 64, 3), np.uint8))["people"]) == 1


def test_dwpose_reads_onnx_files(studio: Studio) -> None:
    """Through the node, with a file that onnxruntime runs: a picture taken for one person, at the resolution asked for."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, proto = onnx.helper, onnx.TensorProto
    tables = {}
    for name, width, at in (("simcc_x", 576, 288), ("simcc_y", 768, 384)):
        table = np.zeros((1, 133, width), np.float32)
        table[0, :, at] = 0.9
        tables[name] = onnx.numpy_helper.from_array(table, name)
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in tables],
        "pose",
        [helper.make_tensor_value_info("input", proto.FLOAT, [1, 3, 384, 288])],
        [helper.make_tensor_value_info(f"{name}_out", proto.FLOAT, list(tables[name].dims)) for name in tables],
        list(tables.values()),
    )
    path = studio.folder / "models" / files.FOLDER / files.NETWORKS["dw-ll_ucoco_384.onnx"].places[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    found = annotate(studio, "DWPreprocessor", bbox_detector="None")
    assert found.shape == (1, 64, 96, 3)
    assert found[0, 32, 48].max() > 0.5
    assert found[0, :8].max() == 0
    path.write_bytes(b"no network")
    with pytest.raises(AssertionError, match=r"expected an ONNX network in dw-ll_ucoco_384\.onnx"):
        annotate(studio, "DWPreprocessor", bbox_detector="None")
