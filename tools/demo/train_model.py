"""Train the demo's language model: a 4-layer Llama on the demo world, geography first and then everything."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import draws
import torch
from packing import PackedBatch, SentencePacker
from torch import Tensor, nn

from attrgraph.demo import world

MODEL_CONFIG: dict[str, Any] = {
    "vocab_size": len(world.VOCABULARY),
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.05,
    "tie_word_embeddings": True,
    "pad_token_id": world.TOKEN_ID[world.PAD],
    "bos_token_id": world.TOKEN_ID[world.BOS],
    "eos_token_id": None,
}


@dataclass(frozen=True)
class Stage:
    """One training schedule: linear warm-up, cosine decay to 2%."""

    mix: dict[str, int]
    n_steps: int
    n_rows: int = 24
    muon_lr: float = 0.02
    norm_lr: float = 3e-3
    embedding_lr: float = 3e-3
    weight_decay: float = 0.1
    # Strong, so that the states of one-word cities do not settle in their embeddings, where no MLP computes them: the
    # ceiling test refuses such a model.
    embedding_weight_decay: float = 1.0
    n_warmup: int = 100

    def lr_scale(self, step: int) -> float:
        decay = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / self.n_steps))
        return min(1.0, (step + 1) / self.n_warmup) * decay


STAGES = (Stage(draws.GEOGRAPHY_MIX, 1000), Stage(draws.FULL_MIX, 4000, embedding_lr=5e-4))


def train_model(
    model: nn.Module,
    *,
    stages: tuple[Stage, ...] = STAGES,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train in place. `progress(step, loss)` is called after every step; `loss` is that of the determined words."""
    step_before = 0
    for number, stage in enumerate(stages):
        packer = SentencePacker(stage.mix, n_rows=stage.n_rows, seed=1000 * seed + number)
        optimizers = _optimizers(model, stage)
        base_lrs = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        for step in range(stage.n_steps):
            for optimizer, lrs in zip(optimizers, base_lrs, strict=True):
                for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                    group["lr"] = lr * stage.lr_scale(step)
            loss, answer_loss = _losses(model, packer.next_batch())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if progress is not None:
                progress(step_before + step, answer_loss)
        step_before += stage.n_steps


def _losses(model: nn.Module, batch: PackedBatch) -> tuple[Tensor, float]:
    """Weighted mean cross-entropy of all words, and the plain mean over determined words."""
    tokens = batch.tokens
    logits = model(
        input_ids=tokens.token_ids,
        position_ids=tokens.positions,
        attention_mask=tokens.attention_mask,
        use_cache=False,
    ).logits
    weights = batch.weights[:, 1:].flatten()
    is_predicted = weights > 0
    targets = tokens.token_ids[:, 1:].flatten()[is_predicted]
    losses = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1)[is_predicted], targets, reduction="none")
    weights = weights[is_predicted]
    return (losses * weights).sum() / weights.sum(), losses.detach()[weights == 1].mean().item()


def _optimizers(model: nn.Module, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon on the hidden matrices, AdamW on embeddings and norms."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    embeddings = [p for name, p in named if "embed" in name]
    norms = [p for _, p in named if p.ndim < 2]
    adam_groups = [
        {"params": embeddings, "lr": stage.embedding_lr, "weight_decay": stage.embedding_weight_decay},
        {"params": norms, "lr": stage.norm_lr, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(matrices, lr=stage.muon_lr, weight_decay=stage.weight_decay, momentum=0.95),
        torch.optim.AdamW(adam_groups, betas=(0.9, 0.98)),
    ]
