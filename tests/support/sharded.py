"""A training run that several processes can do together, for the test that compares it with one process."""

import os
from pathlib import Path
from typing import Any

import torch
from tiny import make_model
from toy import SparseWorld

from attrgraph.data.activations import LiveRounds
from attrgraph.transcoders.training.checkpoint import CheckpointFolder
from attrgraph.transcoders.training.export import gather_features
from attrgraph.transcoders.training.parameters import FeatureDictionary
from attrgraph.transcoders.training.shards import Shards, process_group
from attrgraph.transcoders.training.train_config import TrainConfig
from attrgraph.transcoders.training.trainer import Hooks, train_transcoders

KINDS = ("batchtopk", "topk", "jumprelu")


def divergence(dictionary: FeatureDictionary, step: int) -> torch.Tensor:
    """Stands for a model: the second layer reads what the first layer's features wrote."""
    reads = SparseWorld(seed=7).round(step % 3).reads[:, :32]
    first = dictionary.contributions(0, reads[0])
    second = dictionary.contributions(1, reads[1] + 0.1 * first[:, 0].tanh())
    return (first[:, -1] + second[:, 0] + dictionary.bias(1)).square().mean()


def run_all(shards: Shards, folder: Path) -> dict[str, torch.Tensor]:
    """Train each kind, stopped half-way and resumed from its checkpoint; all features' weights."""
    weights = {}
    for kind in KINDS:
        config = TrainConfig(
            n_features=32,
            l0=4.0,
            n_tokens=256 * 24,
            batch_tokens=256,
            learning_rate=3e-3,
            dead_after=2_000,
            n_dead_active=2,
            activation=kind,
            kl_weight=0.01,
        )
        checkpoints = CheckpointFolder(folder / kind, shards)

        def stop(_: object, record: dict[str, Any]) -> None:
            if record["step"] == 20:
                raise InterruptedError

        try:
            hooks = Hooks(report=stop, checkpoints=checkpoints, checkpoint_every_s=0.0)
            train_transcoders(SparseWorld(), config, hooks=hooks, shards=shards, divergence=divergence)
        except InterruptedError:
            pass
        hooks = Hooks(checkpoints=checkpoints, is_resuming=True)
        trained = train_transcoders(SparseWorld(), config, hooks=hooks, shards=shards, divergence=divergence)
        for name, tensor in gather_features(trained).state_dict().items():
            weights[f"{kind}.{name}"] = tensor.detach().clone()
    return weights


def live_round(shards: Shards) -> dict[str, torch.Tensor]:
    """A round of a tiny model's activations, of which each process computes a part."""
    rows = [torch.arange(1, 3 + length) for length in range(9)]
    rounds = LiveRounds(make_model("llama"), rows, round_tokens=40, batch_tokens=12, shards=shards)
    return {"live.reads": rounds.round(1).reads, "live.writes": rounds.round(1).writes}


def run_in_process(rank: int, folder: str, port: int) -> None:
    """One of two processes, with what torchrun would put into its environment."""
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ.update(address | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    with process_group("cpu") as (shards, device):
        if (shards, device) != (Shards(rank, 2), "cpu"):
            raise AssertionError(f"{shards} on {device}")
        weights = run_all(shards, Path(folder) / "checkpoints")
        torch.save(weights | live_round(shards), Path(folder) / f"{rank}.pt")
