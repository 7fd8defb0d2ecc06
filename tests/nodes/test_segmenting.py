"""Segment Anything: tiny random networks, held against transformers' own models and processors and the package's original."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2VisionConfig,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamVisionConfig,
)

from engine.errors import InputError, ModelFileError
from engine.graph.graph import Call
from nodes.diffusion.annotators import sam, sam_files
from nodes.diffusion.annotators.networks import load
from nodes.diffusion.annotators.packaged import package
from nodes.diffusion.annotators.sam import Prompt
from tests.nodes.studio import Studio, link

SIDE = 64


def first() -> SamModel:
    vision = SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8, mlp_dim=16,
        window_size=4, global_attn_indexes=[1], num_pos_feats=8,
    )  # fmt: skip
    prompt = {"hidden_size": 16, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "mlp_dim": 16,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    }
    torch.manual_seed(0)
    return SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)).eval()


def second() -> Sam2Model:
    hiera = Sam2HieraDetConfig(
        hidden_size=16, num_attention_heads=1, image_size=[SIDE, SIDE], blocks_per_stage=[1, 1, 2, 1], mlp_ratio=2.0,
        embed_dim_per_stage=[16, 32, 64, 128], num_attention_heads_per_stage=[1, 2, 4, 8], window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[3], window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=[128, 64, 32, 16], fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    prompt = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "mlp_dim": 16,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    }
    torch.manual_seed(0)
    return Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)).eval()


def pixels(height: int = 40, width: int = 90) -> np.ndarray[Any, Any]:
    y, x = np.mgrid[:height, :width]
    return np.stack([2 * x, 5 * y, ((x - 40) ** 2 + (y - 20) ** 2 < 150) * 255], -1).clip(0, 255).astype(np.uint8)


def test_the_first_version_sees_and_says_what_transformers_does() -> None:
    """A picture of any shape, a point on the object, one beside it and a box: logits at the picture's size, and their ratings."""
    model, picture = first(), pixels()
    sizes = {"longest_edge": SIDE}, {"height": SIDE, "width": SIDE}
    processor = SamImageProcessor(size=sizes[0], pad_size=sizes[1])
    given = processor(picture, return_tensors="pt")
    scale = torch.tensor([SIDE / 90, given["reshaped_input_sizes"][0, 0] / 40])
    points = torch.tensor([[40.0, 20.0], [5.0, 5.0]])
    box = torch.tensor([20.0, 5.0, 60.0, 35.0])
    with torch.no_grad():
        own = model(
            pixel_values=given["pixel_values"],
            input_points=(points * scale)[None, None],
            input_labels=torch.tensor([[[1, 0]]]),
            input_boxes=(box * scale.repeat(2))[None, None],
        )
    expected = processor.post_process_masks(
        own.pred_masks, given["original_sizes"], given["reshaped_input_sizes"], binarize=False, pad_size=sizes[1]
    )[0][0]
    prompt = Prompt(((40.0, 20.0, 1), (5.0, 5.0, 0)), (20.0, 5.0, 60.0, 35.0))
    found, scores = sam.masks(model, sam.look(model, picture), prompt, several=True)
    assert found.shape == expected.shape == (3, 40, 90)
    assert torch.allclose(found, expected, atol=0.02 * float(expected.std()))
    assert torch.allclose(scores, own.iou_scores[0, 0], atol=1e-3)


def test_the_second_version_too() -> None:
    model, picture = second(), pixels()
    processor = Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})
    given = processor(picture, return_tensors="pt")
    scale = torch.tensor([SIDE / 90, SIDE / 40])
    with torch.no_grad():
        own = model(
            pixel_values=given["pixel_values"],
            input_points=(torch.tensor([[40.0, 20.0]]) * scale)[None, None],
            input_labels=torch.tensor([[[1]]]),
        )
    expected = torch.nn.functional.interpolate(own.pred_masks[0], (40, 90), mode="bilinear")[0]
    found, scores = sam.masks(model, sam.look(model, picture), Prompt(((40.0, 20.0, 1),)), several=True)
    assert torch.allclose(found, expected, atol=0.02 * float(expected.std()))
    assert torch.allclose(scores, own.iou_scores[0, 0], atol=1e-3)


def test_which_mask_is_chosen() -> None:
    """The best rated of three, one by its number, or the one for what is clear."""
    model = first()
    seen, prompt = sam.look(model, pixels()), Prompt(((40.0, 20.0, 1),))
    found, scores = sam.masks(model, seen, prompt, several=True)
    single, _ = sam.masks(model, seen, prompt, several=False)
    wanted = {"best": found[int(scores.argmax())], "1": found[0], "2": found[1], "3": found[2], "single": single[0]}
    for choice, logits in wanted.items():
        assert torch.equal(sam.chosen(model, seen, prompt, choice), (logits > 0).float())  # type: ignore[arg-type]


def test_a_mask_from_before_counts() -> None:
    model = first()
    seen, prompt = sam.look(model, pixels()), Prompt(((40.0, 20.0, 1),))
    without, _ = sam.masks(model, seen, prompt, several=True)
    within, _ = sam.masks(model, seen, prompt, several=True, mask=torch.ones(40, 90))
    assert not torch.equal(without, within)


@pytest.mark.parametrize("make", [first, second])
def test_all_in_a_picture(make: Any) -> None:
    """Every mask that is kept, the largest first; with ratings that none reaches there is none, and the map is black."""
    model, picture = make(), pixels()
    found = sam.everything(model, picture, points_per_side=3, rating=-1e9, stability=-1.0, overlap=0.99)
    sizes = [int(mask.sum()) for mask in found]
    assert sizes
    assert sizes == sorted(sizes, reverse=True)
    assert all(mask.shape == (40, 90) for mask in found)
    assert sam.painted(found, 40, 90)[found[-1]].std(axis=0).max() == 0
    assert sam.everything(model, picture, points_per_side=2, rating=1e9) == []
    assert sam.painted([], 4, 5).shape == (4, 5, 3)


def test_boxes_that_overlap_are_one() -> None:
    """Of two masks in about the same place the better rated stays."""
    masks = torch.zeros(3, 10, 10, dtype=torch.bool)
    masks[0, :5, :5] = masks[1, :5, :5] = masks[2, 6:, 6:] = True
    masks[1, 0, 0] = False
    kept = sam._apart(masks, torch.tensor([0.5, 0.9, 0.7]), 0.7)
    assert [int(mask.sum()) for mask in kept] == [24, 16]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[1, 2], [3, 4, 0]]", [(1, 2, 1), (3, 4, 0)]),
        ("[5, 6]", [(5, 6, 1)]),
        ('[{\'x\': 1, \'y\': 2}, {"x": 3.5, "y": 4, "label": 0}]', [(1, 2, 1), (3.5, 4, 0)]),
        ("", []),
    ],
)
def test_points_are_json(text: str, expected: list[Any]) -> None:
    assert sam.read_points(text, 1, "points") == expected


@pytest.mark.parametrize(
    "text",
    ["[[1]]", "[[1, 2, 3]]", "[[1, 2], 3]", "7", "[[1, 2", '[["a", 2]]', "[[true, 1]]", "[" * 3000, "[[1e99, 1]]"],
)
def test_what_are_no_points_is_said(text: str) -> None:
    with pytest.raises(InputError, match="expected"):
        sam.read_points(text, 1, "points")


def test_boxes_are_json_or_lists() -> None:
    assert sam.read_boxes("[[1, 2, 3, 4], [5, 6, 7, 8]]", "boxes") == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert sam.read_boxes([[[1, 2, 3, 4]]], "bboxes") == [(1, 2, 3, 4)]
    for wrong in ("[[3, 2, 1, 4]]", "[[1, 2, 3]]", "[1, [2]]"):
        with pytest.raises(InputError, match="expected boxes"):
            sam.read_boxes(wrong, "boxes")


def test_what_points_and_boxes_mean() -> None:
    """All points are on one object, in its box; several boxes are several; apart, each point that is on one is one."""
    on, other, beside, box, more = (
        (1.0, 1.0, 1),
        (2.0, 2.0, 1),
        (3.0, 3.0, 0),
        (0.0, 0.0, 4.0, 4.0),
        (5.0, 5.0, 9.0, 9.0),
    )
    assert sam.prompts([on, beside], [box], apart=False) == [Prompt((on, beside), box)]
    assert sam.prompts([on], [box, more], apart=False) == [Prompt((on,)), Prompt((), box), Prompt((), more)]
    assert sam.prompts([on, other, beside], [], apart=True) == [Prompt((on, beside)), Prompt((other, beside))]
    assert sam.prompts([], [], apart=False) == []
    with pytest.raises(InputError, match="which is 3 x 2 pixels"):
        sam.check_inside([Prompt((on, (9.0, 1.0, 1)))], 2, 3)


def original(width: int = 32) -> nn.Module:
    """The first version as it was released, with a small encoder."""
    parts = package("segment_anything.modeling")
    norm = partial(nn.LayerNorm, eps=1e-6)
    encoder = parts.ImageEncoderViT(
        depth=2, embed_dim=width, img_size=256, mlp_ratio=2, norm_layer=norm, num_heads=2, patch_size=16, qkv_bias=True,
        use_rel_pos=True, global_attn_indexes=[1], window_size=7, out_chans=256,
    )  # fmt: skip
    prompt = parts.PromptEncoder(
        embed_dim=256, image_embedding_size=(16, 16), input_image_size=(256, 256), mask_in_chans=16
    )
    transformer = parts.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = parts.MaskDecoder(
        num_multimask_outputs=3, transformer=transformer, transformer_dim=256, iou_head_depth=3, iou_head_hidden_dim=256
    )
    model: nn.Module = parts.Sam(encoder, prompt, decoder).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model


def test_a_file_in_the_first_layout_is_the_same_network(studio: Studio, tmp_path: Path) -> None:
    """Against the code it was released with: the same logits and ratings, its sizes read off its tensors."""
    torch.manual_seed(0)
    released: Any = original()
    torch.save(released.state_dict(), tmp_path / "sam_vit.pth")
    model: Any = load("sam", tmp_path / "sam_vit.pth")
    picture, point = torch.rand(1, 3, 256, 256), torch.tensor([[100.0, 80.0]])
    with torch.no_grad():
        sparse, dense = released.prompt_encoder(points=(point[None], torch.ones(1, 1)), boxes=None, masks=None)
        logits, ratings = released.mask_decoder(
            image_embeddings=released.image_encoder(picture), image_pe=released.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=True,
        )  # fmt: skip
        found = model(
            pixel_values=picture, input_points=point[None, None], input_labels=torch.ones(1, 1, 1, dtype=torch.long)
        )
    assert torch.allclose(found.pred_masks[0], logits, atol=1e-4)
    assert torch.allclose(found.iou_scores[0], ratings, atol=1e-4)


def test_names_of_the_second_layout_are_the_network_s() -> None:
    """A name of each kind of layer, as released, is one that the network has."""
    with torch.device("meta"):
        names = set(Sam2Model(Sam2Config()).state_dict())
    block, decoder = "image_encoder.trunk.blocks.0", "sam_mask_decoder"
    released = [
        "image_encoder.trunk.pos_embed", "image_encoder.trunk.pos_embed_window", "image_encoder.trunk.patch_embed.proj.weight",
        f"{block}.norm1.weight", f"{block}.attn.qkv.weight", f"{block}.attn.proj.bias", f"{block}.mlp.layers.0.weight",
        f"{block}.mlp.layers.1.bias", "image_encoder.trunk.blocks.1.proj.weight", "image_encoder.neck.convs.3.conv.weight",
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "sam_prompt_encoder.no_mask_embed.weight",
        "sam_prompt_encoder.not_a_point_embed.weight", "sam_prompt_encoder.mask_downscaling.4.bias", f"{decoder}.iou_token.weight",
        f"{decoder}.obj_score_token.weight", f"{decoder}.transformer.layers.1.self_attn.out_proj.weight",
        f"{decoder}.transformer.layers.0.cross_attn_image_to_token.q_proj.bias", f"{decoder}.transformer.layers.0.norm4.weight",
        f"{decoder}.transformer.layers.0.mlp.layers.1.weight", f"{decoder}.transformer.norm_final_attn.weight",
        f"{decoder}.output_upscaling.3.weight", f"{decoder}.conv_s1.weight", f"{decoder}.pred_obj_score_head.layers.2.weight",
        f"{decoder}.output_hypernetworks_mlps.2.layers.1.weight", f"{decoder}.iou_prediction_head.layers.0.bias", "no_mem_embed",
    ]  # fmt: skip
    renamed = {name: sam_files._renamed(name, (*sam_files._COMMON, *sam_files._OF_SECOND)) for name in released}
    assert not {name: new for name, new in renamed.items() if new not in names}


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"some.weight": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ModelFileError, match=r"Segment Anything in a\.pth, found some\.weight"):
        load("sam", tmp_path / "a.pth")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelFileError, match="found 'bert'"):
        load("sam", tmp_path)


def test_nodes_make_masks_of_pictures(studio: Studio) -> None:
    """Transformers' folders in models/sams; a mask for each picture at its size, and those of its objects apart."""
    first().save_pretrained(studio.folder / "models" / "sams" / "one")
    second().save_pretrained(studio.folder / "models" / "sams" / "two")
    calls = {"image": Call("EmptyImage", {"width": 90, "height": 40, "batch_size": 2, "color": 0x336699})}
    for name in ("one", "two"):
        calls |= {
            "sam": Call("SAMLoader", {"model_name": name, "device_mode": "AUTO"}),
            "mask": Call(
                "SegmentAnything",
                {
                    "model": link("sam"),
                    "image": link("image"),
                    "points": "[[40, 20]]",
                    "boxes": "[[1, 1, 20, 20], [30, 5, 60, 35]]",
                },
            ),
        }
        mask, objects = studio.values(calls, "mask")
        assert mask.shape == (2, 40, 90)
        assert objects.shape == (6, 40, 90)
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(objects[:3].amax(0), mask[0])
    nothing = {**calls, "mask": Call("SegmentAnything", {"model": link("sam"), "image": link("image")})}
    assert "expected at least one point or box" in studio.failure(nothing, "mask")


def test_sam2_by_its_pack_s_names(studio: Studio) -> None:
    """One object by default; individual ones are segmented each by itself and put together."""
    (studio.folder / "models" / "sam2").mkdir(parents=True)
    model, picture = second(), torch.from_numpy(pixels()).float()[None] / 255
    from nodes import segmenting
    from tests.nodes.contexts import context

    class Store:
        def lease(self, ref: Any, *, working_bytes: int = 0) -> Any:
            from contextlib import nullcontext

            return nullcontext(type("Loaded", (), {"module": model}))

    ctx: Any = context()
    object.__setattr__(ctx, "model_store", Store)
    given = {"sam2_model": None, "image": picture, "keep_model_loaded": True}
    points = '[{"x": 40, "y": 20}, {"x": 70, "y": 30}]'
    together: Tensor = segmenting.sam2_segmentation(ctx, **given, coordinates_positive=points)
    apart: Tensor = segmenting.sam2_segmentation(ctx, **given, coordinates_positive=points, individual_objects=True)
    seen = sam.look(model, pixels())
    assert torch.equal(together[0], sam.chosen(model, seen, Prompt(((40, 20, 1), (70, 30, 1))), "best"))
    alone = [sam.chosen(model, seen, Prompt((point,)), "single") for point in ((40, 20, 1), (70, 30, 1))]
    assert torch.equal(apart[0], torch.stack(alone).amax(0))
