"""Which nodes are patched, as people write it: kinds, or single nodes of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from attrgraph.errors import InterventionError
from attrgraph.interventions.patch_sites import OF_TRANSCODERS, PATCHED_KINDS, Patches
from attrgraph.models.components import KINDS, Site, check_site
from attrgraph.models.language_model import LanguageModel
from attrgraph.schema import canonical_id

# without a choice, and of them those that graphs have
DEFAULT_KINDS = ("feature", "error", "head", "attn", "mlp", "resid", "embedding")
GRAPH_KINDS = ("feature", "error", "embedding")
_PLACE = r"@(?:(?P<pos>-?\d{1,9})|(?P<start>-?\d{1,9})?:(?P<stop>-?\d{1,9})?)"
# KIND, KIND:LAYER, KIND:LAYER.HEAD, each with a position or a range of them
_COMPONENT = re.compile(rf"(?P<kind>[a-z_]+)(?::(?P<layer>\d{{1,6}})(?:\.(?P<head>\d{{1,6}}))?)?(?:{_PLACE})?")
_FEATURE = re.compile(rf"(?P<layer>\d{{1,6}})/(?P<feature>-1|\d{{1,18}})(?:{_PLACE})?")
_IDS = (
    re.compile(r"(?P<layer>\d{1,6})_(?P<feature>-1|\d{1,18})_(?P<pos>\d{1,9})"),
    re.compile(r"(?P<kind>E)_(?P<feature>\d{1,18})_(?P<pos>\d{1,9})"),
)


@dataclass(frozen=True)
class NodeChoice:
    """All nodes of a kind, or those of one layer, head, feature, and of some positions; None for all."""

    text: str
    kind: str
    layer: int | None = None
    head: int | None = None
    feature: int | None = None
    positions: int | slice | None = None

    def holds(self, patches: Patches, n_pos: int) -> Bool[Tensor, " n"]:
        """Which nodes are among those, of a clean prompt of so many tokens."""
        found = torch.full((len(patches),), True, device=patches.pos.device)
        if patches.kind != self.kind or self.layer not in (None, patches.layer):
            return ~found
        for wanted, numbers in ((self.head, patches.head), (self.feature, patches.feature)):
            if wanted is not None and numbers is not None:
                found &= numbers == wanted
        if self.positions is not None:
            every = torch.zeros(n_pos, dtype=torch.bool, device=found.device)
            if not isinstance(self.positions, int) or -n_pos <= self.positions < n_pos:
                every[self.positions] = True
            found &= every[patches.pos]
        return found


def choose_nodes(
    model: LanguageModel, nodes: Sequence[str] | str | None, *, of_graphs: bool = False
) -> list[NodeChoice]:
    """The nodes that are asked for; without a choice, those of the usual kinds that the model, or its graphs, have.

    Raises:
        InterventionError: none, something that names no node, or one that the model does not have.
        TranscoderError: features or errors without transcoders.
    """
    if nodes is None:
        kinds = GRAPH_KINDS if of_graphs else DEFAULT_KINDS
        return [
            NodeChoice(k, k) for k in kinds if of_graphs or model.transcoders is not None or k not in OF_TRANSCODERS
        ]
    found = [_read(one) for one in ([nodes] if isinstance(nodes, str) else nodes)]
    if not found:
        raise InterventionError(f"nodes is empty; expected some of {', '.join(PATCHED_KINDS)}.")
    for one in found:
        if found.count(one) > 1:
            raise InterventionError(f"nodes names {one.text!r} twice; name it once.")
        if one.kind in KINDS:
            check_site(model, Site(one.kind, one.layer or 0))
        if one.kind in OF_TRANSCODERS:
            model.need_transcoders()
    return found


def kinds_of(choices: Sequence[NodeChoice]) -> list[str]:
    """The kinds that are needed."""
    return list(dict.fromkeys(one.kind for one in choices))


def chosen(patches: Sequence[Patches], choices: Sequence[NodeChoice], n_pos: int) -> tuple[list[Patches], set[str]]:
    """Those nodes that are asked for, and what named some of a kind but is none of them."""
    kept, unused = list[Patches](), {one.text for one in choices if one.text != one.kind}
    for one in patches:
        is_wanted = torch.zeros(len(one), dtype=torch.bool, device=one.pos.device)
        for choice in choices:
            held = choice.holds(one, n_pos)
            is_wanted |= held
            if bool(held.any()):
                unused.discard(choice.text)
        if bool(is_wanted.any()):
            kept.append(one.where(is_wanted))
    return kept, unused


def _read(text: str) -> NodeChoice:
    name = canonical_id(text.strip())
    matches = [pattern.fullmatch(name) for pattern in (_COMPONENT, _FEATURE, *_IDS)]
    match = next((found for found in matches if found is not None), None)
    parts = match.groupdict() if match is not None else {}
    number = {key: int(parts[key]) for key in ("layer", "head", "feature", "pos", "start", "stop") if parts.get(key)}
    kind = parts.get("kind") or ("error" if number.get("feature") == -1 else "feature")
    kind = "embedding" if kind == "E" else kind
    has_own = not (kind in GRAPH_KINDS and matches[0] is not None and "layer" in number)
    is_headed = "head" not in number or kind in ("q", "k", "v", "head")
    if match is None or kind not in PATCHED_KINDS or not has_own or not is_headed:
        raise InterventionError(
            f"nodes has {text!r:.60}; expected some of {', '.join(PATCHED_KINDS)}; or of one kind head:1, head:1.2@8, "
            "mlp:2@3:6, resid@-1, 3/458, 3_458_8 or E_145_5."
        )
    positions: int | slice | None = number.get("pos")
    if positions is None and "@" in name:
        positions = slice(number.get("start"), number.get("stop"))
    feature = None if kind == "error" else number.get("feature")
    return NodeChoice(text, kind, number.get("layer"), number.get("head"), feature, positions)
