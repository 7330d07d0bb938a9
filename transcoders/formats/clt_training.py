"""clt-training (EleutherAI): sparsify's folders, with decoders into all layers above, or into the next few.

`W_decs.{i}`, `b_decs.{i}`, `W_skips.{i}` write into the `i`-th layer above of those that have a folder; `W_dec`,
`b_dec` and `W_skip` repeat the first. A target's bias is the sum over what writes into it. With `normalize_io` what is
read is scaled to norm sqrt(d_model) by `in_norm`, what is written by the target's `out_norm`. Decoders may be those of
the target instead: with `coalesce_topk: per-layer` a part for each source that writes into it, with `concat` one for
all; or with `per_source_tied` the source's one for all targets.

Source: github.com/EleutherAI/clt-training, `SparseCoder` and `CrossLayerRunner`
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attrgraph.errors import TranscoderError
from attrgraph.transcoders.config import CROSS_LAYER, PER_LAYER, TranscoderConfig
from attrgraph.transcoders.formats import sparsify
from attrgraph.transcoders.formats.reader import (
    Layout,
    Points,
    check_settings,
    k_by_layer,
    k_of,
    settings,
    wide,
)
from attrgraph.transcoders.formats.tensors import Tensors
from attrgraph.transcoders.layer_weights import LayerWeights

PATTERNS = sparsify.PATTERNS
_KNOWN = (
    *(*sparsify.KNOWN, "dtype", "tp_output", "n_targets", "n_sources", "train_post_encoder"),
    # of training on several sizes at once; what is computed is the whole
    *("matryoshka", "matryoshka_expansion_factors", "matryoshka_k_values"),
)
_COALESCED = ("concat", "per-layer")


def matches(folder: Path) -> bool:
    return any("n_targets" in settings(path) for path in folder.glob("*/cfg.json"))


def read(folder: Path, points: Points) -> Layout:
    folders = sparsify.folders_of(folder)
    configs = {layer: settings(path / "cfg.json") for layer, path in folders.items()}
    said = dict.fromkeys(each for layer, path in folders.items() for each in _check(path / "cfg.json", configs[layer]))
    ks = {layer: k_of(folders[layer] / "cfg.json", values.get("k")) for layer, values in configs.items()}
    n_layers = max(folders) + 1
    usual = sparsify.usual_hooks(folder)
    hooks = points.of(folder, *usual, likely=("mlp.hook_in", "mlp.hook_out"))
    writes_above = any(values.get("n_targets", 0) > 1 for values in configs.values())
    if writes_above:
        _check_places(folder, folders)
    across = _Set([Tensors(path / sparsify.FILE) for path in folders.values()], list(configs.values()), list(folders))
    for position in range(len(folders)):
        across.check(position)
    return Layout(
        "clt-training",
        TranscoderConfig(
            model_kind=CROSS_LAYER if writes_above else PER_LAYER,
            k=k_by_layer(ks),
            **hooks,
        ),
        [path / "cfg.json" for path in folders.values()],
        {layer: [path / sparsify.FILE] for layer, path in folders.items()},
        n_layers,
        lambda layer: across.weights(list(folders).index(layer), n_layers if writes_above else layer + 1),
        is_view=False,
        changes=("decoders are put together by source", "norms of inputs and outputs, if any, are folded", *said),
    )


def _check_places(folder: Path, folders: Mapping[int, Path]) -> None:
    """Raise where it cannot be told into which layers decoders write: they count folders, not layers."""
    run = folder / "config.json"
    trained = settings(run).get("hookpoints") if run.is_file() else None
    has_gaps = list(folders) != list(range(len(folders)))
    if has_gaps and sorted(trained or ()) != sorted(path.name for path in folders.values()):
        raise TranscoderError(
            f"{folder}: has folders of layers {', '.join(map(str, folders)):.200} only, and decoders count the folders "
            "above, not the layers; download the others, or the config.json whose hookpoints names those there are."
        )


def _check(path: Path, values: Mapping[str, Any]) -> tuple[str, ...]:
    return check_settings(
        path,
        values,
        _KNOWN,
        activation=["topk"],
        transcode=[True],
        coalesce_topk=["none", *_COALESCED],
        topk_coalesced=[False],
        divide_cross_layer=[False, True],
        post_encoder_scale=[False, True],
        per_source_tied=[False, True],
        secondary_target_tied=[False],
        normalize_io=[False, True],
        use_fp8=[False],
        signed=[False],
    )


class _Set(NamedTuple):
    """The layers that have a folder, in order: targets are counted by place in it, not by layer."""

    opened: Sequence[Tensors]
    configs: Sequence[Mapping[str, Any]]
    layers: Sequence[int]

    def sources(self, target: int) -> list[int]:
        """Places whose features write into a place."""
        return [i for i in range(target + 1) if i + max(1, self.configs[i].get("n_targets", 0)) > target]

    def check(self, place: int) -> None:
        """Raise for what cannot be expressed, and for tensors that nobody reads."""
        tensors, values = self.opened[place], self.configs[place]
        n_targets = max(1, values.get("n_targets", 0))
        if place + n_targets > len(self.opened):
            raise TranscoderError(
                f"{tensors.path}: writes into {n_targets} layers, but {len(self.opened) - place} folders are there "
                "from its own; download the others."
            )
        several = ("W_decs", "b_decs", "W_skips", "post_encs", "post_enc_scales")
        names = ["encoder.weight", "encoder.bias", "W_dec", "b_dec", "W_skip", "post_enc", "post_enc_scale"]
        numbered = [f"{name}.{i}" for name in several for i in range(n_targets)]
        tensors.check_all_read(ignored=[*names, "in_norm", "out_norm", *numbered])
        sparsify.check_skip(tensors, values)
        after, skips = "moves activations after encoding", "skips layers"
        refused = [("post_enc", after), *((f"post_encs.{i}", after) for i in range(n_targets))]
        for name, why in [*refused, *((f"W_skips.{i}", skips) for i in range(1, n_targets))]:
            if name in tensors and bool((tensors[name] != 0).any()):
                raise TranscoderError(
                    f"{tensors.path}: {name} is not zero: it {why}, which these graphs cannot express; use a set "
                    "trained without it."
                )

    def weights(self, place: int, end: int) -> LayerWeights:
        """Of the layer at a place, which writes into layers before `end`."""
        tensors, layer = self.opened[place], self.layers[place]
        sparsify.check_encoder(tensors, self.configs[place])
        W_enc = wide(tensors["encoder.weight"])
        reads = sqrt(W_enc.shape[1]) / self.norm("in_norm", place)
        writes = {to: self.norm("out_norm", self.layers.index(to)) / sqrt(W_enc.shape[1]) for to in self.layers}
        rows = [W_enc.new_zeros(W_enc.shape)] * (end - layer)
        for to in self.layers[place:]:
            if to < end and place in self.sources(self.layers.index(to)):
                rows[to - layer] = self.decoder(place, self.layers.index(to)) * writes[to]
        b_dec = torch.stack([self.bias(source, place) for source in self.sources(place)]).sum(0) * writes[layer]
        skip = tensors.get("W_skips.0")
        skip = tensors.get("W_skip") if skip is None else skip
        skip = None if skip is None else wide(skip) * (writes[layer] * reads)
        W_enc = W_enc * reads if self.configs[place].get("normalize_io") else W_enc
        return LayerWeights(W_enc, tensors["encoder.bias"], torch.stack(rows, 1), b_dec, W_skip=skip)

    def norm(self, name: str, place: int) -> float:
        """sqrt(d_model), which changes nothing, where inputs and outputs are not scaled."""
        tensors = self.opened[place]
        is_scaled = self.configs[place].get("normalize_io")
        return tensors.scalar(name) if is_scaled else sqrt(tensors["encoder.weight"].shape[1])

    def decoder(self, source: int, target: int) -> Tensor:
        """What a source's features write into a target, before outputs are scaled."""
        own, theirs, offset = self.opened[source], self.opened[target], target - source
        n_features = len(own["encoder.weight"])
        kind = self.configs[target].get("coalesce_topk")
        if kind == "per-layer":  # the last part may belong to nobody
            rows = torch.unflatten(theirs["W_dec"], 0, (-1, n_features))[self.sources(target).index(source)]
        elif kind == "concat":
            rows = theirs["W_dec"]
        else:
            is_tied = self.configs[source].get("per_source_tied")
            rows = own["W_dec"] if is_tied else _repeated(own, "W_dec", offset)
        rows = wide(rows) * self.share(source, target)
        if self.configs[source].get("post_encoder_scale"):
            rows = rows * wide(_repeated(own, "post_enc_scale", offset))[:, None]
        return rows

    def bias(self, source: int, target: int) -> Tensor:
        """What a source adds to a target's bias."""
        if self.configs[target].get("coalesce_topk") in _COALESCED:
            bias = wide(self.opened[target]["b_dec"])
            return bias if source == target else torch.zeros_like(bias)
        return wide(_repeated(self.opened[source], "b_dec", target - source)) * self.share(source, target)

    def share(self, source: int, target: int) -> float:
        """With `divide_cross_layer` the mean of what comes from below is added, not the sum."""
        values = self.configs[target]
        if source == target or not values.get("divide_cross_layer") or values.get("coalesce_topk") in _COALESCED:
            return 1.0
        return 1 / max(1, len(self.sources(target)) - 1)


def _repeated(tensors: Tensors, name: str, offset: int = 0) -> Tensor:
    """`W_decs.2`; of the own layer, `W_dec` is the same."""
    return tensors[name if offset == 0 and f"{name}s.0" not in tensors else f"{name}s.{offset}"]
