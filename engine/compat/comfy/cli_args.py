"""``comfy.cli_args``: the options ComfyUI would have been started with; most stand at their defaults whatever ours are."""

from __future__ import annotations

import argparse
import enum

from engine.compat.missing import module_getattr


class LatentPreviewMethod(enum.Enum):
    """How previews are made."""

    NoPreviews = "none"
    Auto = "auto"
    Latent2RGB = "latent2rgb"
    TAESD = "taesd"


class PerformanceFeature(enum.Enum):
    """Shortcuts that could be taken."""

    Fp16Accumulation = "fp16_accumulation"
    Fp8MatrixMultiplication = "fp8_matrix_mult"
    CublasOps = "cublas_ops"
    AutoTune = "autotune"


_OFF = """
    cpu cpu_vae gpu_only highvram normalvram lowvram novram disable_smart_memory deterministic async_offload
    force_fp32 force_fp16 fp32_unet fp64_unet bf16_unet fp16_unet fp8_e4m3fn_unet fp8_e5m2_unet fp16_vae fp32_vae bf16_vae
    fp8_e4m3fn_text_enc fp8_e5m2_text_enc fp16_text_enc fp32_text_enc bf16_text_enc force_channels_last force_non_blocking
    disable_xformers use_split_cross_attention use_quad_cross_attention use_pytorch_cross_attention use_sage_attention
    use_flash_attention force_upcast_attention dont_upcast_attention disable_metadata disable_all_custom_nodes disable_api_nodes
    disable_ipex_optimize disable_auto_launch auto_launch multi_user windows_standalone_build quick_test_for_ci dont_print_server
    cuda_malloc disable_cuda_malloc mmap_torch_files disable_mmap log_stdout cache_classic cache_none
    enable_cors_header enable_compress_response_body enable_manager
"""

args = argparse.Namespace(
    **dict.fromkeys(_OFF.split(), False),
    listen="127.0.0.1",
    port=8188,
    base_directory=None,
    output_directory=None,
    input_directory=None,
    temp_directory=None,
    user_directory=None,
    extra_model_paths_config=None,
    cuda_device=None,
    default_device=None,
    directml=None,
    reserve_vram=None,
    cache_lru=0,
    fast=set(),
    preview_method=LatentPreviewMethod.Auto,
    preview_size=512,
    default_hashing_function="sha256",
    whitelist_custom_nodes=[],
    verbose="INFO",
    max_upload_size=100,
    front_end_version="",
    front_end_root=None,
)

__getattr__ = module_getattr(__name__)
