"""Torch's devices: which one a name means, its arithmetic, and its errors."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nas.base.errors import UserError


def pick_device(name: str) -> torch.device:
    """The device of that name; auto is CUDA, else MPS, else the CPU. Raises UserError if there is none."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count() if cuda else 0)), *(["mps"] if mps else [])]
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in here:
        raise UserError(f"device {name[:40]!r} is not here; this machine has {', '.join(here)}, or use auto")
    return torch.device(wanted)


def mixed_dtype(device: torch.device) -> torch.dtype | None:
    """The type for mixed precision: bf16 or fp16 on CUDA, bf16 on a CPU that computes in it, else None (all fp32)."""
    if device.type == "cpu":
        able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in torch 2.10
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else None
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: CUDA has a class for it, MPS and Windows' CPU a text."""
    texts = ("can't allocate memory", "not enough memory", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)
