"""Whole traces: rows, selection, targets, edge cases."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from marks import needs_gpu, needs_interpreter
from tiny import BOS, D_MODEL, D_VOCAB, FAMILY_CONFIGS, N_LAYERS, make_model, make_transcoders

import attrgraph as ag
from attrgraph.attribution.rows import rounds
from attrgraph.errors import AttrGraphError, PromptError, TargetError, TranscoderError
from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel

Build = Callable[..., LanguageModel]


def rows_sum_to_activations(graph: ag.Graph) -> None:
    nodes = graph.nodes
    is_target = nodes["kind"].isin(["feature", "logit"]).to_numpy()
    sums = np.asarray(graph.adjacency.sum(1))[is_target]
    expected = nodes["activation"].to_numpy()[is_target]
    np.testing.assert_allclose(sums, expected, atol=1e-4 * np.abs(expected).mean(), rtol=1e-4)


def test_rows_sum_to_activations_in_every_family(family: str, traced_model: Build, prompt: list[int]) -> None:
    graph = ag.trace(traced_model(family, skip=True), prompt)
    rows_sum_to_activations(graph)
    assert graph.metadata["checks"]["logit_deviation"] < 1e-4
    assert graph.metadata["checks"]["input_sum_gap"] < 1e-4


def test_node_table_is_as_documented(traced_model: Build, prompt: list[int]) -> None:
    graph = ag.trace(traced_model(), prompt, targets=[4, 9])
    nodes = graph.nodes
    columns = "kind layer pos feature token activation probability bias_share influence cumulative_influence label"
    assert list(nodes.columns) == columns.split()
    assert nodes.index.is_unique and nodes.index.name == "node_id"
    n_pos = len(prompt)
    counts = nodes["kind"].value_counts()
    assert (counts["error"], counts["embedding"], counts["logit"], counts["bias"]) == (N_LAYERS * n_pos, n_pos, 2, 1)
    feature = nodes[nodes["kind"] == "feature"].iloc[5]
    assert feature.name == f"{feature['layer']}_{feature['feature']}_{feature['pos']}"
    assert nodes.loc["1_-1_3", "kind"] == "error"
    assert nodes.loc[f"E_{prompt[2]}_2"].loc[["layer", "feature"]].tolist() == [-1, prompt[2]]
    logit = nodes.loc[f"{N_LAYERS + 1}_9_{n_pos - 1}"]
    assert (logit["layer"], logit["feature"], logit["token"]) == (N_LAYERS, 9, "<9>")
    assert nodes.loc["B", ["layer", "pos", "feature"]].tolist() == [-1, -1, -1]
    assert not nodes.isna().any().any()
    assert graph.adjacency.dtype == np.float32
    # targets are features and logits only; sources are never logits
    targets, sources = graph.adjacency.nonzero()
    assert set(nodes["kind"].iloc[targets]) == {"feature", "logit"}
    assert "logit" not in set(nodes["kind"].iloc[sources])


def test_automatic_targets_are_the_fewest_tokens_that_hold_the_probability(
    traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model("gemma2")  # probabilities are those after soft-capping
    with torch.no_grad():
        expected = model.hf_model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1).sort(descending=True)
    graph = ag.trace(model, prompt, desired_logit_prob=0.3, max_n_logits=40)
    logits = graph.nodes[graph.nodes["kind"] == "logit"]
    n = int((expected.values.cumsum(0) < 0.3).sum()) + 1
    assert 1 < n < 40
    assert logits["feature"].tolist() == expected.indices[:n].tolist()
    np.testing.assert_allclose(logits["probability"], expected.values[:n], rtol=1e-4)
    assert len(ag.trace(model, prompt, max_n_logits=2).nodes.query("kind == 'logit'")) == 2


def test_difference_of_two_tokens_is_the_difference_of_their_rows(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("gpt_neox")
    both = ag.trace(model, prompt, targets=[4, 9])
    difference = ag.trace(model, prompt, targets=ag.LogitDifference(4, 9))
    rows = both.adjacency[np.flatnonzero(both.nodes["kind"] == "logit")].toarray()
    row = difference.adjacency[np.flatnonzero(difference.nodes["kind"] == "logit")].toarray()
    sources = (both.nodes["kind"] != "logit").to_numpy()
    other_sources = (difference.nodes["kind"] != "logit").to_numpy()
    np.testing.assert_allclose(row[0, other_sources], (rows[0] - rows[1])[sources], atol=1e-5)
    logit = difference.nodes[difference.nodes["kind"] == "logit"].iloc[0]
    assert (logit["token"], logit["probability"], logit["feature"]) == ("<4> - <9>", 1.0, D_VOCAB)
    rows_sum_to_activations(difference)


def test_any_direction_can_be_a_target(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model()
    W_U = model.hf_model.lm_head.weight
    token = ag.trace(model, prompt, targets=[4])
    vector = ag.trace(model, prompt, targets=W_U[4] - W_U.mean(0))
    a, b = (graph.adjacency[np.flatnonzero(graph.nodes["kind"] == "logit")].toarray() for graph in (token, vector))
    np.testing.assert_allclose(a, b, atol=1e-6)
    rows_sum_to_activations(vector)


def test_limited_features_are_the_most_influential_and_rows_still_sum_up(
    traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(n_features=300)
    whole = ag.trace(model, prompt)
    n_active = int((whole.nodes["kind"] == "feature").sum())
    assert n_active > 600
    limited = ag.trace(model, prompt, max_feature_nodes=600)
    assert limited.metadata["selection"]["n_selected"] == 600 == (limited.nodes["kind"] == "feature").sum()
    assert limited.metadata["selection"]["n_active"] == n_active
    assert 0 < limited.metadata["selection"]["unselected_share"] < 1
    rows_sum_to_activations(limited)
    assert limited.metadata["checks"]["input_sum_gap"] < 1e-4
    # what is in the smaller graph is the same as in the whole one
    shared = limited.nodes.index[limited.nodes["kind"] == "feature"]
    pick = whole.nodes.index.get_indexer(shared)
    own = limited.nodes.index.get_indexer(shared)
    np.testing.assert_allclose(
        limited.adjacency[own][:, own].toarray(), whole.adjacency[pick][:, pick].toarray(), atol=1e-5
    )
    # best first finds most of the influence there is
    features = whole.nodes[whole.nodes["kind"] == "feature"]
    best = features["influence"].nlargest(600).sum()
    assert features.loc[shared, "influence"].sum() > 0.9 * best
    assert limited.metadata["selection"]["unselected_share"] == pytest.approx(share_left_out(whole, shared), rel=1e-4)
    # nothing depends on how much is computed at a time: a budget for the rows alone, some tiles, everything
    n_targets, n_nodes = (limited.nodes["kind"].isin(kinds).sum() for kinds in (["feature", "logit"], ["error"]))
    n_columns = limited.metadata["selection"]["n_active"] + n_nodes + len(limited.prompt_tokens) + 1
    n_kept = n_columns - limited.metadata["selection"]["n_active"] + 600
    rows_bytes = int(n_targets * (n_columns + n_kept) * 4)
    for settings in (
        {"memory_budget": rows_bytes},
        {"memory_budget": rows_bytes + 3_000_000},
    ):
        again = ag.trace(model, prompt, max_feature_nodes=600, **settings)
        assert again.nodes.index.equals(limited.nodes.index)
        for name in ("data", "indices", "indptr"):
            assert np.array_equal(getattr(again.adjacency, name), getattr(limited.adjacency, name))


def test_rounds_of_selection_grow_with_what_is_expanded() -> None:
    assert rounds(0) == [] and rounds(100) == [100] and rounds(300) == [256, 44]
    sizes = rounds(7500)
    assert sum(sizes) == 7500
    for i, size in enumerate(sizes[:-1]):
        assert size == max(256, sum(sizes[:i]) // 4)


def test_patterns_that_are_not_kept_change_nothing(
    family: str, traced_model: Build, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = traced_model(family)
    kept = ag.trace(model, prompt)
    run, keep = LanguageModel.run, []

    def record(*args: object, keep_patterns: bool = True) -> object:
        keep.append(keep_patterns)
        return run(*args, keep_patterns=keep_patterns)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "run", record)
    monkeypatch.setattr(LanguageModel, "pattern_bytes", lambda self, n_pos: 2**60)
    again = ag.trace(model, prompt)
    assert keep == [False]
    assert again.nodes.equals(kept.nodes) and (again.adjacency != kept.adjacency).nnz == 0
    assert again.metadata["checks"] == kept.metadata["checks"]


def share_left_out(whole: ag.Graph, chosen: pd.Index) -> float:
    """By the inverse of a matrix: what flows into chosen features and logits, times the share of unchosen inputs."""
    nodes = whole.nodes
    sizes = abs(whole.adjacency.toarray()[:-1, :-1]).astype(np.float64)  # the bias comes last
    is_feature, is_chosen = (nodes["kind"] == "feature").to_numpy()[:-1], nodes.index.isin(chosen)[:-1]
    sizes[is_feature & ~is_chosen] = 0
    sums = sizes.sum(1, keepdims=True)
    shares = np.divide(sizes, sums, out=np.zeros_like(sizes), where=sums > 0)
    weights = nodes["probability"].to_numpy()[:-1]
    flow = weights @ np.linalg.inv(np.eye(len(sizes)) - shares)
    is_row = sums[:, 0] > 0
    left_out = shares[:, is_feature & ~is_chosen].sum(1)
    return float((flow * left_out)[is_row].sum() / flow[is_row].sum())


def test_no_feature_nodes_at_all(traced_model: Build, prompt: list[int]) -> None:
    graph = ag.trace(traced_model(), prompt, max_feature_nodes=0)
    assert (graph.nodes["kind"] != "feature").all()
    rows_sum_to_activations(graph)


def test_no_active_feature_anywhere(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model()
    for weights in model.transcoders.layers:
        weights.b_enc[:] = -1e3
    graph = ag.trace(model, prompt)
    assert (graph.nodes["kind"] != "feature").all()
    rows_sum_to_activations(graph)
    assert graph.scores().completeness < 1
    assert set(graph.prune().nodes["kind"]) <= {"error", "embedding", "logit"}


def test_position_without_active_features(traced_model: Build) -> None:
    model = traced_model(activation="jumprelu")
    graph = ag.trace(model, [BOS, 5, 6, 7], skip_positions=[0, 2])
    features = graph.nodes[graph.nodes["kind"] == "feature"]
    assert set(features["pos"]) == {1, 3}
    rows_sum_to_activations(graph)


@pytest.mark.parametrize("skip", ["auto", "none"])
def test_prompt_of_one_token(skip: str, traced_model: Build) -> None:
    for token in (BOS, 5):
        graph = ag.trace(traced_model(), [token], skip_positions=skip)
        has_features = token != BOS or skip == "none"
        assert ("no others to tell an attention sink from" in str(graph.metadata.get("notes"))) == has_features
        assert bool((graph.nodes["kind"] == "feature").any()) == has_features
        rows_sum_to_activations(graph)
        graph.prune()
        if not has_features:
            assert graph.scores() == ag.Scores(1.0, 1.0)


def test_prompt_of_only_bos_tokens(traced_model: Build) -> None:
    graph = ag.trace(traced_model("gpt2"), [BOS, BOS, BOS])
    assert not (graph.nodes["kind"] == "feature").any()
    rows_sum_to_activations(graph)
    graph = ag.trace(traced_model("gpt2"), [BOS, BOS, BOS], skip_positions=[0])
    assert set(graph.nodes[graph.nodes["kind"] == "feature"]["pos"]) == {1, 2}
    rows_sum_to_activations(graph)


def test_long_prompt() -> None:
    size = {"vocab_size": 50, "n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 512}
    hf_model = create_hf_model("gpt2", seed=0, **size, bos_token_id=BOS, eos_token_id=None)
    model = LanguageModel(
        hf_model, transcoders=make_transcoders(n_layers=2, d_model=16, n_features=8, activation="topk")
    )
    prompt = [BOS, *torch.randint(2, 50, (511,), generator=torch.Generator().manual_seed(0)).tolist()]
    graph = ag.trace(model, prompt, max_feature_nodes=300)
    rows_sum_to_activations(graph)
    assert graph.metadata["checks"]["logit_deviation"] < 1e-4
    assert graph.prune().nodes["kind"].eq("embedding").sum() == 512


def test_same_input_gives_the_same_graph(traced_model: Build, prompt: list[int]) -> None:
    first, second = (ag.trace(traced_model(), prompt) for _ in range(2))
    assert first.nodes.equals(second.nodes)
    assert (first.adjacency != second.adjacency).nnz == 0
    assert first.metadata == second.metadata


def test_progress_reaches_its_total(traced_model: Build, prompt: list[int]) -> None:
    seen: dict[str, tuple[int, int]] = {}
    ag.trace(traced_model(), prompt, progress=lambda phase, done, total: seen.update({phase: (done, total)}))
    assert set(seen) == {"run", "edges"}
    assert all(done == total for done, total in seen.values())


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([D_VOCAB], "outside the vocabulary"),
        ("w5", "has no tokenizer"),
        ([], "no target given"),
        (torch.zeros(D_MODEL + 1), r"expected finite \[n, 24\]"),
        (torch.full((D_MODEL,), float("nan")), "expected finite"),
        (torch.zeros(D_MODEL), "its direction is zero"),
        (ag.LogitDifference(4, 4), "its direction is zero"),
        ([True], "expected a token's text or id"),
    ],
)
def test_bad_targets_are_refused(targets: object, message: str, traced_model: Build, prompt: list[int]) -> None:
    with pytest.raises(TargetError, match=message):
        ag.trace(traced_model(), prompt, targets=targets)


@pytest.mark.refusal
def test_bad_settings_are_refused(traced_model: Build, prompt: list[int]) -> None:
    with pytest.raises(TranscoderError, match="has no transcoders"):
        ag.trace(make_model("llama"), prompt)
    model = make_model("llama")
    model.source["id"] = "google/gemma-2-2b"
    with pytest.raises(TranscoderError, match=r"has no transcoders;.*known for it: mntss/clt-gemma-2-2b-426k, "):
        ag.trace(model, prompt)
    with pytest.raises(PromptError, match="skip_positions is 'eos'"):
        ag.trace(traced_model(), prompt, skip_positions="eos")
    with pytest.raises(PromptError, match="a position to skip is 9; expected 0 to 8, or -1, the last, to -9"):
        ag.trace(traced_model(), prompt, skip_positions=[9])
    with pytest.raises(AttrGraphError, match="desired_logit_prob is nan"):
        ag.trace(traced_model(), prompt, desired_logit_prob=float("nan"))
    with pytest.raises(AttrGraphError, match="at least 1"):
        ag.trace(traced_model(), prompt, max_n_logits=0)
    with pytest.raises(AttrGraphError, match="a size such as 8G"):
        ag.trace(traced_model(), prompt, memory_budget="lots")
    with pytest.raises(AttrGraphError, match=r"take .* MiB, the memory budget is 1.0 KiB; raise the budget"):
        ag.trace(traced_model(), prompt, memory_budget="1K")
    with pytest.raises(AttrGraphError, match=r"take .* MiB, the memory budget is 1.0 MiB; set max_feature") as refused:
        ag.trace(traced_model(), prompt, memory_budget="1M")
    fitting = int(str(refused.value).split("max_feature_nodes to ")[1].split()[0])
    graph = ag.trace(traced_model(), prompt, memory_budget="1M", max_feature_nodes=fitting)
    assert (graph.nodes["kind"] == "feature").sum() == fitting
    with pytest.raises(AttrGraphError, match=f"set max_feature_nodes to {fitting} or less"):
        ag.trace(traced_model(), prompt, memory_budget="1M", max_feature_nodes=fitting + 1)


@needs_interpreter
@pytest.mark.parametrize("settings", [{}, {"activation": "jumprelu", "cross_layer": False}])
def test_triton_kernels_give_the_same_graph(
    settings: dict[str, object], traced_model: Build, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = traced_model("qwen3", **settings)
    expected = ag.trace(model, prompt, max_feature_nodes=30)
    monkeypatch.setenv("ATTRGRAPH_KERNELS", "triton")
    graph = ag.trace(model, prompt, max_feature_nodes=30)
    assert graph.nodes.index.equals(expected.nodes.index)
    scale = abs(expected.adjacency).max()
    assert abs(graph.adjacency - expected.adjacency).max() < 1e-5 * scale


@needs_gpu
def test_a_gpu_gives_the_same_graph(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("llama")
    expected = ag.trace(model, prompt, max_feature_nodes=30)
    on_gpu = LanguageModel(model.hf_model.cuda())
    on_gpu.transcoders = model.transcoders
    graph = ag.trace(on_gpu, prompt, max_feature_nodes=30)
    assert graph.nodes.index.equals(expected.nodes.index)
    scale = abs(expected.adjacency).max()
    assert abs(graph.adjacency - expected.adjacency).max() < 1e-5 * scale


def test_a_model_that_reads_nothing_has_an_exact_graph(traced_model: Build, prompt: list[int]) -> None:
    """Every stream is zero, so every sum is: gaps relative to what is read would be 0 / 0."""
    model = traced_model("qwen3")
    model.hf_model.get_input_embeddings().weight.zero_()
    for weights in model.transcoders.layers:
        weights.b_enc.fill_(-1.0)
        weights.b_dec.zero_()
    graph = ag.trace(model, prompt)
    found = {"logit_deviation": 0.0, "logit_spread": 0.0, "input_sum_gap": 0.0, "is_exact": True, "bias_share": 0.0}
    assert graph.metadata["checks"] == found


def test_a_prompt_of_one_token_is_traced(traced_model: Build) -> None:
    graph = ag.trace(traced_model("llama"), [5])
    assert graph.prompt_tokens == ["<5>"] and graph.metadata["checks"]["is_exact"]
    assert set(graph.prune().nodes["pos"]) == {0} and graph.to_dot()


@pytest.mark.refusal
def test_a_vocabulary_of_one_token_leaves_nothing_to_explain() -> None:
    kind, config = FAMILY_CONFIGS["llama"]
    hf_model = create_hf_model(kind, seed=0, **config | {"vocab_size": 1, "bos_token_id": None, "pad_token_id": None})
    with pytest.raises(TargetError, match="the only token of the vocabulary"):
        ag.trace(LanguageModel(hf_model.requires_grad_(False), transcoders=make_transcoders()), [0])
