"""What a validation computes: predictions, agreement with intervals, samples and controls, paths."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from known_circuit import TOKENS, make_known_circuit, token_ids
from scipy import sparse, stats

import attrgraph as ag
from attrgraph.influence.influence import with_influence
from attrgraph.interventions.intervene import take_apart
from attrgraph.models.language_model import LanguageModel
from attrgraph.schema import node_table
from attrgraph.validation.agreement import MEASURES, agreement, rank_correlation, share
from attrgraph.validation.measurements import matched, sample_nodes
from attrgraph.validation.path_tests import follow, strongest_paths
from attrgraph.validation.predictions import predict
from attrgraph.validation.removal_estimates import removal_estimates
from attrgraph.validation.subject import Subject

Build = Callable[..., LanguageModel]
DALLAS = "in the state containing dallas the capital is"
# kinds and layers of a small graph, in the order of its rows
HAND_MADE = [("feature", layer) for layer in (0, 0, 1, 1, 1, 2, 2)] + [("error", 0), ("error", 1)]
HAND_MADE += [("embedding", -1), ("embedding", -1), ("logit", 3), ("logit", 3)]


def hand_made(adjacency: np.ndarray, kinds: list[tuple[str, int]], activation: np.ndarray) -> ag.Graph:
    """A graph of these edges."""
    n = len(kinds)
    nodes = pd.DataFrame(
        {
            "kind": [kind for kind, _ in kinds],
            "layer": [layer for _, layer in kinds],
            "pos": 0,
            "feature": range(n),
            "token": "t",
            "activation": activation,
            "probability": [0.4 if kind == "logit" else 0.0 for kind, _ in kinds],
            "influence": 0.0,
            "cumulative_influence": 1.0,
            "label": [f"{kind} {i}" for i, (kind, _) in enumerate(kinds)],
        },
        index=pd.Index([f"n{i}" for i in range(n)], name="node_id"),
    )
    edges = sparse.csr_array(adjacency.astype(np.float32))
    n_layers = max(layer for _, layer in kinds)
    return ag.Graph(with_influence(node_table(nodes), edges), edges, ["t"], {"n_layers": n_layers})


def random_graph(seed: int) -> ag.Graph:
    """With two of three possible edges, of both signs."""
    rng, layers = np.random.default_rng(seed), np.array([layer for _, layer in HAND_MADE])
    reads = np.array([kind in ("feature", "logit") for kind, _ in HAND_MADE])
    is_edge = (layers[:, None] > layers) & reads[:, None] & (rng.random((len(layers),) * 2) < 2 / 3)
    return hand_made(rng.normal(size=is_edge.shape) * is_edge, HAND_MADE, rng.uniform(0.5, 2.0, len(layers)))


# -- predictions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "responds_from"), [*((seed, 0) for seed in range(5)), (0, 1), (1, 2), (2, 99)])
def test_total_effects_are_sums_over_all_paths(seed: int, responds_from: int) -> None:
    """By a dense linear system, and path by path: features that are set, or in layers that are held, do not respond."""
    graph = random_graph(seed)
    A, n = graph.adjacency.toarray().astype(np.float64), len(graph.nodes)
    is_feature = (graph.nodes["kind"] == "feature").to_numpy()
    sets = [{9: -1.0}, {7: 0.5}, {0: -1.0}, {0: -1.0, 3: -1.0, 8: 2.0, 10: 1.0}]
    relative = np.zeros((n, len(sets)))
    for column, one in enumerate(sets):
        relative[list(one), column] = list(one.values())
    found = predict(graph, relative, responds_from=responds_from)
    np.testing.assert_allclose(found.direct, A @ relative)
    network = nx.DiGraph(list(zip(*A.T.nonzero(), strict=True)))
    for column, one in enumerate(sets):
        activation = graph.nodes["activation"].to_numpy()
        may = is_feature & (graph.nodes["layer"].to_numpy() >= responds_from)
        responds = np.where(may & (relative[:, column] == 0), 1 / activation, 0.0)
        changes = np.linalg.solve(np.eye(n) - responds[:, None] * A, relative[:, column])
        np.testing.assert_allclose(found.total[:, column], A @ changes, rtol=1e-9, atol=1e-12)
        total = 0.0
        for source, change in one.items():
            for path in nx.all_simple_paths(network, source, n - 1):
                effects = [A[target, before] for before, target in pairwise(path)]
                total += change * np.prod(effects) * np.prod(responds[path[1:-1]])
        assert found.total[-1, column] == pytest.approx(total)


@pytest.mark.parametrize("is_cross_layer", [True, False])
def test_a_dose_so_small_that_nothing_switches_has_the_predicted_total_effect(
    is_cross_layer: bool, traced_model: Build, prompt: list[int]
) -> None:
    # a family whose norms are float64 too
    model = traced_model("gpt2", dtype=torch.float64, cross_layer=is_cross_layer)
    graph = ag.trace(model, prompt, targets=[4, 9]).without_bias()
    nodes, dose = graph.nodes, 1e-5
    rows = {kind: np.flatnonzero(nodes["kind"] == kind) for kind in ("feature", "error", "embedding", "logit")}
    sets = [[rows["feature"][0]], [rows["feature"][7]], [rows["error"][10]], [rows["embedding"][3]]]
    sets.append([*rows["feature"][[1, 40, -1]], *rows["error"][[3, 12]], rows["embedding"][5]])
    relative = np.zeros((len(nodes), len(sets)))
    for column, one in enumerate(sets):
        relative[one, column] = dose
    found = predict(graph, relative)
    for column, one in enumerate(sets):
        change = ag.Intervention(nodes.index[one].tolist(), scale=1 + dose)
        for mode, predicted in (("frozen", found.direct), ("frozen-attention", found.total)):
            effect = ag.intervene(model, prompt, change, mode=mode)
            if mode == "frozen-attention":
                assert (effect.features["before"] != 0).equals(effect.features["after"] != 0)
            moved = (effect.uncapped_change - effect.uncapped_change.mean())[[4, 9]].numpy()
            # edges are float32, and a total effect is a sum of some hundred products of three of them
            expected = predicted[rows["logit"], column]
            np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
            table = effect.features.set_index(["layer", "pos", "feature"])
            keys = nodes.iloc[rows["feature"]][["layer", "pos", "feature"]].itertuples(index=False, name=None)
            moved = (table["after"] - table["before"]).loc[list(keys)].to_numpy()
            others = ~np.isin(rows["feature"], one)
            expected = predicted[rows["feature"], column][others]
            np.testing.assert_allclose(moved[others], expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
        # responses matter: the two predictions are not the same
        assert len(one) == 1 or not np.allclose(found.direct[:, column], found.total[:, column], rtol=0.1)


# -- agreement ---------------------------------------------------------------------------------------------------------


def noisy(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    x = rng.normal(size=n)
    return x, x + rng.normal(size=n)


def test_correlations_are_scipys_and_the_rest_is_as_worked_out_by_hand() -> None:
    x, y = noisy(50)
    x[3] = x[8]  # a tie
    found = agreement(x, y, np.arange(50), n_resamples=10)
    assert found["pearson"] == pytest.approx(stats.pearsonr(x, y)[0])
    assert found["spearman"] == pytest.approx(stats.spearmanr(x, y)[0])
    x, y = np.array([1.0, 2.0, -1.0, 0.0]), np.array([2.0, 1.0, 1.0, 0.0])
    found = agreement(x, y, np.arange(4), n_resamples=10)
    # xy = 2 + 2 - 1, xx = 6, yy = 6, squared differences 1 + 1 + 4; of three signs one differs, and 0 has none
    by_hand = {"slope": 3 / 6, "cosine": 3 / 6, "normalised_error": 6 / 6, "sign_agreement": 2 / 3, "n": 4}
    assert {name: found[name] for name in by_hand} == pytest.approx(by_hand)


def test_intervals_hold_the_estimate_repeat_by_seed_and_shrink_with_more_pairs() -> None:
    widths: dict[int, dict[str, float]] = {}
    for n in (20, 2000):
        x, y = noisy(n)
        found = agreement(x, y, np.arange(n), seed=1)
        assert found == agreement(x, y, np.arange(n), seed=1) != agreement(x, y, np.arange(n), seed=2)
        widths[n] = {}
        for name in MEASURES:
            value, low, high = (found[f"{name}{end}"] for end in ("", "_low", "_high"))
            assert value is not None and low is not None and high is not None and low < value < high
            widths[n][name] = high - low
    # by the root of 100, were 20 many
    assert all(widths[2000][name] < widths[20][name] / 4 for name in MEASURES)
    x, y = noisy(20)
    ranked = rank_correlation(x, y, seed=1)
    expected = agreement(x, y, np.arange(20), seed=1)
    assert ranked == {name: expected[name] for name in ("n", "spearman", "spearman_low", "spearman_high")}


def test_pairs_of_one_group_are_drawn_together() -> None:
    x, y = noisy(10)
    groups = np.arange(10)
    once, copied = agreement(x, y, groups), agreement(np.tile(x, 5), np.tile(y, 5), np.tile(groups, 5))
    for name in MEASURES:  # copies add nothing; the ranks of ties are another matter
        for end in ("", "_low", "_high"):
            assert copied[f"{name}{end}"] == pytest.approx(once[f"{name}{end}"], abs=1e-9)
    alone = agreement(x, y, np.zeros(10, dtype=np.int64))
    assert alone["pearson"] == pytest.approx(once["pearson"])
    assert [alone[f"{name}_low"] for name in MEASURES] == [None] * len(MEASURES)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 / 3])
def test_what_is_undefined_is_none(constant: float) -> None:
    varied, same = noisy(7)[0], np.full(7, constant)
    for x, y in ((same, varied), (varied, same), (same, same)):
        found = agreement(x, y, np.arange(7))
        for name in ("pearson", "spearman"):
            assert [found[f"{name}{end}"] for end in ("", "_low", "_high")] == [None] * 3
    nothing = agreement(np.zeros(0), np.zeros(0), np.zeros(0))
    assert nothing.pop("n") == 0 and set(nothing.values()) == {None}
    zeros = agreement(np.zeros(3), np.zeros(3), np.arange(3))
    assert zeros.pop("n") == 3 and set(zeros.values()) == {None}


@pytest.mark.parametrize(("n_so", "n"), [(2, 5), (0, 20), (20, 20), (1, 1)])
def test_a_share_has_wilsons_interval(n_so: int, n: int) -> None:
    z, p = stats.norm.ppf(0.975), n_so / n
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    expected = {"n": n, "share": p, "share_low": low, "share_high": high}
    assert share(np.arange(n) < n_so) == pytest.approx(expected, abs=1e-12)
    assert 0 <= low + 1e-12 < high <= 1 + 1e-12


def test_of_no_cases_there_is_no_share() -> None:
    assert share(np.zeros(0, dtype=np.bool_)) == {"n": 0, "share": None, "share_low": None, "share_high": None}


# -- which nodes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> LanguageModel:
    return ag.load_model("demo")


@pytest.fixture(scope="module")
def subject(demo: LanguageModel) -> Subject:
    return Subject.of(demo, ag.trace(demo, DALLAS))


def test_the_sample_is_all_that_fits_or_the_most_influential_half_and_random_others(subject: Subject) -> None:
    nodes, able = subject.graph.nodes, subject.can_act
    influence = nodes["influence"].to_numpy()
    ranked = nodes.index[np.flatnonzero(able)[np.argsort(-influence[able], kind="stable")]]
    assert nodes.index[sample_nodes(nodes, able, len(nodes), 0)].tolist() == ranked.tolist()
    some = nodes.index[sample_nodes(nodes, able, 21, 0)]
    assert len(set(some)) == 21 and some[:10].tolist() == ranked[:10].tolist()
    assert set(some[10:]) <= set(ranked[10:])
    assert some.tolist() == nodes.index[sample_nodes(nodes, able, 21, 0)].tolist()
    assert some.tolist() != nodes.index[sample_nodes(nodes, able, 21, 1)].tolist()


# which compute in float64 throughout; the second runs attention and MLP in parallel
@pytest.mark.parametrize("name", ["gpt2", "falcon"])
def test_nodes_that_can_act_are_those_whose_removal_can_change_the_answer(
    name: str, traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(name, dtype=torch.float64)
    subject = Subject.of(model, ag.trace(model, prompt))
    kinds = np.isin(subject.kinds, ("feature", "error", "embedding"))
    skipped = (subject.graph.nodes["pos"] == 0).to_numpy() & (subject.kinds == "error")
    rows = np.flatnonzero(kinds & ~skipped)
    effect = np.abs(subject.measure([[int(row)] for row in rows], mode="free").answer)
    assert not subject.can_act[~kinds | skipped].any()
    np.testing.assert_array_equal(subject.can_act[rows], effect > 1e-10 * effect.max())


def test_estimates_of_removals_are_slopes_of_the_models_own_answer(traced_model: Build, prompt: list[int]) -> None:
    for settings in ({}, {"cross_layer": False}, {"write_point": "mlp.hook_out"}):
        model = traced_model("gpt2", dtype=torch.float64, **settings)
        subject, step = Subject.of(model, ag.trace(model, prompt)), 1e-5
        rows = subject.features[::7]
        places = list(subject.graph.nodes.iloc[rows][["layer", "feature", "pos"]].itertuples(index=False, name=None))
        token = int(subject.graph.nodes["feature"].iloc[subject.answer])
        found = removal_estimates(model, subject.local, token, places)
        sets = [[int(row)] for row in rows]
        more, less = (subject.measure(sets, mode="free", scale=1 + d).answer for d in (step, -step))
        np.testing.assert_allclose(found, (less - more) / (2 * step), rtol=1e-4, atol=1e-7 * np.abs(found).max())


def test_controls_are_other_features_of_the_same_layers_the_nearest_position_and_similar_activation(
    subject: Subject,
) -> None:
    nodes, chosen, pool = subject.graph.nodes, subject.by_influence[:12], subject.features
    layers, activation = nodes["layer"].to_numpy(), nodes["activation"].to_numpy()
    for seed in range(5):
        found = matched(nodes, chosen, pool, seed)
        assert len(set(found)) == len(chosen) and not set(found) & set(chosen) and set(found) <= set(pool)
        assert sorted(layers[found]) == sorted(layers[chosen])
        assert found.tolist() == matched(nodes, chosen, pool, seed).tolist()
    several = {tuple(matched(nodes, chosen, pool, seed)) for seed in range(5)}
    assert len(several) == 5
    (row,) = chosen[
        :1
    ]  # of one feature the control is one of the five nearest in activation, at its position if any is
    positions = nodes["pos"].to_numpy()
    others = np.array([i for i in pool if i != row and layers[i] == layers[row] and positions[i] == positions[row]])
    nearest = others[np.argsort(np.abs(activation[others] - activation[row]), kind="stable")[:5]]
    assert {int(matched(nodes, chosen[:1], pool, seed)[0]) for seed in range(40)} == set(nearest.tolist())
    # where a layer has too few others, there are fewer controls
    assert len(matched(nodes, pool[layers[pool] == 0][1:], pool, 0)) == 1


# -- paths -------------------------------------------------------------------------------------------------------------


def by_enumeration(subject: Subject) -> list[tuple[float, tuple[int, ...]]]:
    """Every path of the pruned graph from a node that can be set, through a feature, to the answer."""
    pruned = subject.graph.prune()
    network = pruned.to_networkx().reverse()
    shares = np.abs(pruned.adjacency.toarray().astype(np.float64))
    shares /= np.maximum(shares.sum(1, keepdims=True), 1e-300)
    place = {node: i for i, node in enumerate(pruned.nodes.index)}
    found = []
    for source in pruned.nodes.index[pruned.nodes["kind"] != "logit"]:
        for path in nx.all_simple_paths(network, subject.graph.nodes.index[subject.answer], source):
            if len(path) > 2:
                rows = [place[node] for node in path]
                part = float(np.prod([shares[target, before] for target, before in pairwise(rows)]))
                found.append((part, tuple(subject.rows[node] for node in reversed(path))))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("seed", range(6))
def test_the_strongest_paths_are_those_that_enumeration_finds(seed: int, traced_model: Build) -> None:
    model = traced_model()
    on_hand_made = Subject(model, random_graph(seed), take_apart(model, [1, 5]))
    every = by_enumeration(on_hand_made)
    assert every
    for n in (1, 2, 5, len(every) + 3):
        found = strongest_paths(on_hand_made, n)
        np.testing.assert_allclose([part for part, _ in found], [part for part, _ in every[:n]])
        # of paths with the same share any may come first: a feature with one input passes all of it on
        known = {path: part for part, path in every}
        assert len({path for _, path in found}) == len(found) == min(n, len(every))
        assert [known[path] for _, path in found] == pytest.approx([part for part, _ in found])


def test_a_source_whose_edge_to_the_answer_is_strongest_still_has_its_path_found(traced_model: Build) -> None:
    # the token holds 3/5 of the answer's input, and 2/5 by way of the feature
    kinds, adjacency = [("feature", 0), ("embedding", -1), ("logit", 1)], np.zeros((3, 3))
    adjacency[2, 1], adjacency[2, 0], adjacency[0, 1] = 3.0, -2.0, 1.0
    model = traced_model()
    one = Subject(model, hand_made(adjacency, kinds, np.ones(3)), take_apart(model, [1, 5]))
    ((part, path),) = strongest_paths(one, 1)
    assert (part, path) == (pytest.approx(2 / 5), (1, 0, 2))


def test_following_a_path_measures_the_product_of_its_edges(subject: Subject) -> None:
    nodes, A = subject.graph.nodes, subject.graph.adjacency
    paths = strongest_paths(subject, 30)
    assert {len(path) for _, path in paths} >= {3, 4}
    for _, path in paths:
        found = follow(subject, path)
        effects = [float(A[target, source]) for source, target in pairwise(path)]
        predicted = -np.prod(effects) / np.prod(nodes["activation"].iloc[list(path[1:-1])])
        assert found["predicted"] == pytest.approx(predicted)
        assert found["path"] == " → ".join(nodes["label"].iloc[list(path)])
        if not found["has_gone_off"]:
            # float32 sums of terms of size up to 10
            assert found["measured"] == pytest.approx(predicted, rel=1e-4, abs=1e-5)
    assert not all(follow(subject, path)["has_gone_off"] for _, path in paths)


def test_on_the_known_circuit_say_austin_goes_off_without_texas() -> None:
    model = make_known_circuit()
    subject = Subject.of(model, ag.trace(model, token_ids("bos dallas the capital")))
    graph, answer = subject.graph, subject.answer
    assert graph.nodes["feature"].iloc[answer] == TOKENS.index("austin")
    texas, say_austin = (subject.rows[node] for node in ("0_0_1", "1_0_3"))
    # it reads 2 of texas and is 1: the edges say it becomes -1, and it becomes 0
    edge = float(graph.adjacency[answer, say_austin])
    found: dict[str, Any] = follow(subject, (texas, say_austin, answer))
    assert (found["predicted"], found["measured"]) == pytest.approx((-2 * edge, -edge))
    assert found["has_gone_off"] is True
    alone = follow(subject, (say_austin, answer))
    assert (alone["predicted"], alone["measured"], alone["has_gone_off"]) == (
        pytest.approx(-edge),
        pytest.approx(-edge),
        False,
    )
