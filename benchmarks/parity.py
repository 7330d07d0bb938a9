"""Compare a trace with numbers that circuit-tracer computed: `python benchmarks/parity.py FOLDER`.

FOLDER holds `model/`, `transcoders/` and `reference.safetensors` with what circuit-tracer computes when all features
are included: `input_ids`, `active_features`, `logit_token_ids`, `rows` (feature rows `row_index`, then logit rows;
columns features, errors, embeddings), `node_mask`, `cumulative`, `edge_count` and `scores`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import attrgraph as ag


def compare(folder: Path) -> dict[str, object]:
    """What agrees, and how closely."""
    theirs = load_file(folder / "reference.safetensors")
    model = ag.load_model(folder / "model", transcoders=folder / "transcoders")
    graph = ag.trace(model, theirs["input_ids"].tolist())
    nodes = graph.nodes
    is_feature, is_logit = (nodes["kind"] == "feature").to_numpy(), (nodes["kind"] == "logit").to_numpy()
    wanted = np.concatenate([theirs["row_index"], np.flatnonzero(is_logit)])
    rows = graph.adjacency[wanted].toarray()[:, ~is_logit & (nodes["kind"] != "bias").to_numpy()]
    pruned = graph.prune()
    kept = set(nodes.index[:-1][theirs["node_mask"].astype(bool)])
    cumulative = np.abs(nodes["cumulative_influence"].to_numpy()[:-1] - theirs["cumulative"])
    return {
        "same_active_features": bool(
            np.array_equal(nodes.loc[is_feature, ["layer", "pos", "feature"]].to_numpy(), theirs["active_features"])
        ),
        "same_logit_targets": nodes.loc[is_logit, "feature"].tolist() == theirs["logit_token_ids"].tolist(),
        "edges_relative_frobenius": float(np.linalg.norm(rows - theirs["rows"]) / np.linalg.norm(theirs["rows"])),
        "same_pruned_nodes": set(pruned.nodes.index) == kept,
        "pruned_edges": [int(pruned.adjacency.nnz), int(theirs["edge_count"][0])],
        "largest_cumulative_influence_difference": float(cumulative.max()),
        "largest_score_difference": float(np.abs(np.array(graph.scores()) - theirs["scores"]).max()),
        "checks": graph.metadata["checks"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(json.dumps(compare(parser.parse_args().folder), indent=1))
