"""An edge is a gradient of the frozen model, and rows sum to what their targets read."""

from collections.abc import Callable

import pytest
import torch
from dense_forward import dense_forward
from tiny import D_MODEL, FAMILY_CONFIGS, MORE_FAMILIES

from attrgraph.attribution import sources, sweep
from attrgraph.attribution.replacement import LocalReplacement, build_replacement, measure_deviation
from attrgraph.attribution.sweep import EdgeSweep, ReadVectors, feature_reads
from attrgraph.errors import TranscoderError
from attrgraph.models.language_model import LanguageModel

Build = Callable[..., LanguageModel]


def replace_locally(model: LanguageModel, prompt: list[int], *, skip_bos: bool = True) -> LocalReplacement:
    assert model.transcoders is not None
    is_skipped = torch.zeros(len(prompt), dtype=torch.bool)
    is_skipped[0] = skip_bos
    return build_replacement(model.run(torch.tensor(prompt)), model.transcoders, is_skipped)


def logit_reads(local: LocalReplacement, token_ids: list[int]) -> ReadVectors:
    run, n = local.run, len(token_ids)
    vectors = run.W_U[token_ids] - run.W_U.mean(0)
    return ReadVectors(torch.full((n,), run.n_layers), torch.full((n,), run.n_pos - 1), vectors, torch.zeros(n))


SETTINGS = [
    {},
    {"cross_layer": False, "activation": "jumprelu", "skip": True},
    {"activation": "topk", "skip": True, "read_point": "mlp.hook_in", "write_point": "mlp.hook_out"},
    {"cross_layer": False, "read_point": "tl3.ln2.hook_normalized"},
]
MLP_HOOKS: dict[str, object] = {"read_point": "mlp.hook_in", "write_point": "mlp.hook_out"}
SETTING_NAMES = ["clt-relu", "plt-jumprelu-skip", "clt-topk-skip-mlp-hooks", "plt-normalized"]
_NAMED = dict(zip(SETTING_NAMES, SETTINGS, strict=True))
_CASES = [(family, name) for family in FAMILY_CONFIGS for name in _NAMED]
_CASES += [(family, name) for family in MORE_FAMILIES for name in ("clt-relu", "clt-topk-skip-mlp-hooks")]
all_settings = pytest.mark.parametrize(
    ("family", "settings"), [pytest.param(family, _NAMED[name], id=f"{family}-{name}") for family, name in _CASES]
)


@all_settings
def test_local_replacement_model_gives_the_true_logits(
    family: str, settings: dict[str, object], traced_model: Build, prompt: list[int]
) -> None:
    local = replace_locally(traced_model(family, **settings), prompt)
    assert len(local.active) > 50
    # float32 rounding over 3 layers of sums of some 100 terms of size about 1
    assert measure_deviation(local).logits < 1e-4


@all_settings
def test_incoming_edges_and_bias_sum_to_the_pre_activation(
    family: str, settings: dict[str, object], traced_model: Build, prompt: list[int]
) -> None:
    local = replace_locally(traced_model(family, **settings), prompt)
    rows = EdgeSweep(local).edges(feature_reads(local))
    scale = local.active.activation.abs().mean()
    torch.testing.assert_close(rows.sum(1) / scale, local.active.activation / scale, rtol=1e-4, atol=1e-4)
    tokens = [3, 17, 49]
    logits = EdgeSweep(local).edges(logit_reads(local, tokens)).sum(1)
    expected = local.run.uncapped_logits[tokens] - local.run.uncapped_logits.mean()
    if local.run.b_U is not None:
        expected = expected - (local.run.b_U[tokens] - local.run.b_U.mean())
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@all_settings
def test_edges_are_gradients_of_the_frozen_model(
    family: str, settings: dict[str, object], traced_model: Build, prompt: list[int]
) -> None:
    """Independent path: scale each source's write by a factor, differentiate what targets read by the factors."""
    local = replace_locally(traced_model(family, **settings), prompt)
    run, active, dense = local.run, local.active, dense_forward(local)
    n_active = len(active)
    read = []
    for layer, seen in enumerate(dense.seen):
        rows = active.in_layer(layer)
        weights, features = local.transcoders.layers[layer], active.feature[rows]
        read.append((seen[active.pos[rows]] * weights.W_enc[features]).sum(-1) + weights.b_enc[features])
    reads = torch.cat(read)
    logit = (dense.normed[-1] * (run.W_U[9] - run.W_U.mean(0))).sum()

    chosen = [0, n_active // 3, n_active // 2, n_active - 1]
    rows = torch.cat(
        [
            EdgeSweep(local).edges(feature_reads(local, torch.tensor(chosen))),
            EdgeSweep(local).edges(logit_reads(local, [9])),
        ]
    )
    for row, target in zip(rows, [*reads[chosen], logit], strict=True):
        expected = dense.gradient(target)
        torch.testing.assert_close(row[:-1], expected, rtol=1e-4, atol=2e-5)


def test_edge_equals_the_change_when_the_source_is_removed(traced_model: Build, prompt: list[int]) -> None:
    """Meaning: without a source, what the target reads changes by exactly the edge (finite, not infinitesimal)."""
    local = replace_locally(traced_model("gemma2", dtype=torch.float64), prompt)
    row = EdgeSweep(local).edges(logit_reads(local, [9]))[0].double()
    before = _logits_with_features_held(local)
    for source in (0, len(local.active) // 2):
        change = _logits_with_features_held(local, without=source) - before
        centred = (change - change.mean())[9]
        torch.testing.assert_close(centred, -row[source], rtol=1e-6, atol=1e-9)


def _logits_with_features_held(local: LocalReplacement, *, without: int | None = None) -> torch.Tensor:
    """Every feature has its recorded activation again, but one that has none."""
    active, factors = local.active, torch.ones(len(local.active))
    if without is not None:
        factors[without] = 0
    outs = [error + constant for error, constant in zip(local.errors, local.constants, strict=True)]
    for layer in range(local.run.n_layers):
        rows = active.in_layer(layer)
        written = local.transcoders.written(layer, active, active.activation[rows] * factors[rows], local.run.n_pos)
        for i, part in enumerate(written.unbind(1)):
            outs[layer + i] = outs[layer + i] + part
    run = local.run
    stream = run.embedding if run.position_embedding is None else run.embedding + run.position_embedding
    for layer, block in enumerate(run.blocks):
        norm = local.write_norm(layer)
        stream = stream + block.attend(stream) + (outs[layer] if norm is None else norm.apply(outs[layer]))
    return run.W_U @ run.final_norm.apply(stream)[-1]


@pytest.mark.parametrize(("family", "points"), [("llama", {}), ("gemma2", MLP_HOOKS)])
def test_result_depends_on_no_amount_of_memory(
    family: str, points: dict[str, object], traced_model: Build, prompt: list[int]
) -> None:
    """Also where a norm lies between MLP and stream: written rows pass it after they are read."""
    local = replace_locally(traced_model(family, **points), prompt)
    assert (local.write_norm(0) is not None) == bool(points)
    targets = feature_reads(local)
    assert len(targets) > 2 * sweep.TILE_ROWS
    whole = EdgeSweep(local).edges(targets)
    two_tiles = 2 * sweep.TILE_ROWS * 4 * (2 * len(prompt) * D_MODEL + whole.shape[1])
    for memory_bytes in (0, two_tiles):
        assert torch.equal(EdgeSweep(local, memory_bytes=memory_bytes).edges(targets), whole)


@pytest.mark.parametrize("is_cross_layer", [True, False])
def test_sources_come_in_their_columns_and_are_counted(
    is_cross_layer: bool, traced_model: Build, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read block by block: every decoder row into a layer once, at its place, by the unit of activation."""
    local = replace_locally(traced_model("llama", cross_layer=is_cross_layer), prompt)
    active, n_pos = local.active, local.run.n_pos
    monkeypatch.setattr(sources, "BLOCK_BYTES", 40 * D_MODEL * 4)
    ours = sources.Sources(local)
    for layer in range(local.run.n_layers):
        found, n_blocks = {}, 0
        assert max(writes.first_pos + len(writes.columns) for writes in ours.into(layer, 3)) == 3
        for writes in ours.into(layer, n_pos):
            n_blocks += 1
            for i, column in enumerate(writes.columns):
                rows = writes.vector[writes.offsets[i] : writes.offsets[i + 1]]
                found |= {int(ours.order[column + j]): row.clone() for j, row in enumerate(rows)}
                assert all(int(active.pos[ours.order[column + j]]) == writes.first_pos + i for j in range(len(rows)))
        assert n_blocks > 1
        first = 0 if is_cross_layer else layer
        expected = [i for i, source in enumerate(active.layer.tolist()) if first <= source <= layer]
        assert sorted(found) == expected
        for i in expected:
            source = int(active.layer[i])
            assert torch.equal(found[i], local.transcoders.layers[source].W_dec[active.feature[i], layer - source])
        for end in (0, 3, n_pos):
            assert ours.n_writes(layer, end) == sum(int(active.pos[i]) < end for i in expected)


def test_result_hardly_depends_on_the_tiles(
    traced_model: Build, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    local = replace_locally(traced_model("llama"), prompt)
    whole = EdgeSweep(local).edges(feature_reads(local))
    for n_rows, worth_a_cut in ((1, 0.25), (37, 0.0), (128, 1.0)):
        monkeypatch.setattr(sweep, "TILE_ROWS", n_rows)
        monkeypatch.setattr(sweep, "WORTH_A_CUT", worth_a_cut)
        torch.testing.assert_close(EdgeSweep(local).edges(feature_reads(local)), whole, rtol=1e-4, atol=1e-5)


def test_tiles_are_cut_where_that_saves_enough() -> None:
    positions = torch.tensor([40, 2, 39, 1, 0, 40, 2, 38, 1, 40] * 20)
    layers = torch.arange(200) % 3
    targets = sweep.ReadVectors(layers, positions, torch.zeros(200, 1), torch.zeros(200))
    tiles = sweep.tiles_of(targets)
    assert torch.cat(tiles).sort().values.tolist() == list(range(200))
    # 128 targets in the order of positions: 100 at 0 to 2, 28 at 38 and 39; then 72 at 39 and 40
    assert [len(tile) for tile in tiles] == [100, 28, 72]
    assert [sorted({*positions[tile].tolist()}) for tile in tiles] == [[0, 1, 2], [38, 39], [39, 40]]
    assert all((layers[tile].diff() <= 0).all() for tile in tiles)


def test_later_positions_have_no_edge(traced_model: Build, prompt: list[int]) -> None:
    local = replace_locally(traced_model("qwen3"), prompt)
    target = int(torch.nonzero((local.active.layer == 2) & (local.active.pos == 3))[0])
    row = EdgeSweep(local).edges(feature_reads(local, torch.tensor([target])))[0]
    assert (row[: len(local.active)][local.active.pos > 3] == 0).all()
    assert (row[: len(local.active)][local.active.pos <= 3] != 0).any()


@pytest.mark.refusal
def test_normalised_reads_of_a_layer_norm_are_refused_as_ambiguous(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("gpt2", read_point="ln2.hook_normalized")
    with pytest.raises(TranscoderError, match=r"ambiguous .* Pass --read-point tl2.* or tl3"):
        build_replacement(model.run(torch.tensor(prompt)), model.transcoders, torch.zeros(9, dtype=torch.bool))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_normalised_reads_lie_before_or_behind_a_layer_norms_weights_as_is_said(
    family: str, traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(family)
    block, norm = model.run(torch.tensor(prompt)).blocks[1], model.mlp_norm_module(1)
    behind, before = (block.read(f"{version}.ln2.hook_normalized") for version in ("tl2", "tl3"))
    whole = before * norm.weight if family == "llama" else before * norm.weight + norm.bias
    torch.testing.assert_close(whole, block.read("mlp.hook_in"))
    torch.testing.assert_close(behind, before if family == "llama" else whole)
