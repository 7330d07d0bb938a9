"""Put nodes and edges of one trace together into a `Graph`."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from attrgraph.graph import BIAS_ID, Graph, with_influence
from attrgraph.models.language_model import LanguageModel
from attrgraph.replacement import LocalReplacement
from attrgraph.selection import EdgeRows
from attrgraph.targets import LogitTargets


def assemble(model: LanguageModel, local: LocalReplacement, logits: LogitTargets, rows: EdgeRows) -> Graph:
    """Node table and adjacency: features, errors layer by layer, embeddings, logits, bias."""
    run, active = local.run, local.active
    n_active, n_pos, n_layers, n_logits = len(active), run.n_pos, run.n_layers, len(logits)
    tokens = [model.token_text(int(i)) for i in run.token_ids]
    selected = rows.selected.cpu()
    f_layer, f_pos, f_index, f_value = (
        column[rows.selected].cpu().numpy() for column in (active.layer, active.pos, active.feature, active.activation)
    )
    e_layer, e_pos = np.divmod(np.arange(n_layers * n_pos), n_pos)
    positions, token_ids = np.arange(n_pos), run.token_ids.cpu().numpy()
    last, logit_ids = n_pos - 1, np.array(logits.token_id)
    names = np.array([*tokens, ""], dtype=object)
    parts = [
        _node_part("feature", f_layer, f_pos, f_index, names[f_pos], activation=f_value),
        _node_part("error", e_layer, e_pos, -1, names[e_pos]),
        _node_part("embedding", np.full(n_pos, -1), positions, token_ids, names[:-1]),
        _node_part("logit", np.full(n_logits, n_layers), last, logit_ids, np.array(logits.text, dtype=object),
                   activation=logits.value.cpu().numpy(), probability=logits.probability.cpu().numpy()),
        _node_part("bias", np.array([-1]), -1, -1, names[-1:]),
    ]  # fmt: skip
    nodes = pd.concat(parts, ignore_index=True)
    nodes.index = pd.Index(
        [f"{layer}_{i}_{pos}" for layer, i, pos in zip(f_layer, f_index, f_pos, strict=True)]
        + [f"{layer}_-1_{pos}" for layer, pos in zip(e_layer, e_pos, strict=True)]
        + [f"E_{i}_{pos}" for pos, i in enumerate(token_ids)]
        + [f"{n_layers + 1}_{i}_{last}" for i in logit_ids]
        + [BIAS_ID],
        name="node_id",
        dtype="str",
    )
    nodes["label"] = [_label(row) for row in nodes.itertuples()]

    n_nodes = len(nodes)
    columns = np.concatenate([selected.numpy(), np.arange(n_active, rows.logits.shape[1])])
    nodes_of_columns = np.concatenate([np.arange(n_nodes - n_logits - 1), [n_nodes - 1]])  # logits are never sources
    blocks = []
    for block in (rows.features, rows.logits):
        dense = sparse.coo_array(block[:, torch.from_numpy(columns).to(block.device)].cpu().numpy().astype(np.float32))
        shape = (len(block), n_nodes)
        blocks.append(sparse.csr_array((dense.data, (dense.row, nodes_of_columns[dense.col])), shape=shape))
    n_between = n_nodes - len(selected) - n_logits - 1
    blocks.insert(1, sparse.csr_array((n_between, n_nodes), dtype=np.float32))
    blocks.append(sparse.csr_array((1, n_nodes), dtype=np.float32))
    adjacency = sparse.csr_array(sparse.vstack(blocks, format="csr"))
    adjacency.sort_indices()
    return Graph(with_influence(nodes, adjacency), adjacency, tokens, {"n_layers": n_layers})


def _node_part(
    kind: str,
    layer: np.ndarray,
    pos: Any,
    feature: Any,
    token: np.ndarray,
    *,
    activation: Any = 0.0,
    probability: Any = 0.0,
) -> pd.DataFrame:
    part = pd.DataFrame({"kind": kind, "layer": layer.astype(np.int64)})
    values = {"pos": (pos, np.int64), "feature": (feature, np.int64), "token": (token, object)}
    values |= {"activation": (activation, np.float64), "probability": (probability, np.float64)}
    for name, (value, dtype) in values.items():
        part[name] = np.broadcast_to(np.asarray(value, dtype=dtype), len(part))
    return part


def _label(row: Any) -> str:
    match row.kind:
        case "feature":
            return f"L{row.layer} feature {row.feature}"
        case "error":
            return f"L{row.layer} error"
        case "embedding":
            return f'Emb: "{row.token}"'
        case "logit":
            return f'Output "{row.token}" (p={row.probability:.3f})'
    return "bias"
