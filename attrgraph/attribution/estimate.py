"""What a trace will cost, before it is paid: nodes and bytes counted, seconds from a sample of the work."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar, Unpack

import numpy as np
import torch
from torch import Tensor

from attrgraph.attribution.assemble import assemble
from attrgraph.attribution.continuation import prepare_targets
from attrgraph.attribution.replacement import LocalReplacement, measure_deviation
from attrgraph.attribution.rows import EdgeRows, check_memory, most_influential, rounds
from attrgraph.attribution.source_table import source_table
from attrgraph.attribution.sweep import TILE_ROWS, EdgeSweep, ReadVectors, feature_reads, tiles_of
from attrgraph.attribution.targets import LogitTargets, Targets
from attrgraph.attribution.trace_settings import DEFAULTS, TraceSettings
from attrgraph.errors import checked
from attrgraph.memory import own_bytes
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.special import PromptOptions

# features of the largest graph that is put together for an estimate
_GRAPH_FEATURES = 4000
# By entry of the kept rows: these, the edges in them, and two copies of those at most; by node: objects of Python and
# pandas. Measured: 790 to 890 MiB for 7,500 features at GPT-2's shape, 2 to 12 MiB on the demo.
_ENTRY_BYTES, _NODE_BYTES = 16, 12288
# In rankings: one more, the share left out, a copy. Measured on one thread at GPT-2's shape, with 7,500 of 15,011
# features: 0.8 s, where a ranking of all rows takes 0.13 s.
_LOOKS_AT_END = 6
# of sweeps one in so many is timed, within these limits
_SWEEPS_PER_SAMPLE, _LEAST_SWEEPS, _MOST_SWEEPS = 8, 2, 8
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
@checked
def estimate(
    model: LanguageModel,
    prompt: Prompt,
    *,
    targets: Targets = None,
    max_n_logits: int = DEFAULTS.max_n_logits,
    desired_logit_prob: float = DEFAULTS.desired_logit_prob,
    max_feature_nodes: int = DEFAULTS.max_feature_nodes,
    memory_budget: int | str | None = None,
    **options: Unpack[PromptOptions],
) -> Estimate:
    """Run the model, encode, and sweep a sample of targets; see `trace` for the arguments and errors.

    Counts are those that `trace` will have. Seconds are of this machine as busy as it is now: some sweeps of targets
    are timed, the others interpolated between these by their targets, layers and positions.
    """
    settings = TraceSettings(max_n_logits, desired_logit_prob, max_feature_nodes)

    def run_once() -> tuple[LocalReplacement, LogitTargets, int]:
        local, memory, logits = prepare_targets(
            model, prompt, targets, settings, memory_budget=memory_budget, **options
        )
        measure_deviation(local)
        return local, logits, memory

    # the first time of everything reads files; a trace that follows finds them in memory
    *_, memory = run_once()
    process_bytes = own_bytes()
    run_seconds, (local, logits, _) = _timed(run_once)
    run = local.run
    n_selected = min(len(local.active), max_feature_nodes)
    rows_bytes = check_memory(local, len(logits), n_selected, memory)
    sample = _sample_edges(local, logits, n_selected, memory - rows_bytes)
    graph_seconds = _graph_seconds(model, local, logits, sample)
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
            "edges": rows_bytes + sample.sweep_bytes,
            "graph": _ENTRY_BYTES * (n_selected + len(logits)) * n_kept + _NODE_BYTES * (n_kept + len(logits)),
        },
        process_bytes=process_bytes,
        seconds={"run": run_seconds, "edges": sample.seconds, "graph": graph_seconds},
    )


class _Edges(NamedTuple):
    """What a sample of sweeps says about the edges of a trace."""

    seconds: float  # of all sweeps, and of ranking what they find between them
    sweep_bytes: int
    logits: Tensor  # rows of edges into the logits
    chosen: Tensor  # the features that the trace will choose, as far as the sample tells


def _sample_edges(local: LocalReplacement, logits: LogitTargets, n_selected: int, memory: int) -> _Edges:
    """Sweep the logits and some of the features."""
    is_limited = n_selected < len(local.active)
    sizes = rounds(n_selected) if is_limited else [n_selected]

    def sweep_logits() -> tuple[EdgeSweep, Tensor]:
        # no more are ever asked for at a time
        sweep = EdgeSweep(local, memory_bytes=memory, max_targets=max([len(logits), *sizes]))
        return sweep, sweep.edges(logits.reads)

    sweep_logits()  # the first takes memory from the system, which costs more
    seconds, (sweep, rows) = _timed(sweep_logits)
    chosen = torch.arange(n_selected, device=rows.device)
    if is_limited and n_selected:
        least, by_logits = _timed(lambda: most_influential(local, logits, rows, chosen[:0]), n_times=3)
        known = by_logits[: min(n_selected, TILE_ROWS)]
        more_rows = torch.cat([rows, sweep.edges(feature_reads(local, known))])
        more, by_influence = _timed(lambda: most_influential(local, logits, more_rows, known), n_times=3)
        chosen = torch.cat([known, by_influence])[:n_selected]
        # a ranking looks at the rows known by then; at the end, what was left out is counted and the rows are copied
        n_looked_at = sum(accumulate(sizes[:-1])) + n_selected * (1 + _LOOKS_AT_END)
        n_rankings = len(sizes) + 1 + _LOOKS_AT_END
        seconds += n_rankings * least + n_looked_at * max(0.0, more - least) / len(known)
    for_rounds = [feature_reads(local, features) for features in chosen.split(sizes)]
    sweeps = [reads[torch.cat(tiles)] for reads in for_rounds for tiles in sweep.tiles_together(reads)]
    return _Edges(seconds + _sweep_seconds(sweep, sweeps), sweep.n_bytes, rows, chosen)


def _sweep_seconds(sweep: EdgeSweep, sweeps: list[ReadVectors]) -> float:
    """Of all sweeps: some are timed, the others interpolated by their work."""
    if not sweeps:
        return 0.0
    works = np.array([_work(targets) for targets in sweeps])
    n_timed = min(_MOST_SWEEPS, max(_LEAST_SWEEPS, len(sweeps) // _SWEEPS_PER_SAMPLE))
    timed = works.argsort()[np.unique(np.linspace(0, len(sweeps) - 1, n_timed).astype(int))]
    seconds = [_timed(lambda at=at: sweep.edges(sweeps[at]))[0] for at in timed]  # type: ignore[misc]
    return float(np.interp(works, works[timed], seconds).sum())


def _work(targets: ReadVectors) -> int:
    """Of a sweep: targets x layers x positions, tile by tile."""
    return sum(int((targets.layer[tile] + 1).sum() * (targets.pos[tile].max() + 1)) for tile in tiles_of(targets))


def _graph_seconds(model: LanguageModel, local: LocalReplacement, logits: LogitTargets, edges: _Edges) -> float:
    """Of putting nodes and edges together; of many features by a sample of them."""
    sample = edges.chosen[:: -(-len(edges.chosen) // _GRAPH_FEATURES) or 1].sort().values
    columns = torch.cat([sample, torch.arange(len(local.active), edges.logits.shape[1], device=sample.device)])
    # rows that are a trace's in size and in where they may not be zero, not in value
    sources = source_table(model, local, sample)
    layer, pos = (torch.tensor(sources[name].to_numpy(), device=sample.device) for name in ("layer", "pos"))
    targets = slice(len(sample)), None
    is_source = (layer < layer[targets]) & (pos <= pos[targets])
    rows = EdgeRows(sample, edges.logits[0, columns] * is_source, edges.logits[:, columns], 0.0)
    seconds, _ = _timed(lambda: assemble(model, local, logits, rows, {}).scores())
    n_more = len(edges.chosen) - len(sample)
    growth = (1 + n_more / (len(sample) + len(logits))) * (1 + n_more / len(columns))  # of rows, of columns
    return seconds * growth


def _timed(work: Callable[[], _Result], *, n_times: int = 1) -> tuple[float, _Result]:
    """Seconds of the fastest of several times, and what the work gave."""
    seconds = list[float]()
    for _ in range(n_times):
        started = _now()
        done = work()
        seconds.append(_now() - started)
    return min(seconds), done


def _now() -> float:
    """The time when all that was asked of a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
