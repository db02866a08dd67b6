"""One process or many: `torchrun --nproc_per_node N -m distill ...` is all it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Processes:
    """Who we are among the processes of a run."""

    rank: int
    count: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def align(self, network: nn.Module) -> None:
        """Give every process the first one's weights."""
        if self.count > 1:
            for parameter in network.parameters():
                dist.broadcast(parameter.data, 0)

    def average(self, tensor: Tensor) -> None:
        """Replace `tensor` by its mean over all processes."""
        if self.count > 1:
            dist.all_reduce(tensor)
            tensor.div_(self.count)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every process's `tensor`, all of one shape, in the order of the processes."""
        if self.count == 1:
            return [tensor]
        tensor = tensor.contiguous()
        everyone = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(everyone, tensor)
        return everyone

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()

    def agree(self, value: float) -> float:
        """Rank 0's value, on every rank: decisions taken from clocks must be taken together."""
        if self.count == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return float(tensor.item())


@contextmanager
def join(device_name: str | None) -> Iterator[Processes]:
    """Join the run that torchrun started, or be alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    use_cuda = torch.cuda.is_available() and device_name in (None, "cuda")
    device = torch.device(f"cuda:{local}") if use_cuda else torch.device(device_name or "cpu")
    if use_cuda:
        torch.cuda.set_device(device)
    if count > 1:
        dist.init_process_group(
            "nccl" if use_cuda else "gloo", device_id=device if use_cuda else None
        )
    try:
        yield Processes(int(os.environ.get("RANK", "0")), count, device)
    finally:
        if count > 1:
            dist.destroy_process_group()
