"""Runs in which some heads and MLPs are as they are, and all others what they are in another run."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attrgraph.circuits.replacing import Answers, Metric, Part, measured, parts_of
from attrgraph.errors import InterventionError, PromptError, ResultError
from attrgraph.models.components import Site, observed
from attrgraph.models.language_model import LanguageModel
from attrgraph.prompts.prompt_pairs import PromptPair

ABLATIONS = ("counterfactual", "resample", "mean", "zero")
# of what components compute, for one batch: chosen, not tuned
_BATCH_BYTES = 2**28
# of each site, what all positions compute: [n_rows, n_pos, n_heads, d_head] or [n_rows, n_pos, d_model]; or one row
Values = Mapping[Site, Tensor]


@dataclass(frozen=True)
class Batch:
    """Pairs of one length, and the prompts whose values take the place of what is replaced."""

    of_pair: Int[np.ndarray, " n_rows"]  # which pairs these are
    pairs: list[PromptPair]
    clean: Int[Tensor, "n_rows n_pos"]
    corrupt: Int[Tensor, "n_rows n_pos"]
    others: Int[Tensor, "n_rows n_pos"]  # prompts of other pairs


class CircuitRuns:
    """The model on many pairs, with any of its heads and MLPs replaced, all layers live.

    Args:
        model: a language model.
        pairs: prompts and their twins.
        kinds: which components may be replaced: head, mlp.
        metric: see `replacing.measured`.
        ablation: what takes a component's place: its value in the corrupt run (counterfactual), in the run of another
            clean prompt of the same length (resample), its mean over all prompts, clean and corrupt, of the same length
            at the same position (mean), or zero.
        seed: of the other prompts.
    """

    def __init__(
        self,
        model: LanguageModel,
        pairs: Sequence[PromptPair],
        *,
        kinds: Sequence[str] = ("head", "mlp"),
        metric: Metric = "logit-difference",
        ablation: str = "counterfactual",
        seed: int = 0,
    ) -> None:
        self.model, self.pairs, self.metric, self.ablation = model, list(pairs), metric, ablation
        self.parts: list[Part] = parts_of(model, kinds)
        self.sites = list(dict.fromkeys(part.site for part in self.parts))
        _check(self.pairs, ablation)
        self._batches = list(self._in_batches(np.random.default_rng(seed)))
        self._means = self._mean_values() if ablation == "mean" else {}

    @property
    def n_parts(self) -> int:
        return len(self.parts)

    def _in_batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        by_length = dict[int, list[int]]()
        for i, pair in enumerate(self.pairs):
            by_length.setdefault(len(pair.clean), []).append(i)
        for length, of_pair in sorted(by_length.items()):
            if len(of_pair) < 2 and self.ablation in ("resample", "mean"):
                raise PromptError(
                    f"ablation {self.ablation!r} takes values of other prompts of the same length, and only one pair "
                    f"has {length} tokens; give more pairs, or take 'counterfactual'."
                )
            drawn = rng.permutation(of_pair)
            other_of = dict(zip(drawn.tolist(), np.roll(drawn, 1).tolist(), strict=True))
            row_bytes = 8 * length * len(self.sites) * self.model.d_model
            n_at_once = max(1, _BATCH_BYTES // row_bytes)
            for start in range(0, len(of_pair), n_at_once):
                rows = of_pair[start : start + n_at_once]
                chosen = [self.pairs[i] for i in rows]
                other = [self.pairs[other_of[i]].clean for i in rows]
                tokens = ([pair.clean for pair in chosen], [pair.corrupt for pair in chosen], other)
                yield Batch(np.array(rows), chosen, *(torch.tensor(t, device=self.model.device) for t in tokens))

    def _values(self, token_ids: Int[Tensor, "n_rows n_pos"]) -> tuple[Values, Tensor]:
        """What the components compute, and the logits at the last position."""
        found = dict[Site, Tensor]()
        with torch.no_grad(), observed(self.model, self.sites, found.__setitem__):
            logits = self.model.logits(token_ids, logits_to_keep=1)[:, -1]
        return found, logits

    def _mean_values(self) -> dict[int, Values]:
        """By length, the mean at every position over the clean and corrupt prompts."""
        sums, counts = dict[int, dict[Site, Tensor]](), dict[int, int]()
        for batch in self._batches:
            for tokens in (batch.clean, batch.corrupt):
                of_length = sums.setdefault(tokens.shape[1], {})
                counts[tokens.shape[1]] = counts.get(tokens.shape[1], 0) + len(tokens)
                for site, x in self._values(tokens)[0].items():
                    of_length[site] = of_length.get(site, 0) + x.double().sum(0, keepdim=True)
        return {n: {site: total / counts[n] for site, total in found.items()} for n, found in sums.items()}

    def _replacement(self, batch: Batch) -> tuple[Values, Tensor | None]:
        """What takes the components' places, and the logits if everything is replaced, the embeddings too."""
        if self.ablation == "mean":
            return self._means[batch.clean.shape[1]], None
        if self.ablation == "zero":
            return {site: torch.zeros((), device=self.model.device) for site in self.sites}, None
        return self._values(batch.corrupt if self.ablation == "counterfactual" else batch.others)

    @torch.no_grad()
    def measure(self, kept: Bool[np.ndarray, "n_sets n_parts"]) -> Answers:
        """The metric and whether the answer is right, of each set of components that is kept, for every pair.

        Whatever is not kept is replaced. Of an empty set that leaves heads and MLPs nothing of the prompt's, embeddings
        are replaced too where there is a run to take them from.
        """
        found = Answers.empty(len(kept), len(self.pairs))
        is_all = {part.kind for part in self.parts} == {"head", "mlp"}
        for batch in self._batches:
            source, replaced_logits = self._replacement(batch)
            for i, keep in enumerate(kept):
                if replaced_logits is not None and is_all and not keep.any():
                    logits = replaced_logits
                else:
                    with observed(self.model, self._sites_replaced(keep), self._replacing(keep, source)):
                        logits = self.model.logits(batch.clean, logits_to_keep=1)[:, -1]
                found.put(i, batch.of_pair, logits, batch.pairs, self.metric)
        if not bool(np.isfinite(found.metric).all()):
            raise ResultError("the metric is not finite for all prompts; take another metric.")
        return found

    def _sites_replaced(self, keep: Bool[np.ndarray, " n_parts"]) -> list[Site]:
        return list(dict.fromkeys(part.site for part, is_kept in zip(self.parts, keep, strict=True) if not is_kept))

    def _replacing(self, keep: Bool[np.ndarray, " n_parts"], source: Values) -> Callable[[Site, Tensor], Tensor]:
        """What `observed` calls, so that only what is kept stays."""
        is_kept = self._by_site(keep)

        def replace(site: Site, x: Tensor) -> Tensor:
            stays = is_kept[site].to(x.device)
            return torch.where(stays[:, None] if site.kind == "head" else stays, x, source[site].to(x))

        return replace

    def _by_site(self, keep: Bool[np.ndarray, " n_parts"]) -> dict[Site, Bool[Tensor, " _n"]]:
        """[n_heads] of a layer's heads, [1] of an MLP."""
        found = dict[Site, list[bool]]()
        for part, is_kept in zip(self.parts, keep.tolist(), strict=True):
            found.setdefault(part.site, []).append(is_kept)
        return {site: torch.tensor(flags) for site, flags in found.items()}

    def attribution(self, *, is_direct: bool = False) -> Float[np.ndarray, "n_pairs n_parts"]:
        """(clean - corrupt) . gradient of the metric in the corrupt run: what a clean component would do there.

        With `is_direct`, only by way of the stream: all other components are held at what they are in that run.
        """
        found, keep = np.zeros((len(self.pairs), self.n_parts)), np.full(self.n_parts, not is_direct)
        for batch in self._batches:
            clean, corrupt = self._values(batch.clean)[0], self._values(batch.corrupt)[0]
            found[batch.of_pair] = self._first_order(batch, batch.corrupt, keep, corrupt, clean)
        return found

    def harm(self, keep: Bool[np.ndarray, " n_parts"]) -> Float[np.ndarray, " n_parts"]:
        """To first order, by how much the mean metric falls if one more component is replaced."""
        found = np.zeros((len(self.pairs), self.n_parts))
        for batch in self._batches:
            source, _ = self._replacement(batch)
            found[batch.of_pair] = -self._first_order(batch, batch.clean, keep, source, source)
        return np.asarray(found.mean(0))

    def _first_order(
        self, batch: Batch, token_ids: Tensor, keep: Bool[np.ndarray, " n_parts"], source: Values, instead: Values
    ) -> Float[np.ndarray, "n_rows n_parts"]:
        """(instead - now) . gradient of the metric, for every component, in a run in which only some are kept."""
        replace, seen = self._replacing(keep, source), dict[Site, tuple[Tensor, Tensor]]()

        def see(site: Site, x: Tensor) -> Tensor:
            now = replace(site, x)
            seen[site] = (now.detach(), torch.zeros_like(now, requires_grad=True))
            return now + seen[site][1]

        with torch.enable_grad(), observed(self.model, self.sites, see):
            logits = self.model.logits(token_ids, logits_to_keep=1)[:, -1]
            total = measured(logits, batch.pairs, self.metric).sum()
        gradients = torch.autograd.grad(total, [leaf for _, leaf in seen.values()], allow_unused=True)
        effects = dict[Site, Tensor]()
        for (site, (now, _)), gradient in zip(seen.items(), gradients, strict=True):
            change = (instead[site].to(now) - now) * (torch.zeros_like(now) if gradient is None else gradient)
            effects[site] = change.sum((1, 3)) if site.kind == "head" else change.sum((1, 2))[:, None]
        columns = [effects[part.site][:, part.head or 0] for part in self.parts]
        return np.asarray(torch.stack(columns, 1).double().cpu().numpy())

    def sizes(self) -> Float[np.ndarray, " n_parts"]:
        """Of each component, the root mean square of the length of what it writes, over clean prompts and positions."""
        squares, n_positions = np.zeros(self.n_parts), 0
        for batch in self._batches:
            values, _ = self._values(batch.clean)
            n_positions += batch.clean.numel()
            for i, part in enumerate(self.parts):
                squares[i] += float(part.written(self.model, values[part.site]).double().square().sum())
        return np.sqrt(squares / n_positions)


def _check(pairs: Iterable[PromptPair], ablation: str) -> None:
    pairs = list(pairs)
    if not pairs or not all(isinstance(pair, PromptPair) for pair in pairs):
        raise PromptError("expected a list of pairs; make them with prompts_of, or with PromptPair.of.")
    if ablation not in ABLATIONS:
        raise InterventionError(f"ablation {ablation!r:.60} is not known; expected one of {', '.join(ABLATIONS)}.")
