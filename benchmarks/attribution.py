"""Attribution against its peers: `python benchmarks/attribution.py [-o OUT.json]`.

Builds an untrained model and transcoders of a real model's shape (what the weights are does not change the amount of
work; how many features are active does, and is set), then traces one prompt with each engine, in a process of its own
so that peak memory is that engine's:

- ours: `attrgraph.trace`;
- grouped: circuit-tracer's method in its best possible form: autograd through the frozen model on a batch of copies,
  edges by one matrix product per layer and position over decoder rows gathered once, of the features that ours chose;
  with `--sample K` only every K-th batch is computed, and its seconds count K times;
- circuit-tracer: as installed, if it is, at each of `--peer-batches`; the fastest counts.

An engine that takes longer than `--limit-minutes` is stopped, and the result says so. Results are added to those that
OUT.json holds, and take the place of the same case's.

Edges between features that both engines have are compared with ours (relative Frobenius distance).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from work import edge_work, machine, machine_limits, now, peak_gib

import attrgraph as ag
from attrgraph.attribution.replacement import LocalReplacement, build_replacement
from attrgraph.attribution.sources import Sources
from attrgraph.attribution.sweep import feature_reads
from attrgraph.kernels.edge_rows import edge_rows
from attrgraph.memory import free_bytes
from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel
from attrgraph.transcoders import LayerWeights, TranscoderConfig, Transcoders, save_transcoders
from attrgraph.transcoders.config import CROSS_LAYER, PER_LAYER

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2",
        "n_layer": 12,
        "n_embd": 768,
        "n_head": 12,
        "vocab_size": 50257,
        "n_positions": 1024,
    },
    # grouped heads: four query heads share a value head
    "llama": {
        "model_type": "llama",
        "num_hidden_layers": 16,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
    },
}
N_FEATURES = 4096


def build(folder: Path, shape: str, *, is_cross_layer: bool, active_share: float, seed: int = 0) -> None:
    """A model and ReLU transcoders of which about `active_share` of features is on at a token."""
    settings = dict(SHAPES[shape])
    hf_model = create_hf_model(settings.pop("model_type"), seed=seed, bos_token_id=0, eos_token_id=0, **settings)
    if shape.startswith("gpt2"):
        hf_model.config.n_ctx = hf_model.config.n_positions  # TransformerLens reads the old name
    hf_model.save_pretrained(folder / "model")
    write_tokenizer(folder / "model", settings["vocab_size"])
    model = LanguageModel(hf_model)
    generator = torch.Generator().manual_seed(seed)
    run = model.run(torch.randint(1, model.d_vocab, (256,), generator=generator))
    layers = []
    for layer, block in enumerate(run.blocks):
        read, d = block.read("hook_resid_mid")[1:], model.d_model
        W_enc = torch.randn(N_FEATURES, d, generator=generator) / d**0.5 / read.square().mean().sqrt()
        b_enc = -torch.quantile((read @ W_enc.T).flatten()[:1_000_000], 1 - active_share).expand(N_FEATURES).clone()
        n_targets = model.n_layers - layer if is_cross_layer else 1
        W_dec = torch.randn(N_FEATURES, n_targets, d, generator=generator) * 0.02
        layers.append(LayerWeights(W_enc, b_enc, W_dec, torch.zeros(d)))
    kind = CROSS_LAYER if is_cross_layer else PER_LAYER
    save_transcoders(Transcoders(layers, TranscoderConfig(model_kind=kind, model_name="bench")), folder / "transcoders")


def write_tokenizer(folder: Path, d_vocab: int) -> None:
    """Without one circuit-tracer does not load a model."""
    words = {f"w{i}": i for i in range(d_vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="w0", eos_token="w0", pad_token="w0")
    fast.save_pretrained(folder)


def prompt_ids(n_tokens: int, d_vocab: int) -> Tensor:
    """BOS (id 0 here) and random tokens."""
    ids = torch.randint(1, d_vocab, (n_tokens,), generator=torch.Generator().manual_seed(1))
    ids[0] = 0
    return ids


def run_ours(folder: Path, n_tokens: int, n_rows: int, n_repeats: int, device: str) -> dict[str, Any]:
    """Trace, and keep the graph for comparison; seconds by phase are of the fastest run."""
    model = ag.load_model(str(folder / "model"), transcoders=str(folder / "transcoders"), device=device)
    ids = prompt_ids(n_tokens, model.d_vocab).tolist()
    runs: list[tuple[float, dict[str, float]]] = []
    peaks: list[float] = []
    for _ in range(n_repeats):
        phases: dict[str, float] = {}
        started = last = time.perf_counter()

        def mark(phase: str, done: int, total: int) -> None:
            nonlocal last
            now = time.perf_counter()
            phases[phase] = phases.get(phase, 0.0) + now - last  # noqa: B023 (called in this turn only)
            last = now

        graph = ag.trace(model, ids, max_feature_nodes=n_rows, progress=mark)
        runs.append((time.perf_counter() - started, {**phases, "rest": time.perf_counter() - last}))
        peaks.append(peak_gib(device))
    graph.save(folder / "ours.safetensors", overwrite=True)
    return {
        "seconds": [seconds for seconds, _ in runs],
        "phases": min(runs, key=lambda run: run[0])[1],
        "peak_gib": peaks[0],  # of one trace, as the peer's
        "work": work_of(model, ids, graph, min(run[1]["edges"] for run in runs)),
        "n_active": graph.metadata["selection"]["n_active"],
        "checks": graph.metadata["checks"],
    }


@torch.no_grad()
def work_of(model: LanguageModel, ids: list[int], graph: ag.Graph, seconds: float) -> dict[str, float]:
    """What computing the graph's edges took, beside the machine's limits."""
    assert model.transcoders is not None
    token_ids = torch.tensor(ids, device=model.device)
    is_bos = torch.arange(len(ids), device=model.device) == 0
    local = build_replacement(model.run(token_ids), model.transcoders, is_bos)
    needed = edge_work(local, feature_reads(local, places_of(local, feature_keys(graph))))
    limits = machine_limits("cpu" if model.device.type == "cpu" else str(model.device))
    return {
        **needed,
        **limits,
        "share_of_flop_per_second": needed["flop"] / seconds / limits["flop_per_second"],
        "share_of_bytes_per_second": needed["bytes"] / seconds / limits["bytes_per_second"],
    }


def places_of(local: LocalReplacement, keys: list[tuple[int, int, int]]) -> Tensor:
    """Which active features have these layers, positions and numbers."""
    columns = (column.tolist() for column in (local.active.layer, local.active.pos, local.active.feature))
    place = {key: i for i, key in enumerate(zip(*columns, strict=True))}
    return torch.tensor([place[key] for key in keys], device=local.active.layer.device)


@torch.no_grad()
def run_grouped(folder: Path, n_tokens: int, batch: int, n_repeats: int, sample: int, device: str) -> dict[str, Any]:
    model = ag.load_model(str(folder / "model"), transcoders=str(folder / "transcoders"), device=device)
    assert model.transcoders is not None
    keys = feature_keys(ag.load_graph(folder / "ours.safetensors"))
    seconds = []
    for _ in range(n_repeats):
        started = time.perf_counter()
        ids = prompt_ids(n_tokens, model.d_vocab).to(model.device)
        local = build_replacement(model.run(ids), model.transcoders, torch.arange(n_tokens, device=ids.device) == 0)
        active = local.active
        chosen = places_of(local, keys)
        order = active.layer[chosen].argsort(descending=True, stable=True)
        sources = Sources(local)
        sources.is_kept = sources.n_bytes < free_bytes(model.device) // 2
        if sources.is_kept:
            next(sources.into(0, n_tokens))  # decoder rows are gathered once, not once for each batch
        batches = chosen[order].split(batch)
        some = batches[min(sample // 2, len(batches) - 1) :: sample]
        ready = now(device)
        rows = torch.cat([grouped_rows(local, sources, part) for part in some])
        done = now(device)
        seconds.append(ready - started + (done - ready) * len(batches) / len(some))
    column_of, targets = sources.order.argsort(), torch.cat(some)
    edges = rows[:, column_of[chosen]] * active.activation[chosen]
    place = {index: i for i, index in enumerate(chosen.tolist())}
    target_keys = [keys[place[index]] for index in targets.tolist()]
    return {
        "seconds": seconds,
        "n_batches": len(batches),
        "n_sampled": len(some),
        "distance": distance(folder, target_keys, keys, edges.cpu().numpy()),
    }


def grouped_rows(local: LocalReplacement, sources: Sources, targets: Tensor) -> Tensor:
    """Edges into some features: from all features, by the unit of activation; those from errors only cost time here."""
    run, active, n = local.run, local.active, len(targets)
    d = run.embedding.shape[1]
    with torch.enable_grad():
        outs = [run.embedding.new_zeros(n, run.n_pos, d).requires_grad_() for _ in run.blocks]
        stream = run.embedding.expand(n, -1, -1)
        reads = []
        for block, out in zip(run.blocks, outs, strict=True):
            norm, attention = block.attention_norm, block.attention
            centred = stream - stream.mean(-1, keepdim=True) if norm.is_centered else stream
            normed = centred * norm.scale * (1.0 if norm.weight is None else norm.weight)
            n_heads, _, d_head = attention.W_O.shape
            values = (normed @ attention.W_V.flatten(0, 1).T).view(n, run.n_pos, -1, d_head).transpose(1, 2)
            mixed = attention.pattern @ values.repeat_interleave(n_heads // len(attention.W_V), dim=1)
            W_O = attention.W_O.permute(0, 2, 1).reshape(n_heads * d_head, d)
            stream = stream + mixed.transpose(1, 2).reshape(n, run.n_pos, n_heads * d_head) @ W_O
            reads.append(stream)
            stream = stream + out
        seen = torch.stack([reads[int(active.layer[t])][i, int(active.pos[t])] for i, t in enumerate(targets)])
        below = int(active.layer[targets].max())
        reads_at = feature_reads(local, targets).vector
        gradients = torch.autograd.grad((seen * reads_at).sum(), outs[:below]) if below else ()
    rows, errors = run.embedding.new_zeros(n, len(active)), run.embedding.new_zeros(n, run.n_layers, run.n_pos)
    for layer, gradient in enumerate(gradients):
        for writes in sources.into(layer, run.n_pos):
            edge_rows(gradient, writes, rows)
        errors[:, layer] = torch.einsum("rpd,pd->rp", gradient, local.errors[layer])
    return rows


def run_circuit_tracer(folder: Path, n_tokens: int, n_rows: int, batch: int, device: str) -> dict[str, Any]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from circuit_tracer import ReplacementModel, attribute
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set

    where = folder / "transcoders"
    options: dict[str, Any] = {"dtype": torch.float32, "device": torch.device(device)}
    hooks: dict[str, Any] = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    if (where / "W_dec_0.safetensors").exists():
        transcoders = load_clt(str(where), lazy_decoder=False, scan="bench", **hooks, **options)
    else:
        paths = {layer: str(where / f"layer_{layer}.safetensors") for layer in range(len(list(where.glob("layer_*"))))}
        lazy = {"lazy_encoder": False, "lazy_decoder": False}
        transcoders = load_transcoder_set(paths, scan="bench", **lazy, **hooks, **options)
    hf_model = AutoModelForCausalLM.from_pretrained(folder / "model")
    if hf_model.config.model_type == "gpt2":
        # TransformerLens takes the architecture from a name that it knows
        (folder / "gpt2").unlink(missing_ok=True)
        (folder / "gpt2").symlink_to(folder / "model")
        os.chdir(folder)
        parts = {"hf_model": hf_model, "tokenizer": AutoTokenizer.from_pretrained(folder / "model")}
        model = ReplacementModel.from_pretrained_and_transcoders(
            "gpt2", transcoders, backend="transformerlens", **parts, **options
        )
    else:
        name = str(folder / "model")
        model = ReplacementModel.from_pretrained_and_transcoders(name, transcoders, backend="nnsight", **options)
    ids = prompt_ids(n_tokens, hf_model.config.vocab_size)
    started = time.perf_counter()
    graph = attribute(ids, model, batch_size=batch, max_feature_nodes=n_rows, verbose=False)
    seconds = time.perf_counter() - started
    keys = [tuple(key) for key in graph.active_features[graph.selected_features].tolist()]
    edges = graph.adjacency_matrix[: len(keys), : len(keys)].cpu().numpy()
    return {
        "seconds": [seconds],
        "distance": distance(folder, keys, keys, edges),
        "n_active": len(graph.active_features),
    }


def feature_keys(graph: ag.Graph) -> list[tuple[int, int, int]]:
    nodes = graph.nodes[graph.nodes["kind"] == "feature"]
    return list(zip(*(nodes[name].tolist() for name in ("layer", "pos", "feature")), strict=True))


def distance(folder: Path, targets: list[Any], sources: list[Any], edges: np.ndarray) -> dict[str, Any]:
    """Of edges between features that our graph has too, and into how many targets."""
    graph = ag.load_graph(folder / "ours.safetensors")
    ours = {key: i for i, key in enumerate(feature_keys(graph))}
    rows, columns = ([i for i, key in enumerate(keys) if key in ours] for keys in (targets, sources))
    expected = edges[np.ix_(rows, columns)]
    at = [ours[targets[i]] for i in rows], [ours[sources[i]] for i in columns]
    got = graph.adjacency[at[0]][:, at[1]].toarray()
    size = float(np.linalg.norm(expected))
    # targets without a feature below them have no edges to compare
    relative = float(np.linalg.norm(got - expected)) / size if size else None
    return {"relative": relative, "n_features": len(rows)}


def run_engine(arguments: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: one engine, one prompt."""
    folder, n_tokens, n_rows, device = arguments.folder, arguments.tokens[0], arguments.rows[0], arguments.device
    match arguments.engine:
        case "ours":
            result = run_ours(folder, n_tokens, n_rows, arguments.repeats, device)
        case "grouped":
            result = run_grouped(folder, n_tokens, arguments.batch, arguments.repeats, arguments.sample, device)
        case _:
            result = run_circuit_tracer(folder, n_tokens, n_rows, arguments.batch, device)
    return {"peak_gib": peak_gib(device)} | result


def in_own_process(
    engine: str, folder: Path, arguments: argparse.Namespace, n_tokens: int, n_rows: int, batch: int
) -> dict[str, Any]:
    """One engine's result, or why there is none."""
    command = [sys.executable, __file__, "--engine", engine, "--folder", str(folder), "--device", arguments.device]
    numbers = {"tokens": n_tokens, "rows": n_rows, "batch": batch}
    numbers |= {name: getattr(arguments, name) for name in ("repeats", "sample") if hasattr(arguments, name)}
    command += [word for name, number in numbers.items() for word in (f"--{name}", str(number))]
    limit_minutes = getattr(arguments, "limit_minutes", None)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_minutes and 60 * limit_minutes)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit_minutes:g} minutes"}
    if done.returncode:
        # a process that is killed, as for want of memory, says nothing
        return {"failed": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(folder: Path, arguments: argparse.Namespace, n_tokens: int, n_rows: int) -> dict[str, Any]:
    """All engines on one prompt, ours first."""
    ours = in_own_process("ours", folder, arguments, n_tokens, n_rows, 0)
    print(f"  ours {ours}", flush=True)
    found: dict[str, Any] = {"n_tokens": n_tokens, "rows": n_rows, "ours": ours}
    engines = [("grouped", batch) for batch in arguments.grouped_batches]
    if find_spec("circuit_tracer") is not None:
        engines += [("circuit-tracer", batch) for batch in arguments.peer_batches]
    for engine, batch in engines if "seconds" in ours else []:
        result = in_own_process(engine, folder, arguments, n_tokens, n_rows, batch)
        found.setdefault(engine, {})[str(batch)] = result
        ratio = median(result["seconds"]) / median(ours["seconds"]) if "seconds" in result else float("nan")
        print(f"  {engine}, batch {batch}: {ratio:.1f} times ours; {result}", flush=True)
    return found


def add_result(path: Path, found: dict[str, Any]) -> None:
    """To those of the file, in the place of the same case's."""

    def case(result: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(result[name] for name in ("shape", "kind", "rows", "n_tokens"))

    earlier = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []
    results = [result for result in earlier if case(result) != case(found)]
    results = sorted([*results, found], key=case)
    path.write_text(json.dumps({"results": results}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["gpt2"], choices=SHAPES)
    parser.add_argument("--kinds", nargs="+", default=[CROSS_LAYER, PER_LAYER], choices=[CROSS_LAYER, PER_LAYER])
    parser.add_argument("--tokens", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--rows", nargs="+", type=int, default=[1000])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--active-share", type=float, default=0.0118)  # 13,859 active features at 16 tokens
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sample", type=int, default=1)
    parser.add_argument("--limit-minutes", type=float)
    parser.add_argument("--grouped-batches", nargs="*", type=int, default=[64, 256])
    parser.add_argument("--peer-batches", nargs="*", type=int, default=[16, 64])
    parser.add_argument("--folder", type=Path, help="where model and transcoders are built; a temporary one by default")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    if arguments.engine:
        print(json.dumps(run_engine(arguments)))
        return
    names = [
        name
        for name in ("torch", "transformers", "numpy", "scipy", "circuit-tracer")
        if find_spec(name.replace("-", "_")) is not None
    ]
    versions = {"python": platform.python_version()} | {name: version(name) for name in names}
    cases = product(arguments.shapes, arguments.kinds, arguments.rows, arguments.tokens)
    with tempfile.TemporaryDirectory() as temporary:
        for shape, kind, n_rows, n_tokens in cases:
            folder = (arguments.folder or Path(temporary)) / f"{shape}-{kind}"
            if not folder.exists():
                folder.mkdir(parents=True)
                build(folder, shape, is_cross_layer=kind == CROSS_LAYER, active_share=arguments.active_share)
            print(f"{shape}, {kind}, {n_tokens} tokens, {n_rows} rows", flush=True)
            found = compare(folder, arguments, n_tokens, n_rows)
            if arguments.output:
                where = {"machine": machine(arguments.device), "versions": versions}
                add_result(arguments.output, {"shape": shape, "kind": kind, **where, **found})


if __name__ == "__main__":
    main()
