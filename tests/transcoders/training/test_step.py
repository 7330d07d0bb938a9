"""One step's gradients are those of the loss as it is written down, by autograd through a dense float64 model."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from toy import D_MODEL, N_LAYERS, SparseWorld

from attrgraph.kernels import pairs
from attrgraph.transcoders.training import selection, step
from attrgraph.transcoders.training.optimizer import RowAdam
from attrgraph.transcoders.training.parameters import NORM_FLOOR, Normalisation, TrainableTranscoders
from attrgraph.transcoders.training.selection import batch_top_features, jumprelu
from attrgraph.transcoders.training.shards import Shards
from attrgraph.transcoders.training.step import DeadFeatures, train_step
from attrgraph.transcoders.training.streams import Activations
from attrgraph.transcoders.training.train_config import TrainConfig

N_FEATURES, N_TOKENS = 24, 40


def make_model(**changes: object) -> tuple[TrainableTranscoders, Activations]:
    """A model with random decoders in float64, and a batch."""
    sample = SparseWorld().round(0)
    sample = Activations(sample.reads.double(), sample.writes.double())
    settings: dict[str, object] = {
        "n_features": N_FEATURES,
        "l0": 6.0,
        "batch_tokens": N_TOKENS,
        "n_dead_active": 3,
        "dead_target_share": 0.25,
    }
    norm = Normalisation.estimate(sample)
    norm = Normalisation(**{name: value.double() for name, value in vars(norm).items()})
    model = TrainableTranscoders(norm, TrainConfig(**(settings | changes))).double()
    generator = torch.Generator().manual_seed(3)
    for parameters in (model.W_dec, model.b_enc):
        for parameter in parameters:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model, sample.at(torch.arange(N_TOKENS))


def kill(model: TrainableTranscoders, dead: DeadFeatures, n_dead: int) -> None:
    """Have the first features of every layer count as dead."""
    for idle in dead.idle:
        idle[:n_dead] = model.config.dead_after + 1
    dead.refresh()


def reference_loss(model: TrainableTranscoders, batch: Activations, *, n_dead: int, penalty: float) -> Tensor:
    """The loss of the module's docstring, dense throughout."""
    config, norm, k = model.config, model.norm, round(model.config.l0) // N_LAYERS
    hs, acts = [], []
    for layer in range(N_LAYERS):
        x = (batch.reads[layer] - norm.read_mean[layer]) * norm.read_scale[layer]
        hs.append(x @ model.W_enc[layer].T + model.b_enc[layer])
    scores = [h.detach().relu() * (w.detach().norm(dim=1) + NORM_FLOOR) for h, w in zip(hs, model.W_dec, strict=True)]
    if config.activation == "batchtopk":
        lowest = torch.cat([s.flatten() for s in scores]).sort(descending=True).values[round(6.0 * N_TOKENS) - 1]
        acts = [h.relu() * (s >= lowest) for h, s in zip(hs, scores, strict=True)]
    elif config.activation == "topk":
        lowest_each = [s.sort(dim=1, descending=True).values[:, k - 1 : k] for s in scores]
        acts = [h.relu() * (s >= low) for h, s, low in zip(hs, scores, lowest_each, strict=True)]
    else:
        acts = [h.relu() for h in hs]
    outs = [a @ w for a, w in zip(acts, model.W_dec, strict=True)]
    targets = batch.writes * norm.write_scale[:, None, None]
    loss, errors = torch.zeros((), dtype=torch.float64), []
    for layer in range(N_LAYERS):
        out = model.b_dec[layer]
        for source in range(layer + 1):
            if layer - source < model.n_targets[source]:
                out = out + outs[source].unflatten(1, (-1, D_MODEL))[:, layer - source]
        errors.append(out - targets[layer])
        weight = (targets[layer].square().mean(1) + 0.1) ** -config.token_weight_exponent
        loss = loss + (errors[-1].square().mean(1) * weight).mean() / N_LAYERS
    for source in range(N_LAYERS if n_dead else 0):
        h = hs[source][:, :n_dead]
        best = h * (h >= h.sort(dim=1, descending=True).values[:, 2:3]) * (h > 0)
        written = (best @ model.W_dec[source][:n_dead]).unflatten(1, (-1, D_MODEL))
        for i in range(model.n_targets[source]):
            error = errors[source + i].detach()
            reconstructed = (error + targets[source + i] - model.b_dec[source + i]).detach()
            goal = config.dead_target_share * reconstructed - error
            explained = (written[:, i] - goal).square().mean() / goal.square().mean()
            loss = loss + config.dead_weight * explained / model.n_targets[source] / N_LAYERS
    for a, w in zip(acts, model.W_dec, strict=True):
        loss = loss + penalty * (a * w.norm(dim=1)).sum() / N_TOKENS
    return loss


@pytest.fixture
def unknown_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU too, numbers of entries are not asked for, as on a GPU."""
    for module in (pairs, selection, step):
        monkeypatch.setattr(module, "counts_are_known", lambda x: False)


@pytest.mark.parametrize("optimizer", ["dense", "lazy"])
@pytest.mark.parametrize("n_dead", [0, 5])
@pytest.mark.parametrize("is_cross_layer", [True, False])
@pytest.mark.parametrize("activation", ["topk", "batchtopk", "relu"])
def test_gradients_are_those_of_the_loss(activation: str, is_cross_layer: bool, n_dead: int, optimizer: str) -> None:
    if activation == "relu" and optimizer == "lazy":
        pytest.skip("refused: its penalty has a dense gradient")
    model, batch = make_model(activation=activation, is_cross_layer=is_cross_layer, optimizer=optimizer)
    dead = DeadFeatures(model)
    kill(model, dead, n_dead)
    penalty = 0.1 if activation == "relu" else 0.0
    expected = torch.autograd.grad(
        reference_loss(model, batch, n_dead=n_dead, penalty=penalty), list(model.parameters())
    )
    result = train_step(model, batch, dead, penalty=torch.tensor(penalty).double() if penalty else None)
    for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
        ours = parameter.grad
        assert ours is not None, name
        assert ours.is_sparse == (name.startswith("W_") and model.has_sparse_gradients), name
        assert_close(ours.to_dense(), gradient, msg=lambda text, name=name: f"{name}: {text}")
    assert result.nmse.shape == (N_LAYERS,)


@pytest.mark.parametrize("optimizer", ["dense", "lazy"])
@pytest.mark.parametrize("n_dead", [0, 5])
@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_a_step_that_knows_no_counts_is_the_same(
    activation: str, n_dead: int, optimizer: str, request: pytest.FixtureRequest
) -> None:
    results = []
    for fixture in (None, "unknown_counts"):
        if fixture:
            request.getfixturevalue(fixture)
        model, batch = make_model(activation=activation, optimizer=optimizer)
        dead = DeadFeatures(model)
        kill(model, dead, n_dead)
        result = train_step(model, batch, dead)
        gradients = [parameter.grad.to_dense() for parameter in model.parameters()]
        results.append((*gradients, result.nmse, result.l0, model.running_threshold, *dead.idle))
    for known, unknown in zip(*results, strict=True):
        assert_close(unknown, known)


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_no_step_asks_its_device_for_a_number(activation: str) -> None:
    """Tensors without contents: whatever needs a value on the host raises, as `float` does at the end."""
    config = TrainConfig(n_features=N_FEATURES, l0=6.0, batch_tokens=N_TOKENS, activation=activation)
    scale, mean = torch.ones(N_LAYERS, device="meta"), torch.zeros(N_LAYERS, D_MODEL, device="meta")
    model = TrainableTranscoders(Normalisation(mean, scale, mean, scale), config)
    reads = torch.zeros(N_LAYERS, N_TOKENS, D_MODEL, device="meta")
    dead = DeadFeatures.__new__(DeadFeatures)  # to look for them, which is done every few steps, asks
    dead._model, dead.counts = model, [5] * N_LAYERS
    dead.idle = [torch.zeros(N_FEATURES, dtype=torch.int64, device="meta") for _ in range(N_LAYERS)]
    dead.features = [torch.zeros(5, dtype=torch.int64, device="meta") for _ in range(N_LAYERS)]
    optimizer = RowAdam(dict(model.named_parameters()), model.shards, replicated=frozenset({"b_dec"}))
    result = train_step(model, Activations(reads, reads), dead)
    optimizer.step(1e-3, 1.0)
    with pytest.raises(RuntimeError, match="meta"):
        float(result.loss)


def test_gradients_with_weights_of_tokens_are_those_of_the_weighted_loss() -> None:
    model, batch = make_model(token_weight_exponent=0.5)
    expected = torch.autograd.grad(reference_loss(model, batch, n_dead=0, penalty=0.0), list(model.parameters()))
    train_step(model, batch, DeadFeatures(model))
    for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_jumprelu_by_hand() -> None:
    h = torch.tensor([0.1, 0.45, 0.55, 2.0], requires_grad=True)
    threshold = torch.full((4,), 0.5, requires_grad=True)
    out = jumprelu(h, threshold, 0.2)  # the window is 0.4 to 0.6, and a jump of 0.5 over it has slope 2.5
    assert_close(out.detach(), torch.tensor([0.0, 0.0, 0.55, 2.0]))
    out.sum().backward()
    assert_close(h.grad, torch.tensor([0.0, 2.5, 3.5, 1.0]))
    assert_close(threshold.grad, torch.tensor([0.0, -2.5, -2.5, 0.0]))


def test_jumprelu_penalty_is_the_tanh_of_scores() -> None:
    """The step's gradient with a penalty minus that without is the penalty's own, by autograd through dense tensors."""
    gradients = []
    for penalty in (None, torch.tensor(0.3).double()):
        # a bandwidth so small that no pre-activation of this batch is near its jump
        model, batch = make_model(activation="jumprelu", bandwidth=1e-9, threshold_init=0.3)
        train_step(model, batch, DeadFeatures(model), penalty=penalty)
        gradients.append([parameter.grad for parameter in model.parameters()])
    counted = torch.zeros((), dtype=torch.float64)
    for layer in range(N_LAYERS):
        h = model.normalised_reads(layer, batch.reads[layer]) @ model.W_enc[layer].T + model.b_enc[layer]
        counted = counted + (4 * h * (h > 0.3) * model.W_dec[layer].norm(dim=1)).tanh().sum() / N_TOKENS
    expected = torch.autograd.grad(0.3 * counted, list(model.parameters()), allow_unused=True)
    for without, with_it, own in zip(*gradients, expected, strict=True):
        assert_close(with_it - without, torch.zeros_like(without) if own is None else own)


def test_reported_loss_is_the_mean_of_the_layers_nmse() -> None:
    model, batch = make_model()
    result = train_step(model, batch, DeadFeatures(model))
    assert_close(result.loss, reference_loss(model, batch, n_dead=0, penalty=0.0))
    assert_close(result.loss, result.nmse.mean())
    assert_close(float(result.l0.sum()), 6.0)


def test_jumprelu_reaches_its_thresholds_near_the_jump_only() -> None:
    model, batch = make_model(activation="jumprelu", bandwidth=0.02, threshold_init=0.3)
    train_step(model, batch, DeadFeatures(model))
    layer = 1  # the last: what it writes is in one layer's error alone
    x = model.normalised_reads(layer, batch.reads[layer])
    h = (x @ model.W_enc[layer].T + model.b_enc[layer]).detach()
    is_near = ((h - 0.3).abs() < 0.01).any(0)
    gradient = model.log_threshold[layer].grad
    assert gradient is not None
    assert bool((gradient[~is_near] == 0).all()) and bool((gradient[is_near] != 0).all())
    assert bool(is_near.any()) and not bool(is_near.all())


def test_features_that_fired_are_not_dead() -> None:
    model, batch = make_model(activation="topk", dead_after=N_TOKENS)
    dead = DeadFeatures(model)
    for _ in range(2):
        train_step(model, batch, dead)
    every = [model.causal_pairs(i, model.normalised_reads(i, batch.reads[i])) for i in range(N_LAYERS)]
    dead.refresh()
    for features, fired in zip(dead.features, every, strict=True):
        assert sorted([*features.tolist(), *set(fired.features.tolist())]) == list(range(N_FEATURES))
    assert dead.share() == sum(map(len, dead.features)) / (N_LAYERS * N_FEATURES) > 0
    share = dead.share()
    dead.refresh(is_over=True)
    assert dead.counts == [0] * N_LAYERS and dead.share() == share  # none tries any longer, but they are dead still


@pytest.mark.parametrize("guess", [0.0, 0.4, 1e9, None])
def test_batch_choice_does_not_depend_on_the_guess(guess: float | None, request: pytest.FixtureRequest) -> None:
    if guess is None:
        request.getfixturevalue("unknown_counts")
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(30, 20, generator=generator).relu() for _ in range(3)]
    chosen, threshold = batch_top_features(scores, 100, torch.tensor(guess or 0.0), Shards())
    best = torch.cat([s.flatten() for s in scores]).sort(descending=True).values
    assert sum(int(of_layer.offsets[-1]) for of_layer in chosen) == 100
    assert threshold == best[99]
    for score, of_layer in zip(scores, chosen, strict=True):
        is_on = torch.zeros_like(score, dtype=torch.bool)
        is_on[of_layer.tokens[of_layer.is_real], of_layer.features[of_layer.is_real]] = True
        assert torch.equal(is_on, score >= threshold)


def test_batch_choice_takes_no_zeros() -> None:
    scores = [torch.tensor([[0.0, 2.0], [0.0, 1.0]])]
    (chosen,), _ = batch_top_features(scores, 3, torch.tensor(0.5), Shards())
    assert chosen.features.tolist() == [1, 1]
