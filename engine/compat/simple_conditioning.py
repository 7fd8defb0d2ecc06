"""Core nodes on conditionings that packs call in passing: they stand in where the core has no node of the name."""

from __future__ import annotations

from typing import Any


class ConditioningCombine:
    """Both; what a model predicts for them is averaged."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "combine"
    CATEGORY = "conditioning"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning_1": ("CONDITIONING",), "conditioning_2": ("CONDITIONING",)}}

    def combine(self, conditioning_1: list[Any], conditioning_2: list[Any]) -> tuple[list[Any]]:
        return ([*conditioning_1, *conditioning_2],)


class ConditioningConcat:
    """The tokens of the first entry of one behind those of each entry of the other."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "concat"
    CATEGORY = "conditioning"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning_to": ("CONDITIONING",), "conditioning_from": ("CONDITIONING",)}}

    def concat(self, conditioning_to: list[Any], conditioning_from: list[Any]) -> tuple[list[Any]]:
        import torch

        behind = conditioning_from[0][0]
        return ([[torch.cat([tensor, behind], 1), dict(values)] for tensor, values in conditioning_to],)


class ConditioningZeroOut:
    """Zeros in the place of what a text became."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "zero_out"
    CATEGORY = "advanced/conditioning"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning": ("CONDITIONING",)}}

    def zero_out(self, conditioning: list[Any]) -> tuple[list[Any]]:
        import torch

        emptied = []
        for tensor, values in conditioning:
            known = dict(values)
            if known.get("pooled_output") is not None:
                known["pooled_output"] = torch.zeros_like(known["pooled_output"])
            emptied.append([torch.zeros_like(tensor), known])
        return (emptied,)
