"""The processes that train one network together, one a GPU, as torchrun starts them; or this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from nas.base.errors import UserError
from nas.devices.device import pick_device


@dataclass(frozen=True)
class Ranks:
    """This process, number `rank` of `world`, and its device."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, message: bytes) -> bytes:
        """The message of the first process, in all of them."""
        if self.world == 1:
            return message
        messages = [message]
        dist.broadcast_object_list(messages, 0, device=self.device)
        return messages[0]

    def broadcast_by_store(self, message: str) -> str:
        """The message of the first process, in all of them, once in a training; the others may wait for days.

        It uses the store by which the processes found each other, because collective operations time out.
        """
        if self.world == 1:
            return message
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, is_master=False, timeout=timedelta(days=7)
        )
        key = f"message, start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        if self.first:
            store.set(key, message)
        return store.get(key).decode()


@contextmanager
def process_group(device: str) -> Iterator[Ranks]:
    """Join the other processes if torchrun started several: NCCL on GPUs, one each, gloo on CPUs.

    Raises UserError if the device does not exist.
    """
    world, rank, local = (int(os.environ.get(name, 0)) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    where = pick_device(device)
    if world < 2:
        yield Ranks(where)
        return
    if where.type == "cuda":
        if device not in ("auto", "cuda"):
            raise UserError(
                f"--device {device}: with torchrun each process has a GPU of its own; use cuda, cpu or auto"
            )
        where = pick_device(f"cuda:{local}")
        torch.cuda.set_device(where)
    if where.type == "mps":
        raise UserError("--device mps: torchrun trains on GPUs of NVIDIA or on CPUs; use --device cpu")
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Ranks(where, rank, world)
    finally:
        dist.destroy_process_group()
