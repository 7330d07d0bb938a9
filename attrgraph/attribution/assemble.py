"""Put nodes and edges of one trace together into a `Graph`."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.attribution.rows import EdgeRows
from attrgraph.attribution.targets import LogitTargets
from attrgraph.graph.graph import Graph
from attrgraph.influence.influence import with_influence
from attrgraph.models.language_model import LanguageModel
from attrgraph.schema import with_names

# of edges that are looked through together: chosen, not tuned; some hundred thousand entries
_ROWS_AT_ONCE = 16


def assemble(model: LanguageModel, local: LocalReplacement, logits: LogitTargets, rows: EdgeRows) -> Graph:
    """Node table and adjacency: features, errors layer by layer, embeddings, logits, bias."""
    tokens = [model.token_text(int(i)) for i in local.run.token_ids]
    nodes = _nodes(local, logits, rows, tokens)
    adjacency = _adjacency(local, logits, rows)
    return Graph(with_influence(nodes, adjacency), adjacency, tokens, {"n_layers": local.run.n_layers})


def _nodes(local: LocalReplacement, logits: LogitTargets, rows: EdgeRows, tokens: list[str]) -> pd.DataFrame:
    run, active, names = local.run, local.active, local.transcoders.labels
    n_pos, n_layers, last = run.n_pos, run.n_layers, run.n_pos - 1
    f_layer, f_pos, f_index, f_value = (
        column[rows.selected].cpu().numpy() for column in (active.layer, active.pos, active.feature, active.activation)
    )
    e_layer, e_pos = np.divmod(np.arange(n_layers * n_pos), n_pos)
    token_ids, logit_ids = run.token_ids.cpu().numpy(), np.array(logits.token_id)
    token_at, texts = np.array(tokens, dtype=object), np.array(logits.text, dtype=object)
    values, probabilities = logits.value.cpu().numpy(), logits.probability.cpu().numpy()
    parts = [
        _part("feature", f_layer, f_pos, f_index, token_at[f_pos], activation=f_value),
        _part("error", e_layer, e_pos, -1, token_at[e_pos]),
        _part("embedding", np.full(n_pos, -1), np.arange(n_pos), token_ids, token_at),
        _part("logit", np.full(len(logits), n_layers), last, logit_ids, texts, values, probabilities),
        _part("bias", np.array([-1]), -1, -1, ""),
    ]
    return with_names(pd.concat(parts, ignore_index=True), names, n_layers=n_layers)


def _adjacency(local: LocalReplacement, logits: LogitTargets, rows: EdgeRows) -> sparse.csr_array:
    """Rows of features and logits, empty rows for all other nodes; columns moved from `EdgeRows` to nodes."""
    n_selected, n_logits = len(rows.selected), len(logits)
    n_between = (local.run.n_layers + 1) * local.run.n_pos  # errors and embeddings
    n_nodes = n_selected + n_between + n_logits + 1
    node_of = np.append(np.arange(n_selected + n_between), n_nodes - 1)  # logits are never sources

    blocks = [block.float().cpu().numpy() for block in (rows.features, rows.logits)]
    counts = [np.count_nonzero(block, axis=1) for block in blocks]
    n_edges = int(sum(count.sum() for count in counts))
    kind = np.int32 if max(n_edges, n_nodes) <= np.iinfo(np.int32).max else np.int64
    none = np.zeros(n_between, dtype=np.int64)
    indptr = np.cumsum(np.concatenate([[0], counts[0], none, counts[1], [0]])).astype(kind)
    data, indices = np.empty(n_edges, dtype=np.float32), np.empty(n_edges, dtype=kind)
    done = 0
    for block in blocks:
        for start in range(0, len(block), _ROWS_AT_ONCE):
            some = block[start : start + _ROWS_AT_ONCE]
            at = np.flatnonzero(some)
            data[done : done + len(at)] = some.reshape(-1)[at]
            indices[done : done + len(at)] = node_of[at % some.shape[1]]
            done += len(at)
    return sparse.csr_array((data, indices, indptr), shape=(n_nodes, n_nodes))


def _part(
    kind: str, layer: np.ndarray, pos: Any, feature: Any, token: Any, activation: Any = 0.0, probability: Any = 0.0
) -> pd.DataFrame:
    """The nodes of one kind; scalars hold for all of them."""
    part = pd.DataFrame({"kind": kind, "layer": layer.astype(np.int64)})
    values = {"pos": (pos, np.int64), "feature": (feature, np.int64), "token": (token, object)}
    values |= {"activation": (activation, np.float64), "probability": (probability, np.float64)}
    for name, (value, dtype) in values.items():
        part[name] = np.broadcast_to(np.asarray(value, dtype=dtype), len(part))
    return part
