"""`attrgraph estimate`."""

from dataclasses import asdict

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import print_json
from attrgraph.cli.trace import TraceOptions


def estimate(
    prompt: options.Prompt,
    choice: options.ModelOptions,
    settings: TraceOptions,
    reading: options.PromptOptions,
    memory_budget: options.MemoryBudget = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what a trace will cost: nodes, memory, seconds.

    Runs the model, counts its active features, and times a sample of the work.

    \b
    Example:
      attrgraph estimate "in the state containing dallas the capital is"
    """
    asked, how = reading.read(prompt), reading.how()

    from attrgraph.memory import in_words

    cost = ag.estimate(choice.load(), asked, memory_budget=memory_budget, **asdict(settings), **how)
    if as_json:
        print_json(cost.to_dict())
        return
    print(f"tokens    {cost.n_tokens}")
    print(f"features  {cost.n_active} active, {cost.n_selected} of them in the graph; {cost.n_nodes} nodes")
    of_phases = ", ".join(f"{phase} {in_words(n)}" for phase, n in cost.bytes.items())
    print(f"memory    {in_words(cost.peak_bytes)} at its peak, besides the weights ({of_phases})")
    print(f"process   {in_words(cost.total_bytes)} at its peak, in all")
    phases = ", ".join(f"{phase} {value:.2f}" for phase, value in cost.seconds.items())
    print(f"seconds   {sum(cost.seconds.values()):.2f} ({phases})")
