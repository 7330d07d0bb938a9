"""What is said of features, against plain loops over the documents."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from texts import make_rows
from tiny import D_VOCAB, N_FEATURES, N_LAYERS, make_model, make_transcoders

import attrgraph as ag
from attrgraph.data.corpus import TokenRows, rows_of
from attrgraph.errors import FeatureError
from attrgraph.features import describe
from attrgraph.features.layer_statistics import N_TOP, WINDOW, bin_edges, bytes_per_feature
from attrgraph.io import feature_records
from attrgraph.models.frozen import norm_before

SENTENCES = [
    "in the state containing dallas the capital is austin",
    "eugene is in oregon",
    "the opposite of hot is cold",
    "the french word for big is grand",
    "cincinnati is in ohio",
    "eugene is in oregon",
    "greetings from lake falls texas",
]
LENGTHS = (9, 3, 30, 6, 1, 9, 2, 12, 40, 17, 5, 30, 22)


def activations(model: Any, transcoders: Any, rows: TokenRows, layer: int) -> list[np.ndarray]:
    """Of every row alone, [n_pos, n_features], BOS left out."""
    found = []
    for row in rows.rows:
        stream = model.run(row).blocks[layer].mlp_stream[1:]
        norm = norm_before(transcoders.config.feature_input_hook, model.mlp_norm_of(layer, stream))
        read = stream if norm is None else norm.apply(stream)
        found.append(transcoders.encode_layer(layer, read).numpy())
    return found


def is_close(a: Any, b: Any) -> bool:
    """Whether two records are the same but for the rounding of numbers."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_close(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(is_close, a, b))
    return a == pytest.approx(b, rel=1e-4, abs=1e-6) if isinstance(a, float) else a == b


def described(name: str, **settings: Any) -> tuple[Any, Any, TokenRows]:
    transcoders = make_transcoders(**settings)
    # a long document has several rows
    rows = make_rows(LENGTHS)
    return make_model(name), transcoders, TokenRows(rows.rows, [0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 8, 9], {})


CASES = [
    ("gpt2", {"activation": "relu"}),
    ("llama", {"activation": "topk", "read_point": "mlp.hook_in"}),
    ("gemma2", {"activation": "jumprelu", "cross_layer": False, "write_point": "mlp.hook_out"}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_counts_and_numbers_are_those_of_a_loop_over_documents(name: str, settings: dict[str, Any]) -> None:
    model, transcoders, rows = described(name, **settings)
    pages = ag.describe_features(model, rows, transcoders=transcoders, batch_tokens=64)
    assert len(pages) == N_LAYERS * N_FEATURES
    for layer in range(N_LAYERS):
        of_rows = activations(model, transcoders, rows, layer)
        whole = np.concatenate(of_rows)
        for feature in range(0, N_FEATURES, 7):
            page = pages[f"{layer}/{feature}"]
            values = whole[:, feature]
            fired = values[values != 0]
            assert page["n_tokens"] == len(values) == rows.n_tokens
            assert page["n_firings"] == len(fired)
            assert page["activation_frequency"] == len(fired) / len(values)
            assert page["n_documents"] == rows.n_documents
            assert sum(page["histogram"]) == len(fired)
            if len(fired) == 0:
                assert (page["act_max"], page["act_min"], page["quantile_values"]) == (0, 0, [])
                continue
            assert page["act_max"] == pytest.approx(fired.max(), rel=1e-5)
            assert page["act_min"] == pytest.approx(fired.min(), rel=1e-4, abs=1e-6)
            assert page["act_mean"] == pytest.approx(fired.mean(), rel=1e-5)
            edges = np.array(page["histogram_edges"])
            assert set(edges) <= set(bin_edges())
            is_near_edge = (np.abs(fired[:, None] / edges - 1) < 1e-4).any()
            if not is_near_edge:
                assert page["histogram"] == np.histogram(fired, edges)[0].tolist()
            if len(fired) <= 128:
                expected = np.quantile(fired, page["quantiles"])
                np.testing.assert_allclose(page["quantile_values"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_best_examples_are_the_documents_with_the_largest_maxima(name: str, settings: dict[str, Any]) -> None:
    model, transcoders, rows = described(name, **settings)
    pages = ag.describe_features(model, rows, transcoders=transcoders, batch_tokens=64)
    before, after = WINDOW
    for layer in range(N_LAYERS):
        of_rows = activations(model, transcoders, rows, layer)
        for feature in range(0, N_FEATURES, 9):
            best: dict[int, tuple[float, int, int]] = {}
            for index, (acts, document) in enumerate(zip(of_rows, rows.document, strict=True)):
                if len(acts) and acts[:, feature].max() > best.get(document, (0.0,))[0]:
                    best[document] = float(acts[:, feature].max()), index, int(acts[:, feature].argmax())
            expected = sorted(best.values(), key=lambda one: -one[0])[:N_TOP]
            examples = pages[layer, feature]["examples_quantiles"][0]["examples"]
            assert len(examples) == len(expected)
            for example, (value, index, pos) in zip(examples, expected, strict=True):
                part = slice(max(pos - before, 0), pos + after + 1)
                ids = rows.rows[index][1:].tolist()[part]
                assert example["tokens"] == [f"<{i}>" for i in ids]
                np.testing.assert_allclose(
                    example["tokens_acts_list"], of_rows[index][part, feature], rtol=1e-4, atol=2e-6
                )
                assert example["tokens_acts_list"][example["train_token_ind"]] == pytest.approx(value, rel=1e-4)
                assert example["train_token_ind"] == pos - part.start


@pytest.fixture(scope="module")
def demo_pages() -> ag.FeaturePages:
    """Of all features of the demo."""
    return ag.describe_features(ag.load_model("demo"), SENTENCES * 3)


def test_equal_documents_stand_in_the_order_of_the_text(demo_pages: ag.FeaturePages) -> None:
    pages = demo_pages
    for page in pages.values():
        examples = page["examples_quantiles"][0]["examples"]
        tops = [max(one["tokens_acts_list"]) for one in examples]
        assert tops == sorted(tops, reverse=True)
        assert all("<bos>" not in one["tokens"] for one in examples)
        shown = [(one["train_token_ind"], *one["tokens"]) for one in examples]
        is_again = [one in shown[:i] for i, one in enumerate(shown)]
        assert [one["is_repeated_datapoint"] for one in examples] == is_again
    assert pages["1/1023"]["n_tokens"] == 3 * sum(len(sentence.split()) for sentence in SENTENCES)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_promoted_tokens_are_those_of_the_sum_of_decoder_rows(name: str) -> None:
    model, transcoders, rows = described(name)
    pages = ag.describe_features(model, rows, transcoders=transcoders)
    norm = model.final_norm_module()
    for layer in range(N_LAYERS):
        for feature in range(0, N_FEATURES, 5):
            page = pages[layer, feature]
            by_target = transcoders.layers[layer].W_dec[feature]
            for written, top, bottom in [
                (by_target.sum(0), page["top_logits"], page["bottom_logits"]),
                *((by_target[each["layer"] - layer], each["top_logits"], None) for each in page["logits_by_layer"]),
            ]:
                centered = written - written.mean() if name == "gpt2" else written
                logits = (centered * norm.weight) @ model.unembedding()[0].T
                order = logits.argsort(descending=True).tolist()
                assert top == [f"<{i}>" for i in order[: len(top)]]
                if bottom is not None:
                    assert bottom == [f"<{i}>" for i in order[::-1][: len(bottom)]]
                    assert page["top_logit_values"][0] == pytest.approx(float(logits.max()), rel=1e-4)
                    assert page["logit_range"] == pytest.approx([float(logits.min()), float(logits.max())], rel=1e-4)
                    assert sum(page["logit_histogram"]) == len(logits) and page["logit_histogram"][-1] > 0
            assert len(page["top_logits"]) == min(10, D_VOCAB)


def test_where_a_feature_fires_is_counted_token_by_token() -> None:
    model, transcoders, rows = described("llama")
    pages = ag.describe_features(model, rows, transcoders=transcoders)
    acts = activations(model, transcoders, rows, 1)
    n_checked = 0
    for feature in range(0, N_FEATURES, 6):
        page = pages[1, feature]
        if not 0 < page["n_firings"] <= 128:
            continue
        for kind, offset in (("token", 0), ("previous", -1), ("next", 1)):
            for one in page["tokens"][kind]:
                n_here = n_fires = 0
                for row, of_row in zip(rows.rows, acts, strict=True):
                    for pos in range(1, len(row)):
                        at = pos + offset
                        if 0 <= at < len(row) and model.token_text(int(row[at])) == one["value"]:
                            n_here += 1
                            n_fires += bool(of_row[pos - 1, feature])
                assert one["share_of_firings"] == pytest.approx(n_fires / page["n_firings"])
                assert one["fires_there"] == pytest.approx(n_fires / n_here)
                n_checked += 1
        for one in page["tokens"]["position"]:
            n_fires = sum(bool(a[one["value"] - 1, feature]) for a in acts if len(a) >= one["value"])
            assert one["share_of_firings"] == pytest.approx(n_fires / page["n_firings"])
    assert n_checked > 20


def test_features_that_fire_together_and_lead_to_each_other() -> None:
    model, transcoders, rows = described("llama")
    pages = ag.describe_features(model, rows, transcoders=transcoders)
    acts = [np.concatenate(activations(model, transcoders, rows, layer)) for layer in range(N_LAYERS)]
    for layer in range(N_LAYERS):
        for feature in range(0, N_FEATURES, 11):
            page, mine = pages[layer, feature], acts[layer][:, feature]
            if not mine.any():
                continue
            cosines, given, taken = {}, {}, {}
            for other in range(N_LAYERS):
                for each in range(N_FEATURES):
                    theirs = acts[other][:, each]
                    if (other, each) == (layer, feature) or not theirs.any():
                        continue
                    product = float(mine @ theirs)
                    cosines[other, each] = product / np.sqrt(float(mine @ mine) * float(theirs @ theirs))
                    lower, upper = (
                        ((other, each), (layer, feature)) if other < layer else ((layer, feature), (other, each))
                    )
                    if other == layer:
                        continue
                    # what is written into all layers between reaches the upper feature's read point
                    written = transcoders.layers[lower[0]].W_dec[lower[1]][: upper[0] - lower[0]].sum(0)
                    weight = float(written @ transcoders.layers[upper[0]].W_enc[upper[1]])
                    if other < layer:
                        taken[other, each] = weight * product / mine.sum()
                    else:
                        given[other, each] = weight * product / theirs.sum()
            for name, expected in (("together", cosines), ("inputs", taken), ("outputs", given)):
                best = sorted(expected, key=lambda place: -abs(expected[place]))[:8]
                found = {(one["layer"], one["feature"]): one["weight"] for one in page[name]}
                assert len(found) == len(best)
                for place, weight in found.items():
                    assert weight == pytest.approx(expected[place], rel=1e-3, abs=1e-5)
                assert set(found) == set(best)


def test_some_features_have_the_pages_that_they_have_among_all(demo_pages: ag.FeaturePages) -> None:
    model = ag.load_model("demo")
    some = ag.describe_features(model, SENTENCES * 3, ["3/458", "1/1023", (0, 7)])
    assert list(some) == ["0/7", "1/1023", "3/458"]
    for name in some:
        assert is_close(some[name].record, demo_pages[name].record)
    graph = ag.trace(model, SENTENCES[0], max_feature_nodes=20)
    of_graph = ag.describe_features(model, SENTENCES, graph)
    nodes = graph.nodes[graph.nodes["kind"] == "feature"]
    assert set(of_graph) == {
        f"{layer}/{feature}" for layer, feature in zip(nodes["layer"], nodes["feature"], strict=True)
    }


def test_a_layer_is_described_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    model, transcoders, rows = described("llama")
    found = ag.describe_features(model, rows, ["1/*", "0/2"], transcoders=transcoders)
    assert list(found) == ["0/2", *(f"1/{i}" for i in range(N_FEATURES))]
    with pytest.raises(FeatureError, match=r"'1/\*5' names no feature"):
        ag.describe_features(model, rows, ["1/*5"], transcoders=transcoders)
    with pytest.raises(FeatureError, match="there is no feature 9/0"):
        ag.describe_features(model, rows, ["9/*"], transcoders=transcoders)
    monkeypatch.setattr(describe, "free_bytes", lambda _: 5 * bytes_per_feature(rows.n_tokens, WINDOW))
    with pytest.raises(FeatureError, match=r"6 features may keep .* describe fewer"):
        ag.describe_features(model, rows, [(0, i) for i in range(6)], transcoders=transcoders)


def test_of_a_small_text_less_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, transcoders, rows = described("llama")
    free = N_LAYERS * N_FEATURES * bytes_per_feature(rows.n_tokens, WINDOW) // 2
    monkeypatch.setattr(describe, "free_bytes", lambda _: free)
    with pytest.raises(FeatureError, match="describe fewer"):
        ag.describe_features(model, rows, transcoders=transcoders)
    pages = ag.describe_features(model, rows.first_tokens(6), transcoders=transcoders)
    assert pages.card["cost"]["most_bytes_kept"] < free
    assert max(len(feature_records.packed(page.record)) for page in pages.values()) < bytes_per_feature(6, WINDOW)


def test_examples_of_single_characters_have_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model, transcoders, rows = described("gpt2", activation="relu")
    monkeypatch.setattr(type(model), "token_text", lambda _, token: chr(0x4E00 + token))
    pages = ag.describe_features(model, rows, ["0/3"], transcoders=transcoders)
    assert pages.card["settings"]["window"] == [5 * each for each in WINDOW]
    of_rows = [acts[:, 3] for acts in activations(model, transcoders, rows, 0)]
    longest = max(of_rows, key=len)
    (example,) = (
        one for one in pages["0/3"]["examples_quantiles"][0]["examples"] if len(one["tokens"]) == len(longest)
    )
    assert len(longest) > sum(WINDOW) + 1 and example["train_token_ind"] == longest.argmax()
    np.testing.assert_allclose(example["tokens_acts_list"], longest, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
def test_only_the_needed_encoder_rows_give_the_same(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, transcoders, rows = described("llama", activation=activation)
    chosen = [(1, 3), (1, 20)]
    whole = ag.describe_features(model, rows, chosen, transcoders=transcoders)
    monkeypatch.setattr("attrgraph.features.collect._MANY_FEATURES", 8)
    few = ag.describe_features(model, rows, chosen, transcoders=transcoders)
    for place in chosen:
        assert whole[place]["n_firings"] == few[place]["n_firings"] > 0
        assert whole[place]["act_max"] == pytest.approx(few[place]["act_max"], rel=1e-5)
        assert whole[place]["together"] == few[place]["together"]


def test_batches_make_no_difference() -> None:
    model, transcoders, rows = described("llama")
    large, small = (ag.describe_features(model, rows, transcoders=transcoders, batch_tokens=n) for n in (4096, 16))
    for name in large:
        a, b = large[name], small[name]
        assert (a["n_firings"], a["label"]) == (b["n_firings"], b["label"])
        assert [one["tokens"] for one in a["examples_quantiles"][0]["examples"]] == [
            one["tokens"] for one in b["examples_quantiles"][0]["examples"]
        ]
        # sums of terms of about 10 in float32, added up in another order: 8 roundings
        np.testing.assert_allclose(a["quantile_values"], b["quantile_values"], rtol=1e-4, atol=1e-5)


def test_a_stopped_run_goes_on_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, transcoders, rows = described("llama")
    monkeypatch.setattr(describe, "_SECONDS_BETWEEN_STATES", 0.0)
    state, how = tmp_path / "pages.state", {"transcoders": transcoders, "batch_tokens": 32}
    whole = ag.describe_features(model, rows, **how)

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "describe" and done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ag.describe_features(model, rows, **how, state=state, progress=stop)
    state.unlink()
    monkeypatch.setattr(describe, "_SECONDS_BETWEEN_STATES", 1e9)
    with pytest.raises(KeyboardInterrupt):  # what was counted is kept first
        ag.describe_features(model, rows, **how, state=state, progress=lambda *_: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(describe, "_SECONDS_BETWEEN_STATES", 0.0)
    done: list[int] = []
    again = ag.describe_features(
        model, rows, **how, state=state, progress=lambda phase, n, _: done.append(n) if phase == "describe" else None
    )
    assert done[0] > 0 and not state.exists()
    for name in whole:
        assert feature_records.packed(again[name].record) == feature_records.packed(whole[name].record)
    ag.describe_features(model, rows, **how)
    with pytest.raises(KeyboardInterrupt):
        ag.describe_features(model, rows, **how, state=state, progress=stop)
    with pytest.raises(ag.AttrGraphError, match="state of another run"):
        ag.describe_features(model, make_rows(), **how, state=state)


def test_documents_in_python_are_lines_of_a_file(tmp_path: Path) -> None:
    model = ag.load_model("demo")
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(SENTENCES) + "\n")
    rows, same = ag.read_corpus(model, [path]), rows_of(model, [*SENTENCES, " "])
    assert rows.digest() == same.digest() and rows.document == same.document
