"""Every setting of a training run."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from math import isfinite
from numbers import Number
from typing import Any

from attrgraph.errors import AttrGraphError

ACTIVATIONS = ("batchtopk", "topk", "jumprelu", "relu")
OPTIMIZERS = ("auto", "dense", "lazy")
_DEFAULT_TOKENS = 20_000_000
# names of settings, what holds of their values, and that in words
_RULES: list[tuple[tuple[str, ...], Callable[[Any], bool], str]] = [
    (("activation",), lambda value: value in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}"),
    (("optimizer",), lambda value: value in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
    (
        ("n_features", "n_tokens", "batch_tokens", "dead_after", "n_dead_active", "kl_tokens"),
        lambda value: value >= 1,
        "at least 1",
    ),
    (
        ("l0", "max_minutes", "learning_rate", "max_gradient_norm", "threshold_init", "bandwidth"),
        lambda value: value > 0,
        "more than 0",
    ),
    (
        ("warmup_share", "decay_share", "kl_share", "dead_target_share", "revival_share"),
        lambda value: 0 <= value <= 1,
        "0 to 1",
    ),
]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; each field's comment is its documentation.

    Raises:
        AttrGraphError: a value cannot work.
    """

    n_features: int = 4096  # of each layer
    l0: float = 64.0  # mean number of active features a token, summed over layers
    is_cross_layer: bool = True
    # batchtopk: the best scores of all tokens and layers of a batch; topk: of each token and layer, l0 / n_layers each;
    # jumprelu: learned thresholds; relu: no threshold, L1 penalty
    activation: str = "batchtopk"
    n_tokens: int | None = None  # to train on; None: 20 million, or without limit if max_minutes is set
    max_minutes: float | None = None  # if set, schedules follow the clock and two runs differ
    batch_tokens: int = 1024  # tokens a step
    learning_rate: float = 1e-3
    warmup_share: float = 0.02  # of the run; the learning rate rises linearly
    decay_share: float = 0.3  # of the run, at its end; the learning rate falls linearly to zero
    max_gradient_norm: float = 1.0
    # dense: Adam on all rows; lazy: only on rows with a gradient; auto: lazy where a step gives few rows a gradient
    optimizer: str = "auto"
    dead_after: int = 30_000  # tokens without firing
    n_dead_active: int = 8  # dead features of a layer that may try to explain a token's error
    # share of the reconstruction that dead features try to explain besides the error: in a layer that is reconstructed
    # well, the error alone leaves most of them nothing to learn, and they stay dead
    dead_target_share: float = 0.4
    dead_weight: float = 1 / 8
    # share of the run, from its beginning, in which dead features are trained; this disturbs the others for a while
    revival_share: float = 1.0
    # tokens of each row that are left out: auto, BOS (without one in the tokenizer, the first) and attention sinks,
    # which are measured; none; or positions
    skip_positions: str | list[int] = "auto"
    # errors are weighted per token and layer by (y^2 + 0.1)^-exponent, y^2 the mean square of the normalised output;
    # above 0, tokens with small outputs count more
    token_weight_exponent: float = 0.0
    kl_weight: float = 1.0  # of KL(model || replacement model), in nats
    kl_share: float = 0.3  # share of the run, at its end, in which the KL counts; its weight rises in the first quarter
    kl_tokens: int = 256  # a step, drawn separately from the batch
    threshold_init: float = 0.1  # jumprelu, in units of normalised pre-activations
    bandwidth: float = 0.5  # jumprelu, in the same units: width of the window around the threshold that has gradients
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _typed(getattr(self, field.name), field.type, field.name))
        for names, is_allowed, expected in _RULES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not is_allowed(value):
                    raise AttrGraphError(f"{name} is {value!r}; expected {expected}.")
        if self.optimizer == "lazy" and self.activation in ("jumprelu", "relu"):
            raise AttrGraphError(
                f"optimizer is 'lazy', but the penalty of {self.activation} has a gradient in every row; use 'dense'."
            )

    @property
    def token_limit(self) -> int | None:
        """Tokens after which the run ends, if any."""
        return _DEFAULT_TOKENS if self.n_tokens is None and self.max_minutes is None else self.n_tokens

    def check_fits(self, n_layers: int) -> None:
        """Raise AttrGraphError unless `l0` can be reached with this many layers."""
        if self.l0 > n_layers * self.n_features:
            raise AttrGraphError(
                f"l0 is {self.l0:g}, but {n_layers} layers x {self.n_features} features are only "
                f"{n_layers * self.n_features}; lower l0 or raise n_features."
            )
        if self.activation == "topk" and self.l0 % n_layers:
            raise AttrGraphError(
                f"l0 is {self.l0:g}, but topk keeps the same number of features in each of {n_layers} layers; "
                f"expected a multiple of {n_layers}, or use batchtopk."
            )

    def lr_scale(self, progress: float) -> float:
        """The learning rate as a share of `learning_rate`, at a share of the run."""
        scale = 1.0
        if progress < self.warmup_share:
            scale = max(progress / self.warmup_share, 0.01)
        if progress > 1 - self.decay_share:
            scale = min(scale, (1 - progress) / self.decay_share)
        return max(scale, 0.0)

    def kl_scale(self, progress: float) -> float:
        """The weight of the divergence as a share of `kl_weight`, at a share of the run."""
        into = progress - (1 - self.kl_share)
        return 0.0 if into <= 0 else min(1.0, into / (0.25 * self.kl_share))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any], where: str) -> "TrainConfig":
        """From a mapping such as a YAML file's.

        Raises:
            AttrGraphError: a key is not a setting, or its value has the wrong type.
        """
        known = [field.name for field in fields(TrainConfig)]
        for name in values:
            if name not in known:
                raise AttrGraphError(f"{where}: {name} is no setting; the settings are {', '.join(known)}.")
        try:
            return TrainConfig(**values)
        except AttrGraphError as e:
            raise AttrGraphError(f"{where}: {e}") from e


def _typed(value: Any, annotation: Any, where: str) -> Any:
    """The value, numpy's as Python's, if it has the type that a field's annotation names."""
    kind = getattr(annotation, "__name__", str(annotation))
    value = value.item() if isinstance(value, Number) and hasattr(value, "item") else value
    if value is None and "None" in kind:
        return None
    kinds = kind.replace("[int]", "").split(" | ")
    if kinds[0] == "float" and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            value = float(value)  # YAML reads 1e-3 as text
        except (ValueError, OverflowError) as e:
            raise AttrGraphError(f"{where} is {value!r:.60}; expected a number.") from e
    if isinstance(value, float) and not isfinite(value):
        raise AttrGraphError(f"{where} is {value!r}; expected a finite number.")
    if type(value).__name__ not in kinds:
        raise AttrGraphError(f"{where} is {value!r:.60}; expected {kind}.")
    return value
