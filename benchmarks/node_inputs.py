"""What nodes get in their examples: models, pictures, texts, and values of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

OWN_FILES: Final[Mapping[str, str]] = {
    "checkpoints": "demo.safetensors",
    "clip_vision": "demo_vision.safetensors",
    "controlnet": "demo_canny.safetensors",
    "input": "star.png",
    "ipadapter": "demo_ip_adapter.safetensors",
    "loras": "demo_outline.safetensors",
    "styles": "print / linocut",
    "upscale_models": "demo_x4.safetensors",
}
"""A file of each folder that has one in the repository."""

OTHER_FILES: Final[Mapping[str, str]] = {
    ".ipadpt": "IP_embeds_00001_.ipadpt",
    ".latent": "latents/ComfyUI_00001_.latent",
    "configs": "v1-inference.yaml",
    "diffusion_models": "sd3.5_medium.safetensors",
    "facerestore_models": "GFPGANv1.4.pth",
    "hypernetworks": "hypernetwork.safetensors",
    "output": "star.png [output]",
    "photomaker": "photomaker-v1.safetensors",
    "sam2": "sam2.1_hiera_tiny.safetensors",
    "style_models": "t2iadapter_style_sd14v1.safetensors",
    "text_encoders": "clip_l.safetensors",
    "transformer": "sd3_medium_incl_clips.safetensors",
}
"""A file of each other folder, or of a kind."""

FILES: Final = {**OWN_FILES, **OTHER_FILES}

CROP: Final = {"mode": "forced size", "force_width": 128, "force_height": 128}
TURNS: Final = {"count": 3, "initial": "@INT"}


@dataclass(frozen=True, slots=True)
class Giver:
    """An output of a node with these inputs; ``@name`` is what another giver gives."""

    type: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    output: int = 0


_ENCODED: Final = {"ipadapter": "@IPADAPTER", "clip_vision": "@CLIP_VISION"}

GIVERS: Final[Mapping[str, Giver]] = {
    "MODEL": Giver("CheckpointLoaderSimple"),
    "CLIP": Giver("CheckpointLoaderSimple", output=1),
    "VAE": Giver("CheckpointLoaderSimple", output=2),
    "a transformer": Giver("CheckpointLoaderSimple", {"ckpt_name": FILES["transformer"]}),
    "what a LoRA changes": Giver("ModelMergeSubtract", {"model1": "@another model", "model2": "@MODEL"}),
    "another model": Giver("LoraLoaderModelOnly"),
    "another clip": Giver("CLIPSetLastLayer", {"stop_at_clip_layer": -2}),
    "CONDITIONING": Giver("CLIPTextEncode", {"text": "a red star on a blue background"}),
    "another text": Giver("CLIPTextEncode", {"text": "a yellow heart on a blue background"}),
    "negative": Giver("CLIPTextEncode", {"text": ""}),
    "LATENT": Giver("EmptyLatentImage", {"width": 128, "height": 128}),
    "a picture's latent": Giver("VAEEncode"),
    "another latent": Giver("VAEEncode", {"pixels": "@another picture"}),
    "latents": Giver("LatentBatch"),
    "IMAGE": Giver("LoadImage"),
    "another picture": Giver("LoadImage", {"image": "heart.png"}),
    "pictures": Giver("ImageBatch", {"image1": "@IMAGE"}),
    "list of pictures": Giver("ListJoin", {"list0": "@IMAGE", "list1": "@another picture"}),
    "with alpha": Giver("JoinImageWithAlpha"),
    "marked": Giver("WatermarkWrite", {"text": "mezz", "length": 4}),
    "MASK": Giver("ImageColorToMask", {"color": 0xF0D732}),
    "another mask": Giver("SolidMask", {"width": 128, "height": 128}),
    "masks": Giver("MaskBatch+", {"mask1": "@MASK"}),
    "CONTROL_NET": Giver("ControlNetLoader"),
    "edges": Giver("Canny"),
    "CLIP_VISION": Giver("CLIPVisionLoader"),
    "CLIP_VISION_OUTPUT": Giver("CLIPVisionEncode"),
    "STYLE_MODEL": Giver("StyleModelLoader"),
    "PHOTOMAKER": Giver("PhotoMakerLoader"),
    "FACERESTORE_MODEL": Giver("FaceRestoreModelLoader"),
    "UPSCALE_MODEL": Giver("UpscaleModelLoader"),
    "SAM2MODEL": Giver("DownloadAndLoadSAM2Model"),
    "HOOKS": Giver("CreateHookLora"),
    "TIMESTEPS_RANGE": Giver("ConditioningTimestepsRange", {"end_percent": 0.5}),
    "NOISE": Giver("RandomNoise", {"noise_seed": 1}),
    "SAMPLER": Giver("KSamplerSelect"),
    "SIGMAS": Giver("BasicScheduler", {"scheduler": "normal"}),
    "GUIDER": Giver("CFGGuider", {"cfg": 5.0}),
    "LATENT_OPERATION": Giver("LatentOperationSharpen"),
    "STITCH": Giver("InpaintCrop", CROP),
    "cropped": Giver("InpaintCrop", CROP, 1),
    "IPADAPTER": Giver("IPAdapterModelLoader"),
    "EMBEDS": Giver("IPAdapterEncoder", _ENCODED),
    "other embeds": Giver("IPAdapterEncoder", {"image": "@another picture", **_ENCODED}),
    "IPADAPTER_PARAMS": Giver("IPAdapterRegionalConditioning", {"mask": "@MASK"}),
    "other params": Giver("IPAdapterRegionalConditioning", {"image": "@another picture"}),
    "WEIGHTS_STRATEGY": Giver("IPAdapterWeights", {"weights": "0.0, 1.0", "frames": 4}, 5),
    "POSE_KEYPOINT": Giver("DWPreprocessor", output=1),
    "INT": Giver("PrimitiveInt", {"value": 3}),
    "another number": Giver("PrimitiveInt", {"value": 2}),
    "FLOAT": Giver("PrimitiveFloat", {"value": 0.5}),
    "BOOLEAN": Giver("PrimitiveBoolean", {"value": True}),
    "STRING": Giver("PrimitiveString", {"value": "a red star"}),
    "*": Giver("PrimitiveString", {"value": "a red star"}),
    "list": Giver("ListRange", {"start": 1, "stop": 4}),
    "LOOP": Giver("LoopStart", TURNS),
    "carried": Giver("LoopStart", TURNS, 1),
    "doubled": Giver("MathExpression", {"expression": "a * 2", "a": "@carried"}),
}
"""What can be had, by its type or by a name."""

GIVEN_BY_NAME: Final[Mapping[tuple[str, str], str]] = {
    ("MODEL", "model2"): "another model",
    ("CLIP", "clip2"): "another clip",
    ("CONDITIONING", "negative"): "negative",
    ("CONDITIONING", "empty_conditioning"): "negative",
    ("IMAGE", "image2"): "another picture",
    ("IMAGE", "image_composition"): "another picture",
    ("LATENT", "destination"): "a picture's latent",
    ("LATENT", "samples"): "a picture's latent",
    ("LATENT", "samples1"): "a picture's latent",
    ("LATENT", "samples2"): "another latent",
    ("LATENT", "source"): "another latent",
    ("MASK", "mask2"): "another mask",
}
"""Inputs that get something other than the first of their type."""

CHOSEN: Final[Mapping[str, Mapping[str, Any]]] = {
    "AIO_Preprocessor": {"preprocessor": "CannyEdgePreprocessor", "resolution": 128},
    "Compare": {"a": "@INT", "b": "@another number", "operator": ">"},
    "ConditioningAverage": {"conditioning_from": "@another text", "conditioning_to_strength": 0.5},
    "ConditioningConcat": {"conditioning_from": "@another text"},
    "ConditioningSetAreaPercentage": {"width": 0.5, "height": 0.5, "x": 0.25, "y": 0.25},
    "ConditioningSetDefaultCombine": {"cond_DEFAULT": "@another text"},
    "ConditioningSetProperties": {"mask": "@MASK", "timesteps": "@TIMESTEPS_RANGE"},
    "ConditioningSetPropertiesAndCombine": {"cond_NEW": "@another text", "mask": "@MASK"},
    "ControlNetApply": {"image": "@edges", "strength": 0.8},
    "CreateHookKeyframesFromFloats": {"start_percent": 0.0, "end_percent": 1.0},
    "CropMask": {"width": 64, "height": 64, "x": 32, "y": 32},
    "ExecuteAllControlNetPreprocessors": {"resolution": 128},
    "FormatText": {"template": "{a}, number {b}", "a": "@STRING", "b": "@INT"},
    "GetImageSize": {"image": "@pictures"},
    "GrowMaskWithBlur": {"expand": 4, "blur_radius": 3.0},
    "HintImageEnchance": {"image_gen_width": 128, "image_gen_height": 128},
    "ImageBlend": {"blend_factor": 0.5, "blend_mode": "multiply"},
    "ImageCrop": {"width": 64, "height": 64, "x": 32, "y": 32},
    "ImageCrop+": {"width": 64, "height": 64, "position": "center"},
    "ImageExpandBatch+": {"image": "@pictures", "size": 4, "method": "repeat all"},
    "ImageFromBatch": {"image": "@pictures", "batch_index": 1},
    "ImageListToBatch+": {"image": "@list of pictures"},
    "ImageQuantize": {"colors": 4, "dither": "none"},
    "ImageResize+": {"width": 192, "height": 192},
    "ImageScaleToMaxDimension": {"largest_size": 192},
    "ImageScaleToTotalPixels": {"megapixels": 0.04},
    "ImageSharpen": {"sharpen_radius": 2, "sigma": 1.0, "alpha": 1.0},
    "InpaintCrop": CROP,
    "InpaintStitch": {"inpainted_image": "@cropped"},
    "IPAdapterCombineEmbeds": {"embed2": "@other embeds", "method": "average"},
    "IPAdapterCombineParams": {"params_2": "@other params"},
    "JoinImageWithAlpha": {"alpha": "@MASK"},
    "LatentBlend": {"blend_factor": 0.5},
    "LatentCompositeMasked": {"source": "@another latent", "mask": "@MASK"},
    "LatentConcat": {"dim": "x"},
    "LatentCrop": {"width": 64, "height": 64, "x": 32, "y": 32},
    "LatentCut": {"dim": "x", "index": 4, "amount": 8},
    "LatentFromBatch": {"samples": "@latents", "batch_index": 1},
    "LatentInterpolate": {"ratio": 0.5},
    "LatentMultiply": {"multiplier": 0.8},
    "LatentUpscale": {"width": 192, "height": 192},
    "ListItem": {"list": "@list", "index": 1},
    "ListJoin": {"list0": "@list", "list1": "@INT"},
    "ListLength": {"list": "@list"},
    "ListSlice": {"list": "@list", "start": 1},
    "Logic": {"a": "@BOOLEAN", "b": False, "operator": "or"},
    "LoraSave": {"model_diff": "@what a LoRA changes"},
    "LoopEnd": {"carried": "@doubled", "collect": "@doubled"},
    "LoopStart": TURNS,
    "MaskFromBatch+": {"mask": "@masks", "start": 1},
    "MathExpression": {"expression": "a * 2 + b", "a": "@INT", "b": "@FLOAT"},
    "PerpNegGuider": {"cfg": 5.0},
    "PorterDuffImageComposite": {
        "source_alpha": "@MASK",
        "destination": "@another picture",
        "destination_alpha": "@another mask",
        "mode": "SRC_OVER",
    },
    "PrimitiveFloat": {"value": 0.5},
    "PrimitiveInt": {"value": 3},
    "PrimitiveString": {"value": "a red star"},
    "PrimitiveStringMultiline": {"value": "a red star"},
    "RandomChoice": {"choices": "a red star\na blue heart"},
    "RebatchImages": {"images": "@pictures"},
    "RebatchLatents": {"latents": "@latents"},
    "RegexExtract": {"string": "a red star", "regex_pattern": "r\\w+"},
    "RegexMatch": {"string": "a red star", "regex_pattern": "r\\w+"},
    "RegexReplace": {"string": "a red star", "regex_pattern": "red", "replace": "blue"},
    "RepeatImageBatch": {"amount": 2},
    "RepeatLatentBatch": {"amount": 2},
    "ResizeAndPadImage": {"target_width": 192, "target_height": 128},
    "ResizeMask": {"width": 192, "height": 192},
    "Sam2Segmentation": {"coordinates_positive": '[{"x": 64, "y": 64}]'},
    "SkipLayerGuidanceDiT": {"model": "@a transformer"},
    "SkipLayerGuidanceDiTSimple": {"model": "@a transformer"},
    "SetFirstSigma": {"sigma": 14.6},
    "SplitImageWithAlpha": {"image": "@with alpha"},
    "SplitSigmas": {"step": 12},
    "SplitSigmasDenoise": {"denoise": 0.5},
    "StringCompare": {"string_a": "a red star", "string_b": "a red"},
    "StringConcatenate": {"string_a": "a red star", "string_b": "on white", "delimiter": " "},
    "StringContains": {"string": "a red star", "substring": "red"},
    "StringLength": {"string": "a red star"},
    "StringReplace": {"string": "a red star", "find": "red", "replace": "blue"},
    "StringSubstring": {"string": "a red star", "start": 2, "end": 5},
    "StringTrim": {"string": " a red star "},
    "CaseConverter": {"string": "a red star"},
    "Switch": {"condition": "@BOOLEAN", "if_true": "@INT", "if_false": "@FLOAT"},
    "SwitchIndex": {"index": 1, "value0": "@INT", "value1": "@FLOAT"},
    "TextJoin": {"texts": "@list"},
    "TextToNumber": {"text": "3"},
    "ThresholdMask": {"value": 0.5},
    "WatermarkRead": {"image": "@marked", "length": 4},
    "WatermarkWrite": {"text": "mezz", "length": 4},
}
"""Inputs of nodes that get something of their own; ``@name`` is one of ``GIVERS``."""


WITHOUT: Final = frozenset(
    {"CreateHookKeyframesFromFloats", "SaveSVGNode", "LoopTurn", "LoopItem", "LoopKeep", "LoopCollected"}
)
"""Nodes without an example: what they take is given by other packs' nodes alone, or the engine alone adds them."""
