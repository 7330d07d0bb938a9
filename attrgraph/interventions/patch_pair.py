"""Two prompts, a clean and a corrupt one, run and laid side by side to be patched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from attrgraph.attribution.prepare import prepare
from attrgraph.errors import InterventionError, PromptError, listed
from attrgraph.interventions.answer_metrics import Measure, Metric, measure_of
from attrgraph.interventions.patch_choice import NodeChoice, chosen, kinds_of
from attrgraph.interventions.patch_sites import OF_TRANSCODERS, Patches, Places, Recorded, patches_of, record
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.models.special import PromptOptions, counted

DIRECTIONS = ("denoise", "noise")
# names of tokens, each with its position in the clean and in the corrupt prompt
Positions = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class PatchedPair:
    """Two runs, and what nodes of one would change in the other."""

    clean: Recorded
    corrupt: Recorded
    direction: str
    positions: dict[str, tuple[int, int]] | None
    measure: Measure
    patches: list[Patches]
    skipped: list[int]  # positions of the clean prompt without features
    unused: set[str]  # what was asked for and names no node

    @property
    def source(self) -> Recorded:
        """The run that nodes are taken from."""
        return self.clean if self.direction == "denoise" else self.corrupt

    @property
    def base(self) -> Recorded:
        """The run that is patched into."""
        return self.corrupt if self.direction == "denoise" else self.clean

    def metric_of(self, run: Recorded) -> float:
        """The metric of one of the runs, unpatched."""
        return float(self.measure.of(run.logits[None])[0])

    @property
    def total_effect(self) -> float:
        """Of patching everything."""
        return self.metric_of(self.source) - self.metric_of(self.base)


def run_pair(
    model: LanguageModel,
    prompts: tuple[Prompt, Prompt],
    nodes: Sequence[NodeChoice],
    metric: Metric | None,
    *,
    direction: str,
    positions: Positions | None,
    memory_budget: int | str | None,
    options: PromptOptions,
) -> PatchedPair:
    """Run both prompts, the clean and the corrupt one.

    Raises:
        InterventionError: a direction that there is not.
        PromptError: prompts of different lengths without `positions`, or positions that a prompt does not have.
    """
    if direction not in DIRECTIONS:
        raise InterventionError(f"direction is {direction!r:.60}; expected one of {', '.join(DIRECTIONS)}.")
    ids = [model.tokenize(prompt, prepend=options.get("prepend", "auto")) for prompt in prompts]
    named = None if positions is None else _counted(positions, len(ids[0]), len(ids[1]))
    if named is None and len(ids[0]) != len(ids[1]):
        raise PromptError(
            f"the clean prompt has {len(ids[0])} tokens, the corrupt one {len(ids[1])}, so positions do not "
            'correspond. Give prompts of one length, or name tokens that do: positions={"name": (clean, corrupt)}, '
            "--position name=CLEAN,CORRUPT."
        )
    runs, kinds = [], kinds_of(nodes)
    for prompt, token_ids in zip(prompts, ids, strict=True):
        local = None
        if any(kind in OF_TRANSCODERS for kind in kinds):
            local, _ = prepare(model, prompt, memory_budget=memory_budget, **options)
        runs.append(record(model, token_ids, kinds, local))
    places = _places(ids[0], named, direction)
    source, base = runs if direction == "denoise" else runs[::-1]
    measure = measure_of(model, metric, runs[0].logits, runs[1].logits)
    every = patches_of(model, kinds, source, base, places, ids[0])
    patches, unused = chosen(every, nodes, len(ids[0]))
    return PatchedPair(runs[0], runs[1], direction, named, measure, patches, _skipped(source, base, places), unused)


def _skipped(source: Recorded, base: Recorded, places: Places) -> list[int]:
    """Positions of the clean prompt that have no features, where features were looked for."""
    if source.local is None or base.local is None:
        return []
    is_skipped = source.local.is_skipped[places.source] | base.local.is_skipped[places.base]
    return places.clean[is_skipped].tolist()


def _counted(positions: Positions, n_clean: int, n_corrupt: int) -> dict[str, tuple[int, int]]:
    """Positions from the beginning, each once."""
    found = dict[str, tuple[int, int]]()
    for name, pair in positions.items():
        two = listed(pair)
        if two is None or len(two) != 2:
            raise PromptError(f"positions has {name!r:.60}: {pair!r:.60}; expected (clean position, corrupt position).")
        places = zip(two, (n_clean, n_corrupt), ("clean", "corrupt"), strict=True)
        found[name] = tuple(
            counted(pos, n, f"position of {name!r:.60} in the {side} prompt") for pos, n, side in places
        )  # type: ignore[assignment]
    if not found:
        raise PromptError('positions is empty; expected {"name": (clean position, corrupt position), ...}.')
    for side, which in enumerate(("clean", "corrupt")):
        taken = [pair[side] for pair in found.values()]
        if len(set(taken)) < len(taken):
            raise PromptError(f"positions has a position of the {which} prompt twice: {sorted(taken)}.")
    return found


def _places(clean_ids: Int[Tensor, " n_pos"], named: dict[str, tuple[int, int]] | None, direction: str) -> Places:
    if named is None:
        every = torch.arange(len(clean_ids), device=clean_ids.device)
        return Places(every, every, every)
    clean, corrupt = torch.tensor(sorted(named.values()), device=clean_ids.device).T
    return Places(clean, clean, corrupt) if direction == "denoise" else Places(clean, corrupt, clean)
