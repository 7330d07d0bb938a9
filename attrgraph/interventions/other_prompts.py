"""What nodes are in other prompts: their means over texts, or what they are at the same position of another prompt."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

from torch import Tensor

from attrgraph.attribution.direction import Direction
from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.errors import InterventionError, listed
from attrgraph.interventions.component_changes import recorded, unit_of
from attrgraph.interventions.intervention import Intervention, named, positions_of
from attrgraph.interventions.node_names import EMBEDDING, Component, Place, counted
from attrgraph.interventions.take_apart import take_apart
from attrgraph.models.components import Site
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import PromptOptions


def with_values(
    model: LanguageModel,
    local: LocalReplacement,
    sets: Iterable[Intervention],
    n_total: int,
    **options: Unpack[PromptOptions],
) -> list[Intervention]:
    """The same interventions, those by `mean` and `from_prompt` by the values that the other prompts give.

    Args:
        model: which runs the other prompts.
        local: of the prompt whose nodes are set.
        sets: the interventions.
        n_total: positions that the text can come to have, of which another prompt has those of the prompt only.
        options: as for the prompt; positions to skip are found anew if they were named one by one.

    Raises:
        InterventionError: another prompt is of another length, or its nodes are not there.
        PromptError, TranscoderError: as for the prompt.
    """
    if not isinstance(options.get("skip_positions", "auto"), str):
        options = {**options, "skip_positions": "auto"}
    found = list[Intervention]()
    for one in sets:
        nodes = one.each()
        if one.mean is not None:
            means = _means(_Other.of(model, prompt, nodes, options) for prompt in _prompts(one.mean))
            found += map(_valued, nodes, means)
        elif one.from_prompt is not None:
            other = _Other.of(model, one.from_prompt, nodes, options)
            if other.local.run.n_pos != local.run.n_pos:
                raise InterventionError(
                    f"from_prompt has {other.local.run.n_pos} tokens, the prompt {local.run.n_pos}; nodes are taken "
                    "from the same position, so give a prompt of the same length."
                )
            found += (each for node in nodes for each in _resampled(local, other, node, n_total))
        else:
            found.append(one)
    return found


def _means(others: Iterable["_Other"]) -> list[Tensor]:
    """Of each node over the counted positions of all runs, of which one is in memory at a time."""
    sums, n = list[Tensor](), 0
    for other in others:
        if not bool(other.is_counted.any()):
            raise InterventionError("mean: all positions of a text are skipped; give longer ones.")
        each = [other.values(node)[other.is_counted].double().sum(0) for node in other.nodes]
        sums = each if not n else [before + new for before, new in zip(sums, each, strict=True)]
        n += int(other.is_counted.sum())
    return [each / n for each in sums]


def _prompts(mean: Any) -> list[Any]:
    """One prompt, text, ids or messages, or several."""
    if isinstance(mean, str) or getattr(mean, "ndim", 0) == 1:
        return [mean]
    each = listed(mean)
    if not each:
        raise InterventionError(f"mean is {mean!r:.60}; expected a text, or a list of texts.")
    return [mean] if isinstance(each[0], int | Mapping) else each


@dataclass(frozen=True)
class _Other:
    """Another prompt's run, and what the components in question are there."""

    nodes: Sequence[Place]
    local: LocalReplacement
    recorded: Mapping[Site, Tensor]
    is_counted: Tensor

    @staticmethod
    def of(model: LanguageModel, prompt: Any, nodes: Sequence[Place], options: PromptOptions) -> "_Other":
        needs_transcoders = any(isinstance(node, tuple) and node[0] >= 0 for node in nodes)
        local = take_apart(model, prompt, needs_transcoders=needs_transcoders, **options)
        sites = {_site_of(node) for node in nodes if isinstance(node, Component | Direction)}
        return _Other(nodes, local, recorded(model, local.run.token_ids, sites), ~local.is_skipped)

    def values(self, node: Place) -> Tensor:
        """What the node is at each position, [n_pos] or [n_pos, width]."""
        if isinstance(node, Direction):
            stream = self.recorded[_site_of(node)]
            return stream @ unit_of(node).to(stream)
        if isinstance(node, Component):
            x = self.recorded[_site_of(node)]
            if node.head is not None and node.head >= x.shape[1]:
                raise InterventionError(f"{node.name}: the model has {node.kind} of heads 0 to {x.shape[1] - 1}.")
            return x if node.head is None else x[:, node.head]
        if isinstance(node, str):
            return self.local.run.embedding
        layer, feature, _ = node
        if layer == feature == -1:
            return self.local.run.embedding
        if not 0 <= layer < self.local.run.n_layers:
            raise InterventionError(f"{node}: the model has layers 0 to {self.local.run.n_layers - 1}.")
        if feature == -1:
            return self.local.errors[layer]
        keys = [(layer, feature, pos) for pos in range(self.local.run.n_pos)]
        return self.local.errors.new_tensor(self.local.active.at(keys))


def _resampled(local: LocalReplacement, other: _Other, node: Place, n_total: int) -> Iterator[Intervention]:
    """The node position by position, each set to what it is in the other prompt."""
    values, n_pos = other.values(node), local.run.n_pos
    if isinstance(node, str):
        match = EMBEDDING.fullmatch(node)
        yield _valued(node, values[int(match[2])] if match and int(match[2]) < n_pos else values[0])
        return
    where = node[2] if isinstance(node, tuple) else positions_of(node)
    positions = counted(where, n_pos, n_total)
    if positions and positions[-1] >= n_pos:
        name = node if isinstance(node, tuple) else named(node)
        raise InterventionError(
            f"{name}: from_prompt has no tokens beyond position {n_pos - 1}; name positions of the prompt, such as @0:"
            f"{n_pos}."
        )
    for pos in positions:
        if isinstance(node, tuple) and node[0] >= 0:  # a feature or an error
            if isinstance(where, slice) and (bool(local.is_skipped[pos]) or not bool(other.is_counted[pos])):
                continue
            if not bool(other.is_counted[pos]):
                raise InterventionError(f"{node}: from_prompt has no features at position {pos}: it is skipped there.")
        yield _valued(_at(node, pos), values[pos])


def _at(node: tuple[int, int, Any] | Component | Direction, pos: int) -> Any:
    if isinstance(node, tuple):
        return (*node[:2], pos)
    return replace(node, pos=pos) if isinstance(node, Direction) else replace(node, positions=pos)


def _valued(node: Any, value: Tensor) -> Intervention:
    return Intervention([node], value=value.tolist() if value.ndim else float(value))


def _site_of(node: Component | Direction) -> Site:
    return Site("resid", node.layer) if isinstance(node, Direction) else Site(node.kind, node.layer)
