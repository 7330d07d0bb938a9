"""The same questions to a dictionary that means nothing: every feature writes what another of its layer writes."""

from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from attrgraph.attribution.trace import trace
from attrgraph.graph.graph import Graph
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import same_options
from attrgraph.progress import Progress
from attrgraph.transcoders import Transcoders
from attrgraph.validation.measurements import Bench, sample_nodes
from attrgraph.validation.subject import Subject
from attrgraph.validation.validation_settings import Settings

# Of encoders, which are copied. Decoders, of which cross-layer sets have many times as much, stay where they are.
_MOST_BYTES = 2**31
_N_TAKEN_OUT = 20


def with_decoders_exchanged(transcoders: Transcoders, seed: int) -> Transcoders:
    """The set with the decoder rows of each layer's features given to others, at random.

    Encoders, biases and thresholds are moved, which comes to the same but for the numbers of the features.
    """
    layers, generator = [], torch.Generator().manual_seed(seed)
    for weights in transcoders.layers:
        order = torch.randperm(len(weights.W_enc), generator=generator)
        moved: dict[str, Any] = {
            name: held.index_select(0, order.to(held.device))
            for name in ("W_enc", "b_enc", "threshold")
            if (held := getattr(weights, name)) is not None
        }
        layers.append(replace(weights, **moved))
    return Transcoders(layers, transcoders.config, source={"id": f"{transcoders.source['id']}, decoders exchanged"})


def control(subject: Subject, settings: Settings, progress: Progress) -> pd.DataFrame:
    """What the graph of the exchanged dictionary scores, and how its influence ranks; a row, or none of a huge set.

    Args:
        subject: the graph that is validated, whose prompt and targets are traced again.
        settings: of its validation.
        progress: told of every run.
    """
    transcoders = subject.local.transcoders
    if sum(weights.W_enc.nbytes for weights in transcoders.layers) > _MOST_BYTES:
        return pd.DataFrame()
    graph, own = subject.graph, subject.model
    other = LanguageModel(
        own.hf_model,
        own.tokenizer,
        transcoders=with_decoders_exchanged(transcoders, settings.seed),
        source=own.source,
    )
    targets = graph.nodes.loc[subject.kinds == "logit", "feature"].tolist()
    options: Any = {**same_options(graph.metadata), "memory_budget": subject.memory_budget}
    options["allow_inexact"] = True  # large errors round more, which is no fault of the graph that is validated
    traced: Graph = trace(other, graph.metadata["token_ids"], targets=targets, **options)
    tested = Subject.of(other, traced, subject.memory_budget)

    def told(phase: str, done: int, total: int) -> None:
        progress(f"exchanged decoders, {phase}", done, total)

    bench = Bench(tested, replace(settings, modes=settings.modes[-1:]), told)
    bench.one_by_one(sample_nodes(tested.graph.nodes, tested.can_act, settings.n_nodes, settings.seed), {})
    ranked = bench.rankings().set_index("ranking").loc["influence"].to_dict()
    taken_out = tested.measure([tested.by_influence[:_N_TAKEN_OUT].tolist()], mode=settings.mode)
    scores, flips = traced.scores()._asdict(), bool(taken_out.is_flipped[0])
    return pd.DataFrame([{"dictionary": "decoder rows exchanged", **scores, **ranked, "flips": flips}])
