"""Whether a feature writes what the MLPs write where it fires, against the whole sum written out."""

import numpy as np
import pytest
import torch
from texts import make_rows, read_and_written
from tiny import make_model, make_transcoders

import attrgraph as ag
from attrgraph.features.control import random_dictionary
from attrgraph.features.write_agreement import LEAST_AGREEMENT, Agreement

SEED = 3


def share_by_loops(fires: np.ndarray, wrote: np.ndarray, own: np.ndarray, others: np.ndarray) -> float:
    """Of one feature, from all tokens at once."""
    centred = wrote - wrote.mean(0)
    spread = sum(np.outer(x, x) for x in centred) / len(centred)
    spread += 0.1 * np.trace(spread) / len(spread) * np.eye(len(spread))
    told = np.linalg.inv(spread) @ sum(a * x for a, x in zip(fires, centred, strict=True))
    products = [told @ row / np.linalg.norm(row) for row in (own, *others)]
    return float(np.mean([one < products[0] - 1e-5 * np.linalg.norm(told) for one in products[1:]]))


@pytest.mark.parametrize(
    "kind", [{"cross_layer": True}, {"cross_layer": False, "skip": True}], ids=["cross-layer", "per-layer with skip"]
)
def test_agreement_is_that_of_a_loop_over_the_tokens(kind: dict[str, bool]) -> None:
    model, rows, transcoders = make_model("llama"), make_rows((9, 30, 12)), make_transcoders(**kind)
    pages = ag.describe_features(model, rows, transcoders=transcoders, seed=SEED)
    control = random_dictionary(model, transcoders, rows, seed=SEED, batch_tokens=4096)
    reads, writes = read_and_written(model, rows)
    skips = [transcoders.skip(layer, read) for layer, read in enumerate(reads)]
    of_layers = [write if skip is None else write - skip for write, skip in zip(writes, skips, strict=True)]
    for layer, weights in enumerate(transcoders.layers):
        fires = transcoders.encode_layer(layer, reads[layer])
        wrote = torch.stack(of_layers[layer : layer + transcoders.n_targets(layer)]).sum(0).double().numpy()
        others = control.layers[layer].W_dec.sum(1).double().numpy()
        for feature in range(0, transcoders.n_features[layer], 5):
            own = weights.W_dec[feature].sum(0).double().numpy()
            expected = share_by_loops(fires[:, feature].double().numpy(), wrote, own, others)
            assert pages[layer, feature]["write_agreement"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("d_model", [64, 400])
def test_features_that_made_a_sum_agree_with_it_and_those_of_other_places_do_not(d_model: int) -> None:
    rng = np.random.default_rng(0)
    rows, fires = rng.normal(size=(300, d_model)), rng.random((2000, 300)) * (rng.random((2000, 300)) < 0.03)
    agreement = Agreement(300, d_model)
    for part in np.split(np.arange(2000), 5):
        token, feature = fires[part].nonzero()
        wrote = torch.from_numpy(5 + fires[part] @ rows)
        agreement.add(wrote, token, feature, fires[part][token, feature].astype(np.float32))
    others = rows[rng.permutation(300)[:256]]
    right, wrong = (
        np.r_[tuple(agreement.of(at, own[at], others) for at in (slice(0, 7), slice(7, 400)))]
        for own in (rows, rng.permutation(rows))
    )
    assert (right >= LEAST_AGREEMENT).mean() > 0.99
    assert 0.1 < (wrong >= LEAST_AGREEMENT).mean() < 0.3
