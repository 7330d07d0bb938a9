"""Settings: checked, read from mappings, and their schedules."""

import numpy as np
import pytest

from attrgraph.errors import AttrGraphError
from attrgraph.transcoders.training.train_config import TrainConfig


@pytest.mark.refusal  # annotations name no text
def test_mapping_round_trip_and_numbers_that_yaml_reads_as_text() -> None:
    config = TrainConfig(n_features=7, l0=3.0, max_minutes=2.0)
    assert TrainConfig.from_dict(config.to_dict(), "here") == config
    assert TrainConfig.from_dict({"learning_rate": "1e-3", "l0": 40}, "here") == TrainConfig(
        learning_rate=1e-3, l0=40.0
    )


@pytest.mark.refusal  # annotations name Python's numbers only
def test_numbers_of_numpy_become_pythons() -> None:
    config = TrainConfig(n_features=np.int64(7), l0=np.float32(3), max_minutes=2)
    assert config == TrainConfig(n_features=7, l0=3.0, max_minutes=2.0) and type(config.n_features) is int


def test_learning_rate_rises_holds_and_falls() -> None:
    config = TrainConfig(warmup_share=0.1, decay_share=0.2)
    shares = [config.lr_scale(progress) for progress in (0.0, 0.05, 0.1, 0.5, 0.8, 0.9, 1.0)]
    assert shares == pytest.approx([0.01, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_the_divergence_comes_in_gradually() -> None:
    config = TrainConfig(kl_share=0.4)
    scales = [config.kl_scale(progress) for progress in (0.0, 0.6, 0.65, 0.7, 0.9, 1.0)]
    assert scales == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0, 1.0])
    assert TrainConfig(kl_share=0.0).kl_scale(1.0) == 0.0


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "gelu"}, "activation is 'gelu'; expected one of batchtopk, topk, jumprelu, relu"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; expected one of auto, dense, lazy"),
        ({"n_features": 0}, "n_features is 0; expected at least 1"),
        ({"l0": 0.0}, r"l0 is 0.0; expected more than 0"),
        ({"max_minutes": -1.0}, r"max_minutes is -1.0; expected more than 0"),
        ({"decay_share": 1.5}, r"decay_share is 1.5; expected 0 to 1"),
        ({"n_features": 1.5}, "n_features is 1.5; expected int"),
        ({"n_tokens": True}, "n_tokens is True; expected int"),
        ({"is_cross_layer": "no"}, "is_cross_layer is 'no'; expected bool"),
        ({"activation": None}, "activation is None; expected str"),
        ({"kl_weight": float("nan")}, "kl_weight is nan; expected a finite number"),
        ({"l0": 10**400}, "l0 is 1000.*; expected a number"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(AttrGraphError, match=message):
        TrainConfig(**changes)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 1.0}, "here: lr is no setting; the settings are n_features, l0, "),
        ({"n_features": 1.5}, "here: n_features is 1.5; expected int"),
        ({"l0": "many"}, "here: l0 is 'many'; expected a number"),
        ({"seed": True}, "here: seed is True; expected int"),
    ],
)
def test_mappings_that_are_no_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(AttrGraphError, match=message):
        TrainConfig.from_dict(values, "here")
