"""What a trace will cost, before it is paid: nodes and bytes counted, seconds from a sample of the work."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from attrgraph.adjoint import EdgeSweep, ReadVectors, feature_reads, n_above, tiles_of
from attrgraph.assemble import assemble
from attrgraph.errors import TranscoderError
from attrgraph.kernels.influence import influence_rows
from attrgraph.memory import budget_bytes, own_bytes
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.replacement import LocalReplacement, build_replacement, measure_deviation
from attrgraph.selection import EdgeRows, check_memory, rounds
from attrgraph.targets import LogitTargets, Targets, choose_targets
from attrgraph.tracing import check_settings, keeps_patterns, skipped_positions

# features of the largest graph that is put together for an estimate
_GRAPH_FEATURES = 4000
# By entry of the kept rows: these, the edges in them, and two copies of those at most; by node: objects of Python and
# pandas. Measured: 870 to 930 MiB for 7,500 features at GPT-2's shape, 3 to 13 MiB on the demo.
_ENTRY_BYTES, _NODE_BYTES = 16, 12288
# a ranking, its share left out, and a copy: each about as long as a ranking
_LOOKS_AT_END = 3
# of the sample's most work over its least: with less, noise decides about the line through them
_LEAST_SPREAD = 2.0
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Estimate:
    """The cost of one trace."""

    n_tokens: int
    n_active: int  # active features
    n_selected: int  # of these, in the graph
    n_nodes: int  # of the unpruned graph
    bytes: dict[str, int]  # weights: model and transcoders, of which files may stay on disk; run; edges; graph
    process_bytes: int  # what the process holds in the machine's memory now, without pages of files
    seconds: dict[str, float]  # run; edges; graph

    @property
    def peak_bytes(self) -> int:
        """The most that the trace takes at a time, besides the weights."""
        return self.bytes["run"] + max(self.bytes["edges"], self.bytes["graph"])

    @property
    def total_bytes(self) -> int:
        """The most that the process will hold at a time; with a model on a GPU, there and in the machine together."""
        return self.process_bytes + self.peak_bytes

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "peak_bytes": self.peak_bytes, "total_bytes": self.total_bytes}


@torch.no_grad()
def estimate(
    model: LanguageModel,
    prompt: Prompt,
    *,
    targets: Targets = None,
    max_n_logits: int = 10,
    desired_logit_prob: float = 0.95,
    max_feature_nodes: int = 7500,
    memory_budget: int | str | None = None,
    skip_positions: str | Sequence[int] | None = "bos",
) -> Estimate:
    """Run the model, encode, and sweep a sample of targets; see `trace` for the arguments and errors.

    Counts are those that `trace` will have. Seconds are of this machine as busy as it is now: the sample's, times the
    operations that all targets need over those of the sample.
    """
    if model.transcoders is None:
        raise TranscoderError("the model has no transcoders; load it with load_model(..., transcoders=...).")
    check_settings(max_n_logits, desired_logit_prob, max_feature_nodes)
    memory = budget_bytes(memory_budget, torch.device(model.device))
    token_ids = model.tokenize(prompt)
    is_skipped, transcoders = skipped_positions(model, token_ids, skip_positions), model.transcoders

    keep_patterns = keeps_patterns(model, len(token_ids), memory)

    def prepare() -> tuple[LocalReplacement, LogitTargets]:
        run = model.run(token_ids, keep_patterns=keep_patterns)
        local = build_replacement(run, transcoders, is_skipped)
        measure_deviation(local)
        return local, choose_targets(
            model, run, targets, max_n_logits=max_n_logits, desired_logit_prob=desired_logit_prob
        )

    # the first time of everything reads files; a trace that follows finds them in memory
    prepare()
    process_bytes = own_bytes()
    run_seconds, (local, logits) = _timed(prepare)
    run = local.run
    n_selected = min(len(local.active), max_feature_nodes)
    rows_bytes = check_memory(local, len(logits), n_selected, memory)
    sample = _Sample(model, local, logits, n_selected, memory - rows_bytes)
    n_between = (run.n_layers + 1) * run.n_pos  # errors and embeddings
    n_kept = n_selected + n_between + 1
    held = [run.embedding, run.logits, run.uncapped_logits, local.errors, local.constants]
    held += [stream for block in run.blocks for stream in (block.mlp_stream, block.mlp_out)]
    return Estimate(
        n_tokens=len(token_ids),
        n_active=len(local.active),
        n_selected=n_selected,
        n_nodes=n_kept + len(logits),
        bytes={
            "weights": sum(p.nbytes for p in model.hf_model.parameters()) + model.transcoders.n_bytes,
            "run": sum(x.nbytes for x in held) + run.pattern_bytes,
            "edges": rows_bytes + sample.sweep.n_bytes,
            "graph": _ENTRY_BYTES * (n_selected + len(logits)) * n_kept + _NODE_BYTES * (n_kept + len(logits)),
        },
        process_bytes=process_bytes,
        seconds={"run": run_seconds, "edges": sample.edge_seconds(), "graph": sample.graph_seconds()},
    )


class _Sample:
    """The sweeps of the logits and of two tiles of features, timed, and what they say about the others."""

    def __init__(
        self, model: LanguageModel, local: LocalReplacement, logits: LogitTargets, n_selected: int, memory: int
    ) -> None:
        self._model, self._local, self._logits, self._n_selected = model, local, logits, n_selected
        EdgeSweep(local, memory_bytes=memory).edges(logits.reads)
        started = time.perf_counter()
        self.sweep = EdgeSweep(local, memory_bytes=memory)
        logit_rows = self.sweep.edges(logits.reads)
        self._once = time.perf_counter() - started
        self._rounds = rounds(n_selected)
        n_first = self._rounds[0] if self._rounds else 0
        least, first = _timed(lambda: self._best(logit_rows, local.active.layer[:0], n_first))
        tiles = tiles_of(feature_reads(local, first))
        known = torch.cat([first[tiles[0]], first[tiles[-1]]]).unique() if tiles else first
        rows = torch.cat([logit_rows, self.sweep.edges(feature_reads(local, known))])
        # (work, seconds) of the logits and of two tiles, which may differ much; what they read is in memory by now
        sampled = [logits.reads, *(feature_reads(local, first[tile]) for tile in (tiles[:1] + tiles[-1:]))]
        self._sweeps = [
            (self._work(targets), _timed(lambda targets=targets: self.sweep.edges(targets))[0])  # type: ignore[misc]
            for targets in sampled
        ]
        # the features that a trace would choose, as far as these rows tell
        ranking, self._chosen = _timed(lambda: self._best(rows, known, n_selected))
        # of a ranking through hardly any rows, and of each more
        self._ranking = least, max(0.0, ranking - least) / max(1, len(known))
        sample = self._chosen[:: -(-n_selected // _GRAPH_FEATURES) or 1]
        self._graphs = [self._graph_rows(rows, features) for features in (sample, sample[:0])]

    def _graph_rows(self, rows: Tensor, chosen: Tensor) -> EdgeRows:
        """Rows of a graph of these features: as a trace's in size and in where they may not be zero, not in value."""
        active, chosen = self._local.active, chosen.sort().values
        columns = torch.cat([chosen, torch.arange(len(active), rows.shape[1], device=rows.device)])
        fullest = rows[(rows != 0).sum(1).argmax(), columns]
        run = self._local.run
        between = torch.cartesian_prod(torch.arange(run.n_layers + 1), torch.arange(run.n_pos)).to(rows.device)
        bias = between.new_zeros(1)
        # errors layer by layer, then embeddings below all layers
        level = torch.cat([active.layer[chosen], between[:, 0], bias])
        level[len(chosen) + run.n_layers * run.n_pos :] = -1  # embeddings and bias
        pos = torch.cat([active.pos[chosen], between[:, 1], bias])
        own = slice(len(chosen))
        is_source = (level < level[own, None]) & (pos <= pos[own, None])
        return EdgeRows(chosen, fullest * is_source, rows[: len(self._logits), columns], 0.0)

    def _best(self, rows: Tensor, known: Tensor, n: int) -> Tensor:
        """The most influential features, through some rows: the logits' and those of known features."""
        n_active = len(self._local.active)
        if n == n_active:
            return torch.arange(n_active, device=rows.device)
        reads, probability = self._logits.reads, self._logits.probability
        column = torch.cat([torch.full_like(reads.layer, -1), known])
        level = torch.cat([reads.layer, self._local.active.layer[known]])
        weight = torch.cat([probability, probability.new_zeros(len(known))])
        influence, _ = influence_rows(rows[:, :-1], column, level, weight)
        return influence[:n_active].argsort(descending=True, stable=True)[:n]

    def _work(self, targets: ReadVectors) -> float:
        """Multiplications of a sweep."""
        run, total = self._local.run, 0.0
        for tile in tiles_of(targets):
            n_pos = int(targets.pos[tile].max()) + 1
            above = n_above(targets[tile], run.n_layers)
            for layer, block in enumerate(run.blocks):
                n_heads, d_model, d_head = block.attention.W_O.shape
                projections = n_pos * d_model * d_head * (n_heads + len(block.attention.W_V))
                mixing = n_pos**2 * n_heads * d_head
                total += above[layer] * (projections + mixing)
                total += above[layer + 1] * d_model * self.sweep.sources.n_writes(layer, n_pos)
        return total

    def edge_seconds(self) -> float:
        """Of all sweeps, and of ranking what they found between them."""
        n, is_limited = self._n_selected, self._n_selected < len(self._local.active)
        if not n:
            return self._once
        slope, per_tile = self._pace()
        targets = feature_reads(self._local, self._chosen)
        # each round has tiles of its own
        parts = torch.arange(n).split(self._rounds if is_limited else n)
        sweeps = sum(slope * self._work(targets[part]) + per_tile * len(tiles_of(targets[part])) for part in parts)
        # a ranking looks at the rows known by then; at the end, what was left out is counted and the rows are copied
        n_looked_at = [*(int(part[0]) for part in parts), *[n] * (1 + _LOOKS_AT_END)] if is_limited else []
        rankings = sum(self._ranking[0] + self._ranking[1] * n_rows for n_rows in n_looked_at)
        return self._once + sweeps + rankings

    def _pace(self) -> tuple[float, float]:
        """Seconds by multiplication, and of each tile besides: a line through the sample, if that is known from it."""
        work, seconds = np.array(self._sweeps).T
        if work.max() > _LEAST_SPREAD * work.min():
            slope, per_tile = np.polyfit(work, seconds, 1)
            if slope > 0 and per_tile > 0:
                return float(slope), float(per_tile)
        return float(seconds[1:].sum() / max(1.0, work[1:].sum())), 0.0

    def graph_seconds(self) -> float:
        """Of putting nodes and edges together, at the pace of the sample's graphs with and without features."""
        some, none = (
            _timed(lambda rows=rows: assemble(self._model, self._local, self._logits, rows).scores())[0]  # type: ignore[misc]
            for rows in self._graphs
        )
        n_sample, n_others = len(self._graphs[0].selected), self._graphs[1].logits.shape[1]
        n_entries, n_wanted = (n * (n + n_others) for n in (n_sample, self._n_selected))
        return none + max(0.0, some - none) * n_wanted / max(1, n_entries)


def _timed(work: Callable[[], _Result]) -> tuple[float, _Result]:
    """Seconds, and what the work gave."""
    started = time.perf_counter()
    done = work()
    return time.perf_counter() - started, done
