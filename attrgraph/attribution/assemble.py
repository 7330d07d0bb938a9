"""Put nodes and edges of one trace together into a `Graph`."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from attrgraph.attribution.replacement import LocalReplacement
from attrgraph.attribution.rows import EdgeRows
from attrgraph.attribution.source_table import source_table
from attrgraph.attribution.targets import LogitTargets
from attrgraph.graph.graph import Graph
from attrgraph.influence.influence import bias_share, with_influence
from attrgraph.models.language_model import LanguageModel
from attrgraph.schema import with_names

# of edges that are looked through together: chosen, not tuned; some hundred thousand entries
_ROWS_AT_ONCE = 16


def assemble(
    model: LanguageModel, local: LocalReplacement, logits: LogitTargets, rows: EdgeRows, checks: dict[str, Any]
) -> Graph:
    """Node table (features, errors layer by layer, embeddings, logits, bias), adjacency, checks and the bias share."""
    run = local.run
    sources = source_table(model, local, rows.selected).assign(probability=0.0)
    targets = pd.DataFrame(
        {
            "kind": "logit",
            "layer": logits.reads.layer.cpu().numpy(),
            "pos": logits.reads.pos.cpu().numpy(),
            "feature": logits.token_id,
            "token": logits.text,
            "activation": logits.value.double().cpu().numpy(),
            "probability": logits.probability.double().cpu().numpy(),
        }
    )
    nodes = pd.concat([sources[:-1], with_names(targets, {}, n_layers=run.n_layers), sources[-1:]])
    adjacency = _adjacency(local, logits, rows)
    tokens = [model.token_text(i) for i in run.token_ids.tolist()]
    checks = checks | {"bias_share": bias_share(nodes, adjacency)}
    metadata = {"n_layers": run.n_layers, "checks": checks}
    return Graph(with_influence(nodes, adjacency), adjacency, tokens, metadata)


def _adjacency(local: LocalReplacement, logits: LogitTargets, rows: EdgeRows) -> sparse.csr_array:
    """Rows of features and logits, empty rows for all other nodes; columns moved from `EdgeRows` to nodes."""
    n_selected, n_logits = len(rows.selected), len(logits)
    n_between = (local.run.n_layers + 1) * local.run.n_pos  # errors and embeddings
    n_nodes = n_selected + n_between + n_logits + 1
    node_of = np.append(np.arange(n_selected + n_between), n_nodes - 1)  # logits are never sources

    blocks = [block.float().cpu().numpy() for block in (rows.features, rows.logits)]
    counts = [np.count_nonzero(block, axis=1) for block in blocks]
    indptr = np.cumsum(np.concatenate([[0], counts[0], np.zeros(n_between, dtype=np.int64), counts[1], [0]]))
    kind = np.int32 if max(indptr[-1], n_nodes) <= np.iinfo(np.int32).max else np.int64
    data, indices = np.empty(indptr[-1], dtype=np.float32), np.empty(indptr[-1], dtype=kind)
    done = 0
    for block in blocks:
        for start in range(0, len(block), _ROWS_AT_ONCE):
            some = block[start : start + _ROWS_AT_ONCE]
            at = np.flatnonzero(some)
            data[done : done + len(at)] = some.reshape(-1)[at]
            indices[done : done + len(at)] = node_of[at % some.shape[1]]
            done += len(at)
    return sparse.csr_array((data, indices, indptr.astype(kind)), shape=(n_nodes, n_nodes))
