"""Change nodes of a run and see what follows, with more or less of the model held as it was.

Four modes, from the graph's own assumptions to none:

- frozen: attention patterns, norm scales, all other features and errors stay: what an edge predicts, exactly;
- frozen-attention: patterns, scales and errors stay; features above recompute;
- constrained: MLP outputs up to a layer are what they were plus what the changed nodes write; above it, and in
  attention everywhere, the true model goes on;
- free: the true model goes on everywhere; a changed feature's write into its own layer is added to the MLP's output.
  What a cross-layer feature writes into layers above is left to the true MLPs: they see the change, and counting both
  would count it twice. A feature that another change has reached is set from what it then is: it ends at what it is set
  to, a multiple of or a sum with what it was in the unchanged run.

A component of a block (a head, attention, an MLP, the stream, queries, keys and values) or a direction is set where it
is computed, and all that the mode lets respond does. It holds no MLP: in mode constrained those above it respond, as in
free, unless features or errors that are set too, or `upto_layer`, have them held; an `mlp` that is held is set all the
same. In mode frozen its change goes through the linear map of the graph. There, and in mode frozen-attention, queries
and keys are refused, as patterns stay. Without transcoders the modes are constrained and free.

Source: Ameisen et al. 2025, "Circuit Tracing", appendix "Interventions",
transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import Unpack

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attrgraph.attribution.exactness import check_replacement
from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.errors import InterventionError, checked, whole_number
from attrgraph.interventions.component_changes import apply_changes, recorded
from attrgraph.interventions.frozen_runs import check_not_of_patterns, frozen_change, with_frozen_attention
from attrgraph.interventions.intervention import Changes, Intervention, add_changes, resolve
from attrgraph.interventions.other_prompts import with_values
from attrgraph.interventions.take_apart import take_apart as take_apart
from attrgraph.memory import budget_bytes
from attrgraph.models.components import Site, observed
from attrgraph.models.frozen import norm_before, widened
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.live import check_finite, live_run
from attrgraph.models.live_replacement import divergence
from attrgraph.models.special import PromptOptions
from attrgraph.transcoders import ActiveFeatures, Transcoders
from attrgraph.transcoders.transcoders import FeatureKey, decoded
from attrgraph.viz.html_table import html_table

MODES = ("frozen", "frozen-attention", "constrained", "free")
# What the rows of a batch take at most, if the memory budget allows it: chosen, not tuned.
_BATCH_BYTES = 2**28
# Of a row: streams of a block and its MLP's neurons in one layer, in widths of the stream, and copies of the logits of
# the last position, one of them in float64. Counted.
_BLOCK_STREAMS, _LOGIT_COPIES = 20, 5
_MOST_SHOWN = 20  # rows of a table in a notebook


@dataclass(frozen=True)
class Effect:
    """What followed from an intervention, at the last position."""

    mode: str
    logits_before: Float[Tensor, " d_vocab"]
    logits_after: Float[Tensor, " d_vocab"]
    uncapped_change: Float[Tensor, " d_vocab"]  # of the logits before soft-capping, which edges explain
    kl: float  # KL(before || after) of the next token, in nats
    top_before: list[tuple[str, float]]  # the most probable tokens
    top_after: list[tuple[str, float]]
    # layer, pos, feature, before, after: activations of features active before or after, or set; in mode "frozen",
    # after is what a feature would read, whatever its activation function says
    features: pd.DataFrame

    def __repr__(self) -> str:
        (before, p), (after, q) = self.top_before[0], self.top_after[0]
        return f"Effect({self.mode}: {before!r} {p:.3f} -> {after!r} {q:.3f}; KL {self.kl:.3g} nats)"

    def _repr_html_(self) -> str:
        tops = zip(self.top_before, self.top_after, strict=True)
        rows = [(before, p, after, q) for (before, p), (after, q) in tops]
        answers = pd.DataFrame(rows, columns=["before", "p_before", "after", "p_after"])
        order = (self.features["after"] - self.features["before"]).abs().sort_values(ascending=False).index
        tables = [answers, self.features.loc[order]]
        return f"<p>{escape(repr(self))}</p>" + "".join(
            html_table(one, _MOST_SHOWN, "effect.features") for one in tables
        )

    @property
    def is_flipped(self) -> bool:
        """Whether another token has become the most probable one."""
        return int(self.logits_before.argmax()) != int(self.logits_after.argmax())


@checked
def intervene(
    model: LanguageModel,
    prompt: Prompt,
    interventions: Intervention | Sequence[Intervention],
    *,
    mode: str = "constrained",
    upto_layer: int | None = None,
    **options: Unpack[PromptOptions],
) -> Effect:
    """Run a prompt with some nodes changed.

    Args:
        model: a language model; features, errors and the frozen modes need transcoders.
        prompt: as for `trace`.
        interventions: which nodes are set to what.
        mode: frozen, frozen-attention, constrained or free; see the module.
        upto_layer: in mode constrained, the last layer whose MLP output is held; by default the highest at which a
            feature or an error is set. What set features write into layers above it is left to the true MLPs.
        options: prepend and skip_positions, as for `trace`.

    Raises:
        InterventionError: a node that the run does not have, a mode that does not exist, or an `upto_layer` below a
            node that is set.
        ResultError: in a frozen mode, the run cannot be frozen exactly, since something changes the forward pass.
        PromptError, TranscoderError: as for `trace`.

    Example:
        >>> import attrgraph as ag
        >>> prompt = "in the state containing dallas the capital is"
        >>> effect = ag.intervene(ag.load_model("demo"), prompt, ag.Intervention("3_458_8", scale=0.0))
        >>> effect.kl > 0
        True
    """
    one = [interventions] if isinstance(interventions, Intervention) else interventions
    return intervene_many(model, prompt, [one], mode=mode, upto_layer=upto_layer, **options)[0]


@checked
def intervene_many(
    model: LanguageModel,
    prompt: Prompt,
    several: Sequence[Sequence[Intervention]],
    *,
    mode: str = "constrained",
    upto_layer: int | None = None,
    memory_budget: int | str | None = None,
    **options: Unpack[PromptOptions],
) -> list[Effect]:
    """`intervene` several times on one prompt, which is run and split once; live modes go through in batches.

    Each effect is what it would be alone, but for rounding: matrix products of batches add up in another order.

    Args:
        model: as for `intervene`.
        prompt: as for `trace`.
        several: for each effect, which nodes are set to what.
        mode, upto_layer: as for `intervene`.
        memory_budget: bytes, or text such as "8G", for a batch; by default half of what is free. A batch has at least
            one run. Effects do not depend on it.
        options: prepend and skip_positions, as for `trace`.

    Raises:
        As `intervene`.
    """
    several = [list(each) for each in several]
    needs = mode.startswith("frozen") or needs_transcoders(one for each in several for one in each)
    local = take_apart(model, prompt, memory_budget=memory_budget, needs_transcoders=needs, **options)
    n_pos = local.run.n_pos
    changes = [resolve(local, with_values(model, local, each, n_pos, **options)) for each in several]
    return list(effects_of(model, local, changes, mode=mode, upto_layer=upto_layer, memory_budget=memory_budget))


def needs_transcoders(interventions: Iterable[Intervention]) -> bool:
    """Whether features or errors are set, which models without transcoders do not have."""
    return any(isinstance(node, tuple) and node[0] >= 0 for one in interventions for node in one.each())


@torch.no_grad()
def effects_of(
    model: LanguageModel,
    local: LocalReplacement,
    changes: Iterable[Changes],
    *,
    mode: str,
    upto_layer: int | None = None,
    memory_budget: int | str | None = None,
    allow_inexact: bool = False,
) -> Iterator[Effect]:
    """What follows from each of several changes of one prompt's run, one after the other; see `intervene_many`."""
    if mode not in MODES:
        raise InterventionError(f"mode is {mode!r}; expected one of {', '.join(MODES)}.")
    if mode.startswith("frozen") and not allow_inexact:
        check_replacement(local.frozen_deviation, model.precision)
    held = ((one, held_layers(local.run.n_layers, one.layers, mode, upto_layer)) for one in changes)
    if mode == "frozen":
        yield from _frozen_effects(model, local, (one for one, _ in held))
    elif mode == "frozen-attention":
        yield from _frozen_attention_effects(model, local, (one for one, _ in held))
    else:
        n_rows = _rows_at_once(model, local, memory_budget)
        while some := list(islice(held, n_rows)):
            batch, n_held = zip(*some, strict=True)
            yield from _live(model, local, batch, torch.tensor(n_held), mode)


def _frozen_effects(model: LanguageModel, local: LocalReplacement, changes: Iterable[Changes]) -> Iterator[Effect]:
    unchanged: dict[Site, Tensor] = {}  # of components, each recorded when it is first set
    for one in changes:
        check_not_of_patterns(one)
        sites = {each.site for each in one.components}
        unchanged |= recorded(model, local.run.token_ids, sites - unchanged.keys())
        change, would_read = frozen_change(local, one, {site: unchanged[site] for site in sites})
        yield _effect(model, local, one, "frozen", change, (local.active, would_read))


def _frozen_attention_effects(
    model: LanguageModel, local: LocalReplacement, changes: Iterable[Changes]
) -> Iterator[Effect]:
    """Effects against a run that is encoded in the same way: in half precision, rounding turns some features on or off.

    There, what is set begins at what it was recorded to be, so that scaling by 1 changes nothing.
    """
    shared = None if model.dtype.itemsize < 4 else with_frozen_attention(local, Changes())
    for one in changes:
        check_not_of_patterns(one)
        unchanged, before = shared or with_frozen_attention(local, one.undone())
        logits, after = with_frozen_attention(local, one)
        yield _effect(model, local, one, "frozen-attention", logits - unchanged, (before, after))


def _effect(
    model: LanguageModel,
    local: LocalReplacement,
    one: Changes,
    mode: str,
    change: Tensor,
    activations: tuple[ActiveFeatures, ActiveFeatures],
    logits: tuple[Tensor, Tensor] | None = None,
) -> Effect:
    """What followed from a change of the uncapped logits.

    Args:
        change: of the logits before soft-capping.
        activations: before and after.
        logits: the same; by default computed from the uncapped ones, as the model's own are rounded in half precision.
    """
    uncapped = local.run.uncapped_logits
    before, after = logits or (model.soft_cap(uncapped), model.soft_cap(uncapped + change))
    kl = divergence(before, after)
    check_finite((change, after, kl, activations[1].activation))
    top = _top(model, before), _top(model, after)
    return Effect(mode, before, after, change, float(kl), *top, _compare(*activations, one))


def held_layers(n_layers: int, layers: Sequence[int], mode: str, upto_layer: int | None) -> int:
    """How many layers, from the bottom, have their MLP outputs held when something is set at these layers.

    Raises:
        InterventionError: `upto_layer` in another mode than constrained, or out of range.
    """
    if mode != "constrained":
        if upto_layer is not None:
            raise InterventionError(f"upto_layer is for mode 'constrained'; the mode is {mode!r}.")
        return 0
    highest = max(layers, default=-1)
    last = highest if upto_layer is None else whole_number("upto_layer", upto_layer, least=0, error=InterventionError)
    if not highest <= last < n_layers:
        raise InterventionError(
            f"upto_layer is {last}; expected {max(highest, 0)} (the highest layer at which something is set) to "
            f"{n_layers - 1}."
        )
    return last + 1


def _rows_at_once(model: LanguageModel, local: LocalReplacement, memory_budget: int | str | None) -> int:
    """How many changed runs go through together."""
    memory = min(_BATCH_BYTES, budget_bytes(memory_budget, model.device) - local.run.pattern_bytes)
    n_pos, n_heads = local.run.n_pos, int(model.config.num_attention_heads)
    n_streams = 2 * model.n_layers + _BLOCK_STREAMS
    n_entries = 3 * n_heads * n_pos**2 + n_streams * n_pos * model.d_model + _LOGIT_COPIES * model.d_vocab
    return max(1, memory // (local.run.embedding.element_size() * n_entries))


def _live(
    model: LanguageModel, local: LocalReplacement, changes: Sequence[Changes], n_held: Tensor, mode: str
) -> Iterator[Effect]:
    """The true model's runs with MLP outputs changed; in a row's lowest `n_held` layers held at the recorded ones."""
    run, point, is_free = local.run, local.transcoders.config.feature_output_hook, mode == "free"
    writes = torch.stack([one.writes(local, own_layer_only=is_free) for one in changes])

    def change(layer: int, stream: Tensor, out: Tensor) -> Tensor:
        if is_free:
            for row, one in enumerate(changes):
                if one.reaches(layer):
                    set_from_now(writes[row], model, one.features, layer, stream[row], local.is_skipped)
            return out + writes[:, layer].to(out)
        if layer >= int(n_held.max()):
            return out
        is_held = (layer < n_held).to(out.device)[:, None, None]
        return torch.where(is_held, (run.blocks[layer].written(point) + writes[:, layer]).to(out), out)

    embedding = torch.stack([one.embedding(local) for one in changes])
    rows = [one.components for one in changes]
    sites = {each.site for row in rows for each in row}
    components = observed(model, sites, lambda site, x: apply_changes(site, x, rows))
    live = live_run(model, run, change, point=point, embedding=embedding, components=components)
    for row, one in enumerate(changes):
        streams = [stream[row] for stream in live.mlp_streams]
        reads = [live_read(model, local.transcoders, layer, stream) for layer, stream in enumerate(streams)]
        activations = local.active, local.transcoders.encode(reads, local.is_skipped)
        uncapped_change = live.uncapped_logits[row] - run.uncapped_logits
        # a copy: effects that are kept would keep the batch
        logits = run.logits, live.logits[row].clone()
        yield _effect(model, local, one, mode, uncapped_change, activations, logits)


def set_from_now(
    writes: Float[Tensor, "n_layers n_pos d_model"],
    model: LanguageModel,
    features: Mapping[FeatureKey, tuple[float, float]],
    layer: int,
    stream: Float[Tensor, "n_pos d_model"],
    is_skipped: Bool[Tensor, " n_pos"],
) -> None:
    """Of what set features of a layer write, leave out what has changed of them already.

    Args:
        writes: to be added to MLP outputs; changed.
        model: whose transcoders' features.
        features: what they were in the unchanged run and what they are set to, of all layers.
        layer: which.
        stream: what enters its MLP's norm now.
        is_skipped: positions without features.
    """
    here = [key for key in features if key[0] == layer]
    if here:
        transcoders = model.need_transcoders()
        read = live_read(model, transcoders, layer, widened(stream))
        now = transcoders.encode_one(layer, read, is_skipped).at(here)
        met = {key: (value, features[key][0]) for key, value in zip(here, now, strict=True)}
        add_changes(writes, transcoders, met, own_layer_only=True)


def live_read(
    model: LanguageModel, transcoders: Transcoders, layer: int, stream: Float[Tensor, "n_pos d_model"]
) -> Float[Tensor, "n_pos d_model"]:
    """What a layer's transcoder reads when this enters the MLP's norm, the norm having the scale that it then has."""
    norm = norm_before(transcoders.config.feature_input_hook, model.mlp_norm_of(layer, stream))
    return stream if norm is None else norm.apply(stream)


def _compare(before: ActiveFeatures, after: ActiveFeatures, changes: Changes) -> pd.DataFrame:
    """Activations before and after of all features active in either, or set."""
    parts = [before.codes, after.codes, before.codes_of(list(changes.features))]
    codes, place = torch.cat(parts).unique(return_inverse=True)
    at_before, at_after, at_set = place.split([len(part) for part in parts])
    values = torch.zeros(2, len(codes), dtype=torch.float64, device=codes.device)
    values[0, at_before], values[1, at_after] = before.activation.double(), after.activation.double()
    values[:, at_set] = values.new_tensor(list(changes.features.values())).reshape(-1, 2).T
    names = ("layer", "pos", "feature", "before", "after")
    return pd.DataFrame(
        {name: column.cpu().numpy() for name, column in zip(names, (*decoded(codes), *values), strict=True)}
    )


def _top(model: LanguageModel, logits: Tensor, n: int = 5) -> list[tuple[str, float]]:
    best = logits.double().softmax(-1).topk(min(n, len(logits)))
    return [(model.token_text(i), p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
