"""Train transcoders on a model made by others and trace it: `python benchmarks/real_model.py MODEL TEXT -o OUT.json`.

MODEL is a folder in Hugging Face format with a tokenizer, TEXT a file with one text a line. Trains a cross-layer and a
per-layer set with the package's own trainer, traces a prompt with each, and writes what was measured.
"""

import argparse
import json
import platform
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import attrgraph as ag
from attrgraph.activations import TokenBatch, activation_batch
from attrgraph.live_replacement import live_replacement_logits
from attrgraph.transcoders.train import ActivationBatch, TrainConfig, train_transcoders


def token_rows(
    model: ag.LanguageModel, texts: list[str], *, n_rows: int, n_pos: int, seed: int
) -> Iterator[TokenBatch]:
    """Endless batches of the texts' beginnings; the first token is not trained on if it is BOS."""
    rng = random.Random(seed)
    while True:
        token_ids = torch.zeros(n_rows, n_pos, dtype=torch.int64)
        is_trained = torch.zeros(n_rows, n_pos, dtype=torch.bool)
        for row, text in enumerate(rng.sample(texts, n_rows)):
            ids = model.tokenize(text)[:n_pos]
            token_ids[row, : len(ids)] = ids
            is_trained[row, : len(ids)] = ids != model.bos_token_id
        yield TokenBatch(token_ids, is_trained)


@torch.no_grad()
def agreement(model: ag.LanguageModel, transcoders: ag.Transcoders, tokens: TokenBatch) -> float:
    """Share of tokens at which the model with all MLPs replaced prefers the same next token."""
    expected = model.hf_model(input_ids=tokens.token_ids, use_cache=False).logits.argmax(-1)
    replaced = live_replacement_logits(model, transcoders, tokens.token_ids).argmax(-1)
    return float((expected == replaced)[tokens.is_trained].float().mean())


def measure(folder: Path, text: Path, *, n_steps: int, prompt: str | None) -> dict[str, object]:
    """Train both kinds and trace with each."""
    model = ag.load_model(folder)
    n_pos = min(64, model.n_context)
    # a token is at least a character, so this fits the context with BOS
    lines = (line[: model.n_context - 1] for line in text.read_text(encoding="utf-8").splitlines())
    texts = [line for line in lines if line.strip()]
    held_out, texts = texts[:32], texts[32:]
    prompt = prompt or held_out[0][: n_pos // 2]
    results: dict[str, object] = {
        "model": f"{folder.name}: {model.family.name}, {model.n_layers} layers x {model.d_model}",
        "prompt": prompt,
    }
    for name, is_cross_layer in (("cross_layer", True), ("per_layer", False)):
        config = TrainConfig(n_features=512, k=24, is_cross_layer=is_cross_layer, n_steps=n_steps)
        rows = token_rows(model, texts, n_rows=16, n_pos=n_pos, seed=0)
        batches: Iterator[ActivationBatch] = (activation_batch(model, tokens) for tokens in rows)
        start = time.monotonic()
        trained = train_transcoders(batches, config).export(str(folder.name))
        seconds = time.monotonic() - start
        with tempfile.TemporaryDirectory() as scratch:
            ag.save_transcoders(trained, Path(scratch) / name)
            loaded = ag.load_model(folder, transcoders=Path(scratch) / name)
            graph = ag.trace(loaded, prompt)
        tokens = next(token_rows(model, held_out, n_rows=len(held_out), n_pos=n_pos, seed=1))
        logits = graph.nodes[graph.nodes["kind"] == "logit"]
        results[name] = {
            "training_seconds": round(seconds, 1),
            "held_out_agreement": agreement(model, trained, tokens),
            "nodes": graph.nodes["kind"].value_counts().to_dict(),
            "top_token": logits["token"].iloc[0],
            "scores": graph.scores()._asdict(),
            "checks": graph.metadata["checks"],
        }
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--prompt")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    measured = measure(arguments.model, arguments.text, n_steps=arguments.steps, prompt=arguments.prompt)
    measured["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    report = json.dumps(measured, indent=1)
    if arguments.output:
        arguments.output.write_text(report + "\n", encoding="utf-8")
    print(report)
