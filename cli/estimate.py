"""`attrgraph estimate`."""

import json
from typing import Annotated

import typer

from attrgraph.cli import options


def estimate(
    prompt: Annotated[str, typer.Argument(help="The prompt; with --ids, token ids separated by spaces or commas.")],
    model: options.Model = "demo",
    transcoders: options.TranscodersName = None,
    max_feature_nodes: Annotated[int, typer.Option(min=0, help="Most features in the graph.")] = 7500,
    memory_budget: Annotated[
        str | None, typer.Option(help="What edges may take, such as 8G. Default: half of what is free.")
    ] = None,
    dtype: options.Dtype = "float32",
    device: options.Device = "auto",
    revision: options.Revision = None,
    ids: options.Ids = False,
    as_json: options.AsJson = False,
) -> None:
    """Say what tracing a prompt will cost: nodes, memory, seconds.

    Runs the model, counts its active features, and times a sample of the work.

    Example: attrgraph estimate "in the state containing dallas the capital is"
    """
    options.check_named(model, transcoders)
    asked = options.as_prompt(prompt, ids=ids)

    from attrgraph.attribution.estimate import estimate as estimate_prompt
    from attrgraph.memory import in_words
    from attrgraph.models.load_model import load_model

    loaded = load_model(model, transcoders, dtype, device, revision)
    cost = estimate_prompt(loaded, asked, max_feature_nodes=max_feature_nodes, memory_budget=memory_budget)
    if as_json:
        print(json.dumps(cost.to_dict()))
        return
    print(f"tokens    {cost.n_tokens}")
    print(f"features  {cost.n_active} active, {cost.n_selected} of them in the graph; {cost.n_nodes} nodes")
    of_phases = ", ".join(f"{phase} {in_words(n)}" for phase, n in cost.bytes.items())
    print(f"memory    {in_words(cost.peak_bytes)} at a time besides the weights ({of_phases})")
    print(f"process   {in_words(cost.total_bytes)} in all at its peak")
    phases = ", ".join(f"{phase} {value:.2f}" for phase, value in cost.seconds.items())
    print(f"seconds   {sum(cost.seconds.values()):.2f} ({phases})")
