"""Circuits of the demo's heads, found on some prompts and tested on others: the table of docs/circuits.md.

python benchmarks/demo_circuits.py
"""

import attrgraph as ag
from attrgraph.circuits.circuit_runs import CircuitRuns
from attrgraph.circuits.rankings import order_of, scores_of_method

N_FOUND, N_TESTED, FOUND_SEED, TESTED_SEED = 60, 100, 0, 123
# of the metric, what a head costs at least that belongs to a circuit
LEAST_COST = 0.25
N_BY_MEAN = 5


def main() -> None:
    model = ag.load_model("demo")
    for behaviour in ("induction", "ioi", "agreement"):
        found_on = ag.prompts_of(behaviour, model, N_FOUND, seed=FOUND_SEED)
        tested_on = ag.prompts_of(behaviour, model, N_TESTED, seed=TESTED_SEED)
        for ablation in ("counterfactual", "mean"):
            runs = CircuitRuns(model, found_on, kinds=["head"], ablation=ablation)
            costs = scores_of_method("exact", runs)
            names = [part.name for part in runs.parts]
            if ablation == "mean":
                circuit = [names[i] for i in order_of(costs, absolute=False)[:N_BY_MEAN]]
            else:
                full = runs.measure(costs[None] == costs[None]).metric.mean()
                circuit = [name for name, cost in zip(names, costs, strict=True) if cost >= LEAST_COST * full]
            rows = ag.check_circuit(model, tested_on, circuit, ablation=ablation).table.set_index("test")
            print(
                f"| {behaviour} ({ablation}) | {', '.join(name.removeprefix('head:') for name in circuit)} "
                f"| {rows.broken['without circuit']:.0%} | {rows.broken['without matched']:.0%} "
                f"| {rows.faithfulness['circuit alone']:.2f} | {rows.faithfulness['worst removal']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
