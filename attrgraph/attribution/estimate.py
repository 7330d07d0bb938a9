"""What a trace will cost, before it is paid: nodes and bytes counted, seconds from a sample of the work."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from attrgraph.attribution.assemble import assemble
from attrgraph.attribution.prepare import prepare
from attrgraph.attribution.replacement import LocalReplacement, measure_deviation
from attrgraph.attribution.rows import EdgeRows, check_memory, rounds
from attrgraph.attribution.sweep import (
    TILE_ROWS,
    EdgeSweep,
    Passage,
    ReadVectors,
    feature_reads,
    n_above,
    n_columns,
    reach,
    tiles_of,
)
from attrgraph.attribution.targets import LogitTargets, Targets, choose_targets
from attrgraph.attribution.trace_settings import DEFAULTS, TraceSettings
from attrgraph.kernels.edge_rows import Writes
from attrgraph.kernels.influence_rows import influence_rows
from attrgraph.memory import large_empty, own_bytes
from attrgraph.models.language_model import LanguageModel, Prompt

# features of the largest graph that is put together for an estimate
_GRAPH_FEATURES = 4000
# By entry of the kept rows: these, the edges in them, and two copies of those at most; by node: objects of Python and
# pandas. Measured: 790 to 890 MiB for 7,500 features at GPT-2's shape, 2 to 12 MiB on the demo.
_ENTRY_BYTES, _NODE_BYTES = 16, 12288
# a ranking, its share left out, and a copy: each about as long as a ranking
_LOOKS_AT_END = 3
# of tiles one in so many is timed, within these limits
_TILES_PER_SAMPLE, _LEAST_TILES, _MOST_TILES = 8, 1, 6
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
        """The most that the trace takes at a time, in addition to the weights."""
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
    max_n_logits: int = DEFAULTS.max_n_logits,
    desired_logit_prob: float = DEFAULTS.desired_logit_prob,
    max_feature_nodes: int = DEFAULTS.max_feature_nodes,
    memory_budget: int | str | None = None,
    skip_positions: str | Sequence[int] | None = "bos",
) -> Estimate:
    """Run the model, encode, and sweep a sample of targets; see `trace` for the arguments and errors.

    Counts are those that `trace` will have. Seconds are of this machine as busy as it is now: of some tiles of
    targets, carried over to all by their operations, and of decoder rows read, by their number.
    """
    settings = TraceSettings(max_n_logits, desired_logit_prob, max_feature_nodes)

    def run_once() -> tuple[LocalReplacement, LogitTargets, int]:
        local, memory = prepare(model, prompt, skip_positions=skip_positions, memory_budget=memory_budget)
        measure_deviation(local)
        logits = choose_targets(model, local.run, targets, settings)
        return local, logits, memory

    # the first time of everything reads files; a trace that follows finds them in memory
    *_, memory = run_once()
    process_bytes = own_bytes()
    run_seconds, (local, logits, _) = _timed(run_once)
    run = local.run
    n_selected = min(len(local.active), max_feature_nodes)
    rows_bytes = check_memory(local, len(logits), n_selected, memory)
    sample = _Sample(model, local, logits, n_selected, memory - rows_bytes)
    n_between = (run.n_layers + 1) * run.n_pos  # errors and embeddings
    n_kept = n_selected + n_between + 1
    held = [run.embedding, run.logits, run.uncapped_logits, local.errors, local.constants]
    held += [stream for block in run.blocks for stream in (block.mlp_stream, block.mlp_out)]
    return Estimate(
        n_tokens=run.n_pos,
        n_active=len(local.active),
        n_selected=n_selected,
        n_nodes=n_kept + len(logits),
        bytes={
            "weights": sum(p.nbytes for p in model.hf_model.parameters()) + local.transcoders.n_bytes,
            "run": sum(x.nbytes for x in held) + run.pattern_bytes,
            "edges": rows_bytes + sample.sweep.n_bytes,
            "graph": _ENTRY_BYTES * (n_selected + len(logits)) * n_kept + _NODE_BYTES * (n_kept + len(logits)),
        },
        process_bytes=process_bytes,
        seconds={"run": run_seconds, "edges": sample.edge_seconds(), "graph": sample.graph_seconds()},
    )


class _TimedSweep(EdgeSweep):
    """Also counts the decoder rows and passages that the tiles of a sweep share, and the seconds of getting them."""

    def __init__(self, local: LocalReplacement, *, memory_bytes: int, max_targets: int) -> None:
        super().__init__(local, memory_bytes=memory_bytes, max_targets=max_targets)
        self.start()

    def start(self) -> None:
        """Count from zero."""
        self.n_read, self.reading = np.zeros(2), np.zeros(2)  # rows, passages

    def writes(self, layer: int, n_pos: int) -> Iterator[Writes]:
        self.n_read[0] += self.sources.n_writes(layer, n_pos)
        every = super().writes(layer, n_pos)
        while True:
            seconds, writes = _timed(lambda: next(every, None))
            self.reading[0] += seconds
            if writes is None:
                return
            yield writes

    def passage(self, layer: int) -> Passage:
        self.n_read[1] += 1
        seconds, passage = _timed(lambda: EdgeSweep.passage(self, layer))
        self.reading[1] += seconds
        return passage


class _Sample:
    """A sweep of the logits and of some tiles of features, timed, and what they say about the others."""

    def __init__(
        self, model: LanguageModel, local: LocalReplacement, logits: LogitTargets, n_selected: int, memory: int
    ) -> None:
        self._model, self._local, self._logits, self._n_selected = model, local, logits, n_selected
        self._is_limited = n_selected < len(local.active)
        self._sizes = rounds(n_selected) if self._is_limited else [n_selected]

        def sweep_logits() -> tuple[_TimedSweep, Tensor]:
            # no more are ever asked for at a time
            sweep = _TimedSweep(local, memory_bytes=memory, max_targets=max([len(logits), *self._sizes]))
            return sweep, sweep.edges(logits.reads)

        sweep_logits()  # the first takes memory from the system, which costs more
        once, (self.sweep, logit_rows) = _timed(sweep_logits)
        self.sweep.start()
        # memory that nobody has written to is slow the first time
        n_rows, n_few = len(logits) + n_selected, min(len(logits) + n_selected, TILE_ROWS)
        filling, _ = _timed(lambda: large_empty(local.run.embedding, n_few, n_columns(local)).zero_())
        self._once = once + filling * n_rows / n_few
        none = local.active.layer[:0]
        least, first = _timed(lambda: self._best(logit_rows, none, sum(self._sizes[:1])))
        tiles = tiles_of(feature_reads(local, first))
        known = torch.cat([none, *(first[tile[::2]] for tile in (tiles[:1] + tiles[1:][-1:]))])
        rows = torch.cat([logit_rows, self.sweep.edges(feature_reads(local, known))])
        # the features that a trace would choose, as far as these rows tell
        ranking, chosen = _timed(lambda: self._best(rows, known, n_selected))
        # of a ranking through hardly any rows, and of each more
        self._ranking = least, max(0.0, ranking - least) / max(1, len(known))
        # each has tiles of its own
        self._rounds = [feature_reads(local, features) for features in chosen.split(self._sizes)]
        self._time([targets[tile] for targets in self._rounds for tile in tiles_of(targets)])
        some = chosen[:: -(-n_selected // _GRAPH_FEATURES) or 1]
        self._graphs = [self._graph_rows(rows, features) for features in (some, none)]

    def _time(self, tiles: list[ReadVectors]) -> None:
        """Sweep some of the tiles: those with least and most work, and others each in the middle of a share of all."""
        works = [self._work(tile) for tile in tiles]
        order = sorted(range(len(tiles)), key=works.__getitem__)
        n_timed = min(_MOST_TILES, max(_LEAST_TILES, len(tiles) // _TILES_PER_SAMPLE))
        reached = np.cumsum([works[i] for i in order])
        quantiles = (np.arange(n_timed) + 0.5) / n_timed
        middle = [order[at] for at in np.searchsorted(reached, quantiles * reached[-1])] if tiles else []
        # multiplications and seconds, but for reading
        self._sweeps = [(works[i], self._seconds(tiles[i])) for i in {*order[:1], *middle, *order[-1:]}]

    def _seconds(self, targets: ReadVectors) -> float:
        """Of a sweep, but for what its tiles share."""
        before = self.sweep.reading.sum()
        seconds, _ = _timed(lambda: self.sweep.edges(targets))
        return seconds - float(self.sweep.reading.sum() - before)

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
            above = n_above(targets[tile], run.n_layers)
            n_pos = reach(targets[tile], above)
            for layer, block in enumerate(run.blocks):
                n_heads, d_model, d_head = block.attention.W_O.shape
                projections = n_pos[0] * d_model * d_head * (n_heads + len(block.attention.W_V))
                mixing = n_pos[0] ** 2 * n_heads * d_head
                total += above[layer] * (projections + mixing)
                total += above[layer + 1] * d_model * self.sweep.sources.n_writes(layer, n_pos[layer + 1])
        return total

    def _n_read(self, targets: ReadVectors) -> tuple[int, int]:
        """Decoder rows and passages: for each sweep, those that any of its tiles needs."""
        n_layers, n_rows, n_passages = self._local.run.n_layers, 0, 0
        for together in self.sweep.tiles_together(targets):
            tiles = [targets[tile] for tile in together]
            n_pos = [max(of) for of in zip(*(reach(tile, n_above(tile, n_layers)) for tile in tiles), strict=True)]
            n_rows += sum(self.sweep.sources.n_writes(layer, n_pos[layer + 1]) for layer in range(n_layers))
            n_passages += sum(n > 0 for n in n_pos[:n_layers])
        return n_rows, n_passages

    def edge_seconds(self) -> float:
        """Of all sweeps, and of ranking what they found between them."""
        n = self._n_selected
        if not n:
            return self._once
        slope, per_tile = self._pace()
        reading, sweeps = self.sweep.reading / self.sweep.n_read.clip(1), 0.0
        for targets in self._rounds:
            sweeps += slope * self._work(targets) + per_tile * len(tiles_of(targets))
            sweeps += float(reading @ self._n_read(targets))
        # a ranking looks at the rows known by then; at the end, what was left out is counted and the rows are copied
        n_looked_at = [sum(self._sizes[:i]) for i in range(len(self._sizes))] + [n] * (1 + _LOOKS_AT_END)
        rankings = sum(self._ranking[0] + self._ranking[1] * n_rows for n_rows in n_looked_at)
        return self._once + sweeps + (rankings if self._is_limited else 0.0)

    def _pace(self) -> tuple[float, float]:
        """Seconds by multiplication, and of each tile besides: least squares through the sample, neither below zero."""
        from scipy.optimize import nnls

        work, seconds = np.array(self._sweeps).T
        scale = max(1.0, work.max())  # of columns that are alike in size
        slope, per_tile = nnls(np.stack([work / scale, np.ones(len(work))], 1), seconds)[0]
        return float(slope / scale), float(per_tile)

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
    started = _now()
    done = work()
    return _now() - started, done


def _now() -> float:
    """The time when all that was asked of a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
