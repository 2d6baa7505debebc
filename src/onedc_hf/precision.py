"""Which number format suits the processor at hand."""

from __future__ import annotations

import os

import torch

__all__ = ["default_dtype"]


def default_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """bfloat16 where it is native, float32 elsewhere.

    On a CPU without AVX512-BF16 bfloat16 is three to nine times *slower* than float32. An instruction set lowered by
    `ONEDNN_MAX_CPU_ISA` counts as the processor's own.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if kind != "cpu":
        return torch.float32
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    allowed = limit in ("ALL", "DEFAULT") or "BF16" in limit or "AMX" in limit
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    native = bool(probe()) if probe is not None else False
    return torch.bfloat16 if native and allowed else torch.float32
