"""``comfy.model_management``: devices, precision and memory.

Weights are this engine's own business: it loads them for as long as a node uses them and takes them off the device when room is
needed. What would load or unload them by hand either has nothing to do or says what to use instead.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.compat import interrupts
from engine.compat.host import host
from engine.compat.interrupts import InterruptProcessingException as InterruptProcessingException
from engine.compat.missing import NotProvidedError, module_getattr
from nodes.diffusion import devices

OOM_EXCEPTION = torch.OutOfMemoryError
XFORMERS_IS_AVAILABLE = False
XFORMERS_ENABLED_VAE = False
XFORMERS_VERSION = ""
ENABLE_PYTORCH_ATTENTION = True
DISABLE_SMART_MEMORY = False
FORCE_FP32 = False
directml_enabled = False
lowvram_available = True
current_loaded_models: list[Any] = []
"""Always empty: what is loaded, and for how long, is the engine's."""

_MINIMUM_WORKING_BYTES = 1 << 30


class VRAMState(enum.Enum):
    """How weights share the memory of the device."""

    DISABLED = 0
    NO_VRAM = 1
    LOW_VRAM = 2
    NORMAL_VRAM = 3
    HIGH_VRAM = 4
    SHARED = 5


class CPUState(enum.Enum):
    """What kind of device it is."""

    GPU = 0
    CPU = 1
    MPS = 2


# devices


def _policy() -> devices.DevicePolicy:
    settings = host().settings
    return devices.device_policy(settings.device, settings.dtype)  # type: ignore[arg-type]  # checked where the process starts


def get_torch_device() -> torch.device:
    """The device of this process's settings."""
    return _policy().device


def _cpu() -> torch.device:
    return torch.device("cpu")


def intermediate_device() -> torch.device:
    """Where values lie between nodes."""
    return _cpu()


def unet_offload_device() -> torch.device:
    return _cpu()


def unet_inital_load_device(parameters: int, dtype: torch.dtype) -> torch.device:
    return _cpu()


def text_encoder_offload_device() -> torch.device:
    return _cpu()


def vae_offload_device() -> torch.device:
    return _cpu()


def text_encoder_device() -> torch.device:
    return get_torch_device()


def vae_device() -> torch.device:
    return get_torch_device()


def _device(dev: Any = None) -> torch.device:
    return get_torch_device() if dev is None else torch.device(dev)


def get_torch_device_name(device: Any) -> str:
    if _device(device).type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return str(_device(device).type)


def get_autocast_device(dev: Any) -> str:
    return _device(dev).type


def is_device_type(device: Any, type_: str) -> bool:
    return getattr(device, "type", None) == type_


def is_device_cpu(device: Any) -> bool:
    return is_device_type(device, "cpu")


def is_device_mps(device: Any) -> bool:
    return is_device_type(device, "mps")


def is_device_cuda(device: Any) -> bool:
    return is_device_type(device, "cuda")


def is_device_xpu(device: Any) -> bool:
    return is_device_type(device, "xpu")


def is_nvidia() -> bool:
    return get_torch_device().type == "cuda" and torch.version.cuda is not None


def is_amd() -> bool:
    return get_torch_device().type == "cuda" and torch.version.hip is not None


def is_intel_xpu() -> bool:
    return get_torch_device().type == "xpu"


def cpu_mode() -> bool:
    return get_torch_device().type == "cpu"


def mps_mode() -> bool:
    return get_torch_device().type == "mps"


def _cpu_state() -> CPUState:
    return {"cpu": CPUState.CPU, "mps": CPUState.MPS}.get(get_torch_device().type, CPUState.GPU)


def _vram_state() -> VRAMState:
    return {"cpu": VRAMState.DISABLED, "mps": VRAMState.SHARED}.get(get_torch_device().type, VRAMState.NORMAL_VRAM)


def device_supports_non_blocking(device: Any) -> bool:
    return is_device_cuda(device)


def cast_to_device(tensor: torch.Tensor, device: Any, dtype: torch.dtype, copy: bool = False) -> torch.Tensor:
    return tensor.to(device, dtype, copy=copy, non_blocking=device_supports_non_blocking(device))


# precision


def unet_dtype(
    device: Any = None,
    model_params: int = 0,
    supported_dtypes: Sequence[torch.dtype] = (torch.float16, torch.bfloat16, torch.float32),
    weight_dtype: torch.dtype | None = None,
) -> torch.dtype:
    """What UNets run in here, or float32 if they cannot."""
    wanted = torch.float32 if is_device_cpu(device) else _policy().dtype("unet")
    return wanted if wanted in supported_dtypes else torch.float32


def text_encoder_dtype(device: Any = None) -> torch.dtype:
    return torch.float32 if is_device_cpu(device) else _policy().dtype("clip")


def vae_dtype(device: Any = None, allowed_dtypes: Sequence[torch.dtype] = ()) -> torch.dtype:
    return _policy().dtype("vae")


def should_use_fp16(
    device: Any = None, model_params: int = 0, prioritize_performance: bool = True, manual_cast: bool = False
) -> bool:
    """Whether models run in float16 on ``device``, by default this process's."""
    return not is_device_cpu(_device(device)) and _policy().dtype("unet") == torch.float16


def should_use_bf16(
    device: Any = None, model_params: int = 0, prioritize_performance: bool = True, manual_cast: bool = False
) -> bool:
    """Whether ``device`` computes in bfloat16."""
    if is_device_cuda(_device(device)):
        return bool(torch.cuda.is_bf16_supported())
    return is_device_xpu(_device(device))


def dtype_size(dtype: torch.dtype) -> int:
    return dtype.itemsize


def xformers_enabled() -> bool:
    return False


def xformers_enabled_vae() -> bool:
    return False


def pytorch_attention_enabled() -> bool:
    return True


def sage_attention_enabled() -> bool:
    return False


def flash_attention_enabled() -> bool:
    return False


# memory


def get_free_memory(dev: Any = None, torch_free_too: bool = False) -> Any:
    """Bytes that can be allocated; with ``torch_free_too`` a pair of them and those of these that torch already holds."""
    device = _device(dev)
    kept = 0
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = devices.free_memory(device) + kept
    return (free, kept) if torch_free_too else free


def get_total_memory(dev: Any = None, torch_total_too: bool = False) -> Any:
    device = _device(dev)
    if device.type == "cuda":
        total = int(torch.cuda.get_device_properties(device).total_memory)
        kept = torch.cuda.memory_reserved(device)
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        kept = total
    return (total, kept) if torch_total_too else total


def minimum_inference_memory() -> int:
    return _MINIMUM_WORKING_BYTES


def module_size(module: torch.nn.Module) -> int:
    """Bytes of a module's tensors."""
    return sum(tensor.nelement() * tensor.element_size() for tensor in module.state_dict().values())


def soft_empty_cache(force: bool = False) -> None:
    """Give memory that torch keeps for later back to the device."""
    devices.release_unused(get_torch_device())


def free_memory(memory_required: int, device: Any, keep_loaded: Sequence[Any] = ()) -> list[Any]:
    """Room is made when a model is loaded; beforehand only what torch keeps can be given back."""
    soft_empty_cache()
    return []


def unload_all_models() -> None:
    """No model is held for packs; what the engine holds it drops when room is needed."""
    soft_empty_cache()


def cleanup_models(*_: Any) -> None:
    """Nothing is left over here."""


cleanup_models_gc = cleanup_models


def loaded_models(only_currently_used: bool = False) -> list[Any]:
    return []


def load_models_gpu(models: Sequence[Any], *_: Any, **__: Any) -> None:
    """Raises ``NotProvidedError`` for any model: a MODEL, CLIP or VAE here is a recipe, and its weights are only ever lent."""
    if models:
        raise NotProvidedError(
            "models cannot be loaded by hand: a MODEL, CLIP or VAE is a recipe here, and weights are lent while a node uses them; "
            "call the core node that does the work (nodes.NODE_CLASS_MAPPINGS), see docs/packs.md"
        )


def load_model_gpu(model: Any) -> None:
    load_models_gpu([model])


# stopping


def throw_exception_if_processing_interrupted() -> None:
    """Raise ``InterruptProcessingException``, which ends the run as cancelled, if it was told to stop."""
    interrupts.check()


def interrupt_current_processing(value: bool = True) -> None:
    """Tell the run to stop whose node is under way."""
    interrupts.interrupt(value)


def processing_interrupted() -> bool:
    return interrupts.is_interrupted()


_COMPUTED: dict[str, Callable[[], Any]] = {
    "cpu_state": _cpu_state,
    "vram_state": _vram_state,
    "set_vram_to": _vram_state,
    "total_vram": lambda: get_total_memory() / 2**20,
    "total_ram": lambda: get_total_memory(_cpu()) / 2**20,
}

__getattr__ = module_getattr(__name__, **_COMPUTED)
