"""Rebuild everything that ships with the demo: `python tools/demo/build.py --seed 0 -o DIR`.

Trains the language model, refuses it unless it answers every task and computes the two-hop answers at the city, trains
a cross-layer and a per-layer transcoder set on it, measures all of it, and writes the model card. About an hour
on two cores. Needs torch 2.9 or newer (for the Muon optimiser).
"""

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import draws
import torch
from card import model_card
from labels import label_features
from measure import SETS, measure, measure_model, requirements
from packing import SentencePacker
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from train_model import MODEL_CONFIG, STAGES, train_model

from attrgraph.data.activations import activations_of, divergence_on
from attrgraph.demo import world
from attrgraph.errors import AttrGraphError
from attrgraph.models.create import create_hf_model
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.load_model import load_model
from attrgraph.transcoders.folder import save_transcoders
from attrgraph.transcoders.training.export import export_transcoders
from attrgraph.transcoders.training.parameters import FeatureDictionary
from attrgraph.transcoders.training.streams import Activations
from attrgraph.transcoders.training.train_config import TrainConfig
from attrgraph.transcoders.training.trainer import Hooks, train_transcoders
from attrgraph.transcoders.transcoders import Transcoders

# TopK, so that rare words have features too; few active and few revived ones, so that those of a city's state seldom
# fire for other states as fillers.
TRANSCODER_CONFIG = TrainConfig(
    activation="topk",
    n_features=2048,
    l0=24.0,
    n_tokens=2_460_000,
    batch_tokens=1024,
    dead_after=150_000,
    dead_weight=1 / 8,
    dead_target_share=0.0,
    n_dead_active=32,
    token_weight_exponent=0.5,
    kl_weight=0.25,
    kl_share=0.5,
)
_ROWS_PER_BATCH, _BATCHES_PER_ROUND = 24, 64


def build_model(folder: Path, *, seed: int) -> LanguageModel:
    """Train the language model and write it with its tokenizer; returns it as loaded from there.

    Raises:
        AttrGraphError: the trained model fails a task or the ceiling test; try another seed.
    """
    hf_model = create_hf_model("llama", seed=seed, **MODEL_CONFIG)
    train_model(hf_model.train(), seed=seed, progress=_every(200, "model step"))
    hf_model.eval().requires_grad_(False)
    found = requirements({"model": measure_model(LanguageModel(hf_model))})
    faults = [f"{name} {value:.3f} < {least}" for name, value, least in found if value < least]
    if faults:
        raise AttrGraphError(f"seed {seed} gives a model that must not ship ({'; '.join(faults)}); try another seed.")
    hf_model.save_pretrained(folder)
    write_tokenizer(folder)
    return load_model(folder)


def build_transcoders(model: LanguageModel, folder: Path, *, is_cross_layer: bool, seed: int) -> None:
    """Train one set of transcoders on the model and write it in bfloat16."""
    config = replace(TRANSCODER_CONFIG, is_cross_layer=is_cross_layer, seed=seed)
    rounds = SentenceRounds(model, seed=seed)
    report = _every(200, f"{folder.name} step")
    hooks = Hooks(report=lambda _, record: report(record["step"], [record["nmse"], record["dead_fraction"]]))
    trained = train_transcoders(rounds, config, hooks=hooks, divergence=rounds.divergence)
    exported = export_transcoders(trained, rounds.round(0), "attrgraph-demo", dtype=torch.bfloat16)
    labels = label_features(model, exported)
    save_transcoders(Transcoders(exported.layers, exported.config, labels=labels), folder)


class SentenceRounds:
    """Rounds of the model's activations on fresh sentences, and the divergence on others."""

    def __init__(self, model: LanguageModel, *, seed: int) -> None:
        self._model, self._seed = model, seed

    def round(self, index: int) -> Activations:
        packer = SentencePacker(draws.FULL_MIX, n_rows=_ROWS_PER_BATCH, seed=1_000_003 * self._seed + 2 * index)
        parts = [activations_of(self._model, packer.next_batch().tokens) for _ in range(_BATCHES_PER_ROUND)]
        return Activations(torch.cat([p.reads for p in parts], 1), torch.cat([p.writes for p in parts], 1))

    def divergence(self, dictionary: FeatureDictionary, step: int) -> torch.Tensor:
        packer = SentencePacker(draws.FULL_MIX, n_rows=_ROWS_PER_BATCH, seed=1_000_003 * self._seed + 2 * step + 1)
        return divergence_on(self._model, packer.next_batch().tokens, dictionary)


def write_tokenizer(folder: Path) -> None:
    """A lower-casing tokenizer of whole words that puts `<bos>` in front."""
    tokenizer = Tokenizer(models.WordLevel(world.TOKEN_ID, unk_token=world.UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([world.PAD, world.BOS, world.UNKNOWN])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{world.BOS} $A", special_tokens=[(world.BOS, world.TOKEN_ID[world.BOS])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": world.BOS,
        "pad_token": world.PAD,
        "unk_token": world.UNKNOWN,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MODEL_CONFIG["max_position_embeddings"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")


def write_report(folder: Path, *, seed: int) -> None:
    """Measure what is in the folder and write `report.json` and the model card beside it."""
    measured = measure(folder)
    n_parameters = sum(p.numel() for p in load_model(folder / "model").hf_model.parameters())
    settings = {
        "seed": seed,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} CPU thread(s)",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "n_parameters": n_parameters,
        "d_vocab": len(world.VOCABULARY),
        "n_steps": sum(stage.n_steps for stage in STAGES),
        "n_features": TRANSCODER_CONFIG.n_features,
        "k": f"{TRANSCODER_CONFIG.l0 / MODEL_CONFIG['num_hidden_layers']:g}",
    }
    (folder / "report.json").write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(measured, settings), encoding="utf-8")


def _every(n: int, name: str) -> Any:
    started = time.monotonic()

    def report(step: int, value: Any) -> None:
        if step % n == 0:
            shown = ", ".join(f"{v:.4f}" for v in (value if isinstance(value, list) else [value]))
            print(f"{name} {step}: {shown} ({time.monotonic() - started:.0f} s)", flush=True)

    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only",
        choices=("model", *SETS, "report"),
        help="one step, on what is in the folder; sets can be trained side by side",
    )
    arguments = parser.parse_args()
    folder, seed, only = arguments.output, arguments.seed, arguments.only
    folder.mkdir(parents=True, exist_ok=only is not None)
    # one thread each: the sums of a step are then added in the same order on every machine
    torch.set_num_threads(1)
    if only in (None, "model"):
        build_model(folder / "model", seed=seed)
    for name, is_cross_layer in SETS.items():
        if only in (None, name):
            build_transcoders(load_model(folder / "model"), folder / name, is_cross_layer=is_cross_layer, seed=seed)
    if only in (None, "report"):
        write_report(folder, seed=seed)


if __name__ == "__main__":
    main()
