"""A graph that is not exact is refused, with the layer at which the runs part, or marked in every output."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny import make_model, make_transcoders

import attrgraph as ag
from attrgraph.attribution.exactness import LIMITS
from attrgraph.cli.main import main
from attrgraph.errors import ModelLoadError, ResultError
from attrgraph.models.language_model import LanguageModel

Build = Callable[..., LanguageModel]


def scaled(module: Any, args: Any, output: Any) -> Any:
    """As a steering hook that somebody forgot to remove."""
    return (1.3 * output[0], *output[1:]) if isinstance(output, tuple) else 1.3 * output


@pytest.mark.parametrize("layer", [0, 1])
def test_a_hook_on_a_block_is_found_where_it_is(layer: int, traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("llama")
    with (
        model.layer_modules()[layer].register_forward_hook(scaled),
        pytest.raises(
            ResultError, match=rf"not exact: .* part before the MLP of layer {layer + 1}\. .*--allow-inexact"
        ),
    ):
        ag.trace(model, prompt)
    assert ag.trace(model, prompt).metadata["checks"]["is_exact"]


def test_a_hook_on_the_last_block_is_found_after_it(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("llama")
    with (
        model.layer_modules()[-1].register_forward_hook(scaled),
        pytest.raises(ResultError, match="part after the last layer"),
    ):
        ag.trace(model, prompt)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_hook_on_the_embedding_is_found(family: str, traced_model: Build, prompt: list[int]) -> None:
    model = traced_model(family)
    for module in (model.hf_model.get_input_embeddings(), model.layer_modules()[0]):
        hooked = (
            module.register_forward_hook(scaled)
            if module is not model.layer_modules()[0]
            else module.register_forward_pre_hook(lambda module, args: (args[0] + 0.1, *args[1:]))
        )
        with hooked, pytest.raises(ResultError, match=r"not exact: embeddings differ .* part at the embeddings\."):
            ag.trace(model, prompt)
    assert ag.trace(model, prompt).metadata["checks"]["is_exact"]


@pytest.mark.parametrize(("family", "factor"), [("llama", 24**0.5), ("gpt2", 24**0.5), ("gemma2", 24**-0.5)])
def test_only_a_family_that_scales_its_embeddings_may(
    family: str, factor: float, traced_model: Build, prompt: list[int]
) -> None:
    model = traced_model(family)
    hook = model.hf_model.get_input_embeddings().register_forward_hook(lambda module, args, output: factor * output)
    with hook, pytest.raises(ResultError, match=r"part at the embeddings\."):
        ag.trace(model, prompt)


def test_a_graph_that_is_allowed_is_marked_in_every_output(
    traced_model: Build, prompt: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, files = traced_model("llama"), [tmp_path / "g.safetensors", tmp_path / "g.json"]
    with model.layer_modules()[0].register_forward_hook(scaled):
        graph = ag.trace(model, prompt, allow_inexact=True)
    assert graph.metadata["checks"]["is_exact"] is False
    for file in files:
        ag.export_graph(graph, file)
        again = ag.load_graph(file)
        assert again.metadata["checks"]["is_exact"] is False
        assert "NOT EXACT: logits are off" in again.prune(0.3, 0.3).to_dot()
        assert main(["info", str(file)]) == 0
        assert "; NOT EXACT" in capsys.readouterr().out
    small = graph.prune(0.3, 0.3)
    assert "NOT EXACT: logits are off" in repr(graph)
    assert all("NOT EXACT: logits are off" in text for text in (small.explore(), small._repr_html_()))
    for ending in ("graphml", "gexf", "cyjs"):
        ag.export_graph(small, tmp_path / f"g.{ending}")
        assert "NOT EXACT: logits are off" in (tmp_path / f"g.{ending}").read_text()
    for table in (tmp_path / "t.csv", tmp_path / "t.nodes.csv"):
        ag.export_graph(small, tmp_path / "t.csv")
        assert not pd.read_csv(table)["is_exact"].any()


def test_what_is_frozen_is_refused_where_a_hook_changes_it(traced_model: Build, prompt: list[int]) -> None:
    model, change = traced_model("llama"), ag.Intervention((0, 3, 7), value=2.0)
    graph = ag.trace(model, prompt)
    logit = graph.nodes.index[graph.nodes["kind"] == "logit"][0]
    with model.layer_modules()[0].register_forward_hook(scaled):
        for mode in ("frozen", "frozen-attention"):
            with pytest.raises(ResultError, match=r"cannot be frozen exactly: .* part before the MLP of layer 1\."):
                ag.intervene(model, prompt, change, mode=mode)
        with pytest.raises(ResultError, match=r"changes the model's forward pass below layer 2 \(a hook"):
            ag.explain_attention(model, prompt, 2, 0, -1, -2)
        with pytest.raises(
            ModelLoadError, match=r"runs with model\.layers\.0 has a hook \(scaled\); .* nothing altered"
        ):
            ag.head_loadings(graph, "E_3_8", logit, model=model)
        # live, the model is as it is, with the hook
        steered = ag.intervene(model, prompt, change, mode="free")
        assert ag.generate(model, prompt, change, max_new_tokens=1, mode="free").token_ids == [
            int(steered.logits_after.argmax())
        ]
        marked = ag.trace(model, prompt, allow_inexact=True)
        found = ag.validate(model, marked, modes=["frozen"], mode="frozen", n_nodes=3, n_controls=0, n_resamples=2)
    said = found.to_dict()
    assert said["facts"]["is_exact"] is False and said["verdict"][0]["level"] == "weak"
    assert said["verdict"][1]["text"].startswith("The graph is not exact: logits are off by")
    assert not any("exactly" in statement.text for statement in found.verdict)
    projection = model.attention_module(1).q_proj
    with (
        projection.register_forward_hook(scaled),
        pytest.raises(ResultError, match="something changes the layer's forward pass"),
    ):
        ag.explain_attention(model, prompt, 1, 0, -1, -2)


def test_weights_that_swallow_sums_are_refused(traced_model: Build, prompt: list[int]) -> None:
    model = traced_model("llama")
    model.transcoders.layers[0].W_dec[:] *= 1e9
    with pytest.raises(ResultError, match=r"not exact|overflow"):
        ag.trace(model, prompt)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma2", "gpt_neox"])
def test_random_models_stay_below_half_of_their_precisions_limit(
    dtype: torch.dtype, family: str, prompt: list[int]
) -> None:
    model = make_model(family, dtype=dtype)
    model.transcoders = make_transcoders()
    checks = ag.trace(model, prompt).metadata["checks"]
    share = checks["logit_deviation"] / checks["logit_spread"]
    assert checks["is_exact"] and max(share, checks["input_sum_gap"]) < LIMITS[dtype] / 2
