"""Go on with a text while nodes are changed.

Every new token is the one that `intervene` makes the most probable on the text so far. Changes refer to what the
unchanged model does on the same text: it runs as the other row of a batch of two, so that its
activations and MLP outputs are there when they are needed, with a key-value cache as without.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn.functional import pad

from attrgraph.attribution.direction import Direction
from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.errors import InterventionError, checked, whole_number
from attrgraph.interventions.component_changes import apply_changes
from attrgraph.interventions.intervene import held_layers, live_read, needs_transcoders, set_from_now
from attrgraph.interventions.intervention import Changes, Intervention, add_changes, component_changes, resolve
from attrgraph.interventions.node_names import Component, Positions, counted
from attrgraph.interventions.other_prompts import with_values
from attrgraph.interventions.take_apart import take_apart
from attrgraph.models.cached_run import CachedRun
from attrgraph.models.components import observed
from attrgraph.models.frozen import widened
from attrgraph.models.hooks import on_input
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.live import check_finite, replaced_mlps
from attrgraph.models.special import PromptOptions
from attrgraph.progress import Progress, shown
from attrgraph.transcoders.transcoders import FeatureKey

_LIVE_MODES = ("constrained", "free")


@dataclass(frozen=True)
class Generated:
    """New tokens."""

    token_ids: list[int]
    tokens: list[str]
    text: str


@torch.no_grad()
@checked
def generate(
    model: LanguageModel,
    prompt: Prompt,
    interventions: Intervention | Sequence[Intervention] = (),
    *,
    max_new_tokens: int = 20,
    mode: str = "constrained",
    upto_layer: int | None = None,
    use_cache: bool = True,
    progress: Progress | None = None,
    **options: Unpack[PromptOptions],
) -> Generated:
    """Go on with a prompt, token by most probable token, with some nodes changed.

    Args:
        model: a language model; features and errors need transcoders.
        prompt: as for `trace`.
        interventions: as for `intervene`. At positions given as an open slice (`(3, 458, slice(8, None))`) a feature is
            set at new tokens too, and so are components (`head:2.0@8:`), also those without positions (`head:2.0`).
        max_new_tokens: the end, unless the model's context or its end-of-text token comes first.
        mode, upto_layer: constrained or free, as for `intervene`; what is frozen in the other modes does not exist for
            tokens that are new.
        use_cache: keep keys and values instead of running the whole text for every token; the text is the same.
        progress: called as `progress("text", done, total)` before each token.
        options: prepend and skip_positions, as for `trace`.

    Raises:
        InterventionError: as `intervene`, or a mode with frozen attention.
        PromptError, TranscoderError, ResultError: as for `trace`, or numbers overflow.

    Example:
        >>> import attrgraph as ag
        >>> prompt = "in the state containing dallas the capital is"
        >>> ag.generate(ag.load_model("demo"), prompt, max_new_tokens=1).text
        'austin'
    """
    max_new_tokens = whole_number("max_new_tokens", max_new_tokens, least=0, error=InterventionError)
    if mode not in _LIVE_MODES:
        raise InterventionError(f"mode is {mode!r}; text can be generated in mode {' or '.join(_LIVE_MODES)}.")
    sets = [interventions] if isinstance(interventions, Intervention) else list(interventions)
    local = take_apart(model, prompt, needs_transcoders=needs_transcoders(sets), **options)
    token_ids, new_ids = local.run.token_ids.tolist(), list[int]()
    # the last token is predicted, not read
    n_new, ends = min(max_new_tokens, model.n_context - len(token_ids) + 1), _ends_of_text(model)
    sets = with_values(model, local, sets, n_total := len(token_ids) + n_new, **options)
    steering = _Steering(model, local, sets, (mode, upto_layer), n_total)
    read, fed, tell = CachedRun(model), token_ids, shown(progress)
    while len(new_ids) < n_new:
        start = len(token_ids) + len(new_ids) - len(fed)
        tell("text", len(new_ids), n_new)
        with model.eager(), steering.at(start, len(fed)):
            logits = read(torch.tensor([fed, fed], device=model.device))
        if use_cache and read.is_stale:
            read, fed = CachedRun(model), token_ids + new_ids
            continue
        new_ids.append(int(logits[1].argmax()))
        if new_ids[-1] in ends:
            break
        read, fed = (read, new_ids[-1:]) if use_cache else (CachedRun(model), token_ids + new_ids)
    return Generated(new_ids, [model.token_text(i) for i in new_ids], model.text_of(new_ids))


class _Steering:
    """What is set where, and the MLP outputs that follow."""

    def __init__(
        self,
        model: LanguageModel,
        local: LocalReplacement,
        sets: Sequence[Intervention],
        held: tuple[str, int | None],
        n_total: int,
    ) -> None:
        """`held`: mode and upto_layer; `n_total`: positions that the text can come to have."""
        mode, upto_layer = held
        self._model, self._local, self._is_free = model, local, mode == "free"
        fixed, self._several = _split(local, sets, n_total)
        self._components = component_changes(local, sets, n_total)
        if sets and not fixed and not self._several and not self._components:
            raise InterventionError("nothing is set; name at least one node.")
        self._fixed = resolve(local, fixed) if fixed else Changes()
        layers = [layer for _, layer, _, _ in self._several]
        self._n_held = held_layers(local.run.n_layers, self._fixed.layers + layers, mode, upto_layer)
        # nothing is set at new positions but by `several`
        n_new = n_total - local.run.n_pos
        self._is_skipped, self._embedding = (
            pad(local.is_skipped, (0, n_new)),
            pad(self._fixed.embedding(local), (0, 0, 0, n_new)),
        )
        self._writes = pad(self._fixed.writes(local, own_layer_only=self._is_free), (0, 0, 0, n_new))

    @contextmanager
    def at(self, start: int, n: int) -> Iterator[None]:
        """While the model runs on `n` tokens from position `start` on.

        Raises:
            ResultError: what entered a norm overflows.
        """
        embedding = self._embedding[start : start + n]
        writes = self._writes[:, start : start + n].clone()

        def change(layer: int, stream: Tensor, out: Tensor) -> Tensor:
            features = self._set_at(layer, widened(stream[0]), start)
            add_changes(writes, self._local.transcoders, features, own_layer_only=self._is_free)
            if self._is_free:
                self._set_from_now(writes, layer, stream[1], start, features)
            is_held = layer < self._n_held
            if not (is_held or self._is_free):
                return out
            return torch.stack([out[0], out[0 if is_held else 1] + writes[layer].to(out)])

        point = self._local.transcoders.config.feature_output_hook
        rows = torch.stack([torch.zeros_like(embedding), embedding])
        sites = {one.site for one in self._components}
        norms, squares = [self._model.mlp_norm_module(layer) for layer in range(self._model.n_layers)], list[Tensor]()
        norms.append(self._model.final_norm_module())
        with (
            replaced_mlps(self._model, change, point=point, embedding=rows),
            observed(self._model, sites, lambda site, x: apply_changes(site, x, [(), self._components], start)),
            on_input(norms, lambda _, stream: squares.append(widened(stream).square().sum())),
        ):
            yield
        check_finite([torch.stack(squares)])

    def _set_from_now(
        self, writes: Tensor, layer: int, stream: Tensor, start: int, several: dict[FeatureKey, tuple[float, float]]
    ) -> None:
        """See `set_from_now`. Positions of `writes`, `stream` and `several` are counted from `start`."""
        end = start + len(stream)
        fixed = self._fixed.features.items()
        here = {(at, f, pos - start): values for (at, f, pos), values in fixed if start <= pos < end} | several
        set_from_now(writes, self._model, here, layer, stream, self._is_skipped[start:end])

    def _set_at(self, layer: int, stream: Tensor, start: int) -> dict[FeatureKey, tuple[float, float]]:
        """Features of one layer that are set at several positions, those counted from `start`: before and after."""
        here = [(one, feature, positions) for one, at, feature, positions in self._several if at == layer]
        if not here:
            return {}
        is_skipped = self._is_skipped[start : start + len(stream)]
        read = live_read(self._model, self._local.transcoders, layer, stream)
        active = self._local.transcoders.encode_one(layer, read, is_skipped)
        found: dict[FeatureKey, tuple[float, float]] = {}
        for one, feature, positions in here:
            places = [i for i in range(len(stream)) if start + i in positions and not bool(is_skipped[i])]
            keys = [(layer, feature, i) for i in places]
            for key, now in zip(keys, active.at(keys), strict=True):
                place = layer, feature, start + key[2]
                if key in found or place in self._fixed.features:
                    raise InterventionError(f"node {place} is set twice; set it once.")
                found[key] = now, one.activation(now)
        return found


def _split(
    local: LocalReplacement, sets: Sequence[Intervention], n_total: int
) -> tuple[list[Intervention], list[tuple[Intervention, int, int, range]]]:
    """Nodes at one position of the prompt, and the other features: how they are set, layer, feature, positions."""
    fixed, several = list[Intervention](), list[tuple[Intervention, int, int, range]]()
    n_prompt, n_features = local.run.n_pos, local.transcoders.n_features
    for one in sets:
        for node in one.each():
            if isinstance(node, Component | Direction):
                continue
            if isinstance(node, str) or (isinstance(node[2], int) and node[2] < n_prompt):
                fixed.append(replace(one, nodes=[node]))
                continue
            if node[1] == -1:
                fixed.append(replace(one, nodes=[(node[0], -1, _of_prompt(node, n_prompt))]))
                continue
            layer, feature, positions = node[0], node[1], counted(node[2], n_prompt, n_total)
            if not 0 <= layer < len(n_features) or not 0 <= feature < n_features[layer]:
                raise InterventionError(
                    f"feature {feature} of layer {layer} does not exist; there are {len(n_features)} layers of "
                    f"{max(n_features)} features."
                )
            if not any(pos in positions for pos in range(n_total)):
                raise InterventionError(f"{node}: the text does not reach any of these positions.")
            one.check_width(f"{node} (a feature)", None)
            several.append((one, layer, feature, positions))
    return fixed, several


def _of_prompt(node: tuple[int, int, Positions], n_prompt: int) -> slice:
    """The positions of an error, which new tokens' runs are not split into."""
    layer, _, positions = node
    what, name = ("embeddings", "embedding") if layer == -1 else ("errors", f"{layer}/-1")
    where = counted(positions, n_prompt, n_prompt)
    is_open = isinstance(positions, int) or positions.stop is None or positions.stop > n_prompt
    if is_open or not where:
        raise InterventionError(
            f"{name}: {what} are set at positions of the prompt, 0 to {n_prompt - 1}; write {name}@0:{n_prompt}."
        )
    return slice(where.start, where.stop, where.step)


def _ends_of_text(model: LanguageModel) -> set[int]:
    """Tokens that end a text, by the tokenizer and the model's configurations."""
    found = set[int]()
    for settings in (model.tokenizer, model.config, getattr(model.hf_model, "generation_config", None)):
        ends: Any = getattr(settings, "eos_token_id", None)
        found.update(ends if isinstance(ends, list | tuple) else [] if ends is None else [ends])
    return found
