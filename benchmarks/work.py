"""The work that a trace's edges take, what the machine can do at most, and what memory a process has taken."""

import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.attribution.sources import Sources
from attrgraph.attribution.sweep import TILE_ROWS, ReadVectors


def edge_work(local: LocalReplacement, targets: ReadVectors) -> dict[str, float]:
    """Operations that edges into these targets take, without any that a schedule adds, and bytes that are moved.

    Operations: at each layer that a target's adjoint passes, two projections and the mixing over positions up to the
    target's, and a product with each decoder row that is written there. Bytes: at each layer the adjoint is read twice
    and written once; decoder rows are read once for every 128 targets.
    """
    run, sources, size = local.run, Sources(local), local.run.embedding.element_size()
    n_heads, d, d_head = run.blocks[0].attention.W_O.shape
    n_value_heads = len(run.blocks[0].attention.W_V)
    n_pos = targets.pos.double() + 1
    n_attentions = (targets.layer + 1).clamp(max=run.n_layers).double()
    projections = n_attentions * n_pos * d * d_head * (n_heads + n_value_heads)
    mixing = n_attentions * n_pos * (n_pos + 1) / 2 * n_heads * d_head
    writes = torch.tensor([[sources.n_writes(m, n) for n in range(1, run.n_pos + 1)] for m in range(run.n_layers)])
    below = torch.cat([torch.zeros(1, run.n_pos), writes.double().cumsum(0)])  # into all layers below one
    n_writes = below.to(targets.pos.device)[targets.layer, targets.pos]
    return {
        "flop": float(2 * (projections + mixing + n_writes * d).sum()),
        "bytes": float(size * d * (3 * n_attentions * n_pos + n_writes / TILE_ROWS).sum()),
    }


def machine(device: str = "cpu") -> str:
    """What a result was measured on."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    memory = psutil.virtual_memory().total / 2**30
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads, {memory:.0f} GiB"


def now(device: str) -> float:
    """The time when all that was asked of the device is done."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def machine_limits(device: str) -> dict[str, float]:
    """Measured: operations a second of a large float32 matrix product, bytes a second of a large copy."""
    n = 2048 if device == "cpu" else 8192
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    source = torch.empty(2**28 if device == "cpu" else 2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "flop_per_second": 2 * n**3 / _fastest(lambda: torch.mm(a, b), device),
        "bytes_per_second": 2 * len(source) / _fastest(lambda: target.copy_(source), device),
    }


def peak_gib(device: str) -> float:
    """Of the process's resident memory so far, or of what torch held on the GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # getrusage counts what the parent had when it started the process
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 2**20


def _fastest(work: Callable[[], object], device: str, n: int = 8) -> float:
    seconds = []
    for _ in range(n):
        started = now(device)
        work()
        seconds.append(now(device) - started)
    return min(seconds)
