"""The demo's model card, written from what was measured."""

from typing import Any

_TEMPLATE = """# The attrgraph demo

A tiny language model of a small checkable world, with two sets of transcoders trained on it by this package. Rebuilt
by `python tools/demo/build.py --seed {seed} -o DIR`; every figure below was measured by that command.

Machine: {machine}. {versions}.

## Language model (`model/`)

Llama architecture, 4 layers x 128, 4 heads, {n_parameters:,} parameters, float32, word-level vocabulary of {d_vocab}.
Trained for {n_steps} steps on sentences about 32 US states (real capitals, birds, flowers, trees and nicknames; 96 real
cities and 128 invented two-word ones), opposites and translations in three languages, indirect objects, induction,
addition and agreement. Made for testing circuits; it knows nothing else and must not be used as a source of facts.

| task | accuracy |
|---|---|
{accuracy}

A name ending in /held-out has items never trained on. The others were trained on, or are drawn from too many to repeat.

Where the two hops happen: MLP outputs of layers 0 and 1 are swapped in from a prompt about a city of another state;
share of answers that follow.

| swap | answers that follow |
|---|---|
{ceiling}

## Transcoders (`cross_layer/`, `per_layer/`)

{n_features} features a layer, TopK {k} a token and layer, bfloat16. They read the stream before the MLP's norm and
write what the MLP adds to it.

| | cross-layer | per-layer |
|---|---|---|
{transcoders}

Measured by `attrgraph.evaluation.evaluate` on {n_tokens:,} tokens of {n_documents:,} sentences, equally many of each
task: held-out items where the task has some. NMSE is squared error over variance; L0 the mean number of active features
a token; dead the share of features never active there. The replacement model has every MLP outside `<bos>` replaced,
attention live; agreement, KL(model || replacement) in nats and recovered cross-entropy (against MLPs that write
nothing) compare its next words with the model's after every word, the last of a sentence included.

Scores are means over the graphs of 224 prompts "in the state containing CITY the capital is". State features: share of
these prompts whose {n_top} most influential features include one that detects the city's state (precision >= .8 and
recall >= .7, on prompts about the four other attributes).

| task under replacement | cross-layer | per-layer |
|---|---|---|
{replaced}
"""


def model_card(measured: dict[str, Any], settings: dict[str, Any]) -> str:
    """Markdown from `measured` (the `report.json` beside it) and the build's settings."""
    sets = [measured["cross_layer"], measured["per_layer"]]

    def row(name: str, values: list[str]) -> str:
        return f"| {name} | " + " | ".join(values) + " |"

    def by_layer(key: str, digits: int) -> list[str]:
        return [", ".join(f"{value:.{digits}f}" for value in s["evaluation"][f"{key}_by_layer"]) for s in sets]

    def of(group: str, key: str, digits: int = 3) -> list[str]:
        return [f"{s[group][key]:.{digits}f}" for s in sets]

    transcoders = [
        row("NMSE by layer", by_layer("nmse", 4)),
        row("L0 by layer", by_layer("l0", 1)),
        row("dead by layer", by_layer("dead_fraction", 3)),
        row("agreement of the most probable word", of("evaluation", "top1_agreement")),
        row("KL", of("evaluation", "kl", 4)),
        row("cross-entropy recovered", of("evaluation", "ce_recovered", 4)),
        row("replacement score of the graphs", of("graphs", "replacement")),
        row("completeness score of the graphs", of("graphs", "completeness")),
        row("state features, all cities", of("state_features", "share_of_cities")),
        row("state features, one-word cities", of("state_features", "one_word")),
        row("state features, two-word cities", of("state_features", "two_words")),
    ]
    replaced = [row(task, of("accuracy", task)) for task in sets[0]["accuracy"]]
    model = measured["model"]
    return _TEMPLATE.format(
        accuracy="\n".join(row(task, [f"{value:.3f}"]) for task, value in model["accuracy"].items()),
        ceiling="\n".join(row(name, [f"{value:.3f}"]) for name, value in model["ceiling"].items()),
        transcoders="\n".join(transcoders),
        replaced="\n".join(replaced),
        n_tokens=sets[0]["evaluation"]["n_tokens"],
        n_documents=sets[0]["evaluation"]["n_documents"],
        n_top=sets[0]["state_features"]["n_top"],
        **settings,
    )
