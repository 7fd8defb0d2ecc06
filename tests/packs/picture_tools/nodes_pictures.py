import hashlib
import json
import os
import random

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from PIL.PngImagePlugin import PngInfo

import folder_paths
from nodes import MAX_RESOLUTION, PreviewImage


def tensor2pil(image):
    return Image.fromarray(np.clip(255.0 * image.cpu().numpy().squeeze(), 0, 255).astype(np.uint8))


def pil2tensor(image):
    return torch.from_numpy(np.array(image).astype(np.float32) / 255.0).unsqueeze(0)


class PT_Posterize:
    """Fewer colours, one picture of the batch at a time."""

    @classmethod
    def INPUT_TYPES(s):
        return {
            "required": {
                "image": ("IMAGE",),
                "bits": ("INT", {"default": 4, "min": 1, "max": 8, "step": 1}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "posterize"
    CATEGORY = "picture tools"

    def posterize(self, image, bits):
        return (torch.cat([pil2tensor(ImageOps.posterize(tensor2pil(i), bits)) for i in image], dim=0),)


class PT_Caption:
    """Text on a picture; the size is checked by the node itself."""

    def __init__(self):
        self.calls = 0

    @classmethod
    def INPUT_TYPES(s):
        return {
            "required": {
                "image": ("IMAGE",),
                "text": ("STRING", {"default": "hello", "multiline": True}),
                "size": ("INT", {"default": 12, "min": 4, "max": MAX_RESOLUTION}),
                "align": (["left", "right"],),
            },
            "optional": {"margin": ("INT", {"default": 2})},
            "hidden": {"unique_id": "UNIQUE_ID", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "log")
    FUNCTION = "draw"
    CATEGORY = "picture tools"

    @classmethod
    def VALIDATE_INPUTS(s, size, text):
        if size > 100:
            return f"size {size} does not fit on any picture; use 100 or less"
        return True if text.strip() or text == "" else "text is only spaces"

    def draw(self, image, text, size, align, margin=2, unique_id=None, extra_pnginfo=None):
        self.calls += 1
        pictures = []
        for i in image:
            picture = tensor2pil(i).convert("RGB")
            ImageDraw.Draw(picture).rectangle([margin, margin, margin + size, margin + size], fill=(255, 0, 0))
            pictures.append(pil2tensor(picture))
        log = f"node {unique_id}, call {self.calls}, {'with' if extra_pnginfo else 'without'} workflow"
        return (torch.cat(pictures), log)


class PT_LoadFromFolder:
    """Every picture of the input folder whose name begins with a prefix, as a list."""

    @classmethod
    def INPUT_TYPES(s):
        files = [f for f in os.listdir(folder_paths.get_input_directory()) if f.endswith(".png")]
        return {"required": {"first": (sorted(files), {"image_upload": True}), "prefix": ("STRING", {"default": ""})}}

    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("images", "names")
    OUTPUT_IS_LIST = (True, True)
    FUNCTION = "load"
    CATEGORY = "picture tools"

    def _paths(prefix):
        folder = folder_paths.get_input_directory()
        return [os.path.join(folder, f) for f in sorted(os.listdir(folder)) if f.startswith(prefix) and f.endswith(".png")]

    @classmethod
    def IS_CHANGED(s, first, prefix):
        m = hashlib.sha256()
        for path in s._paths(prefix):
            with open(path, "rb") as f:
                m.update(f.read())
        return m.digest().hex()

    def load(self, first, prefix):
        paths = PT_LoadFromFolder._paths(prefix)
        return ([pil2tensor(Image.open(p).convert("RGB")) for p in paths], [os.path.basename(p) for p in paths])


class PT_Preview(PreviewImage):
    """A preview with a frame around it, over ComfyUI's own node."""

    def __init__(self):
        super().__init__()
        self.prefix_append = "_framed_" + "".join(random.choice("abcdef") for _ in range(5))

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "show"
    CATEGORY = "picture tools"
    OUTPUT_NODE = True

    def show(self, images, prompt=None, extra_pnginfo=None):
        framed = torch.nn.functional.pad(images, (0, 0, 1, 1, 1, 1), value=1.0)
        saved = self.save_images(framed, "framed", prompt, extra_pnginfo)
        return {"ui": saved["ui"], "result": (framed,)}


class PT_SaveWithNotes:
    """Saves pictures and the notes beside them."""

    def __init__(self):
        self.output_dir = folder_paths.get_output_directory()

    @classmethod
    def INPUT_TYPES(s):
        return {
            "required": {"images": ("IMAGE",), "prefix": ("STRING", {"default": "notes/%width%x%height%"})},
            "optional": {"notes": ("STRING", {"forceInput": True})},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "picture tools"

    def save(self, images, prefix, notes="", prompt=None, extra_pnginfo=None):
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            prefix, self.output_dir, images[0].shape[1], images[0].shape[0]
        )
        results = []
        for image in images:
            info = PngInfo()
            if prompt is not None:
                info.add_text("prompt", json.dumps(prompt))
            file = f"{name}_{counter:05}_.png"
            tensor2pil(image).save(os.path.join(folder, file), pnginfo=info)
            with open(os.path.join(folder, f"{name}_{counter:05}_.txt"), "w") as f:
                f.write(notes)
            results.append({"filename": file, "subfolder": subfolder, "type": "output"})
            counter += 1
        return {"ui": {"images": results, "text": [notes]}}


class PT_Blur:
    @classmethod
    def INPUT_TYPES(s):
        return {"required": {"image": ("IMAGE",), "radius": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 64.0})}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "blur"
    CATEGORY = "picture tools"
    MEZZOTINT_PURE = True

    def blur(self, image, radius):
        return (torch.cat([pil2tensor(tensor2pil(i).filter(ImageFilter.GaussianBlur(radius))) for i in image]),)


class PT_Prompt:
    """A prompt, encoded the way packs do it."""

    @classmethod
    def INPUT_TYPES(s):
        return {"required": {"clip": ("CLIP",), "text": ("STRING", {"multiline": True})}}

    RETURN_TYPES = ("CONDITIONING", "CLIP")
    FUNCTION = "encode"
    CATEGORY = "picture tools"

    def encode(self, clip, text):
        clip = clip.clone()
        tokens = clip.tokenize(text)
        cond, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
        return ([[cond, {"pooled_output": pooled}]], clip)


class PT_Decode:
    """A latent as pictures, and back."""

    @classmethod
    def INPUT_TYPES(s):
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",)}}

    RETURN_TYPES = ("IMAGE", "LATENT")
    FUNCTION = "decode"
    CATEGORY = "picture tools"

    def decode(self, samples, vae):
        images = vae.decode(samples["samples"])
        return (images, {"samples": vae.encode(images[:, :, :, :3])})


class PT_ReachesIn:
    """Wants what a recipe of a model has not."""

    @classmethod
    def INPUT_TYPES(s):
        return {"required": {"model": ("MODEL",)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "picture tools"

    def patch(self, model):
        m = model.clone()
        m.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], args["timestep"]))
        return (m,)


NODE_CLASS_MAPPINGS = {
    "PT_Prompt": PT_Prompt,
    "PT_Decode": PT_Decode,
    "PT_ReachesIn": PT_ReachesIn,
    "PT_Posterize": PT_Posterize,
    "PT_Caption": PT_Caption,
    "PT_LoadFromFolder": PT_LoadFromFolder,
    "PT_Preview": PT_Preview,
    "PT_SaveWithNotes": PT_SaveWithNotes,
    "PT_Blur": PT_Blur,
}
NODE_DISPLAY_NAME_MAPPINGS = {"PT_Posterize": "Posterize 🎨", "PT_Caption": "Caption 🎨"}
