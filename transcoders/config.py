"""What a transcoder folder's `config.yaml` says: the field's common format."""

from dataclasses import dataclass, field, replace
from typing import Any

from attrgraph.errors import TranscoderError

# where features read: the stream before the MLP's norm; after that norm without its weights; what the MLP takes in
# (of a LayerNorm tl2 and tl3 say which: as TransformerLens 2 has it, with its weights, or as 3 has it, without)
_NORMALIZED = ("ln2.hook_normalized", "tl2.ln2.hook_normalized", "tl3.ln2.hook_normalized")
READ_POINTS = ("hook_resid_mid", *_NORMALIZED, "mlp.hook_in")
# where features write: what the MLP branch adds to the stream; what the MLP itself returns (before a post-norm)
WRITE_POINTS = ("hook_mlp_out", "mlp.hook_out")
CROSS_LAYER, PER_LAYER = "cross_layer_transcoder", "transcoder_set"


@dataclass(frozen=True)
class TranscoderConfig:
    """Settings of a set of transcoders. `extra` keeps the keys that other tools wrote, so that saving loses nothing."""

    model_kind: str
    model_name: str = ""
    feature_input_hook: str = "hook_resid_mid"
    feature_output_hook: str = "hook_mlp_out"
    scan: str | list[str] | None = None
    # features that a token may have active, of every layer or by layer; None where the activation is not TopK
    k: int | tuple[int | None, ...] | None = None
    # TopK: whether only positive pre-activations are active; circuit-tracer's keeps the k largest whatever their sign
    relu_before_topk: bool | tuple[bool, ...] = True
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = self.k if isinstance(self.k, tuple) else (self.k,)
        if not all(k is None or is_count(k) for k in every):
            raise TranscoderError(f"k is {self.k!r:.60}; topk needs a positive integer k.")

    def k_of(self, layer: int) -> int | None:
        """Of one layer; None if its activation is not TopK."""
        if isinstance(self.k, tuple):
            return self.k[layer] if layer < len(self.k) else None
        return self.k

    def has_relu(self, layer: int) -> bool:
        """Whether only positive pre-activations of a layer are active: always, unless it is a TopK of either sign."""
        relu = self.relu_before_topk
        is_first = relu[layer : layer + 1] != (False,) if isinstance(relu, tuple) else relu
        return self.k_of(layer) is None or is_first

    def check_lists(self, where: str, n_layers: int) -> None:
        """Raise TranscoderError for what stands by layer, but not for each of so many."""
        for name, values in (("k", self.k), ("relu_before_topk", self.relu_before_topk)):
            if isinstance(values, tuple) and len(values) != n_layers:
                raise TranscoderError(
                    f"{where}: {name} has {len(values)} entries; expected one for each of {n_layers} layers."
                )

    def up_to(self, n_layers: int) -> "TranscoderConfig":
        """The same for so many layers: of those above, which are missing, what stands by layer says nothing yet."""
        k, relu = self.k, self.relu_before_topk
        return replace(
            self,
            k=(*k, *[None] * (n_layers - len(k))) if isinstance(k, tuple) else k,
            relu_before_topk=(*relu, *[True] * (n_layers - len(relu))) if isinstance(relu, tuple) else relu,
        )

    @property
    def is_cross_layer(self) -> bool:
        return self.model_kind == CROSS_LAYER

    @staticmethod
    def from_dict(values: dict[str, Any], where: str) -> "TranscoderConfig":
        """From the mapping that `config.yaml` holds.

        Raises:
            TranscoderError: a required key is missing or a value is not one of those allowed.
        """
        values = dict(values)
        for key, allowed in (
            ("model_kind", (CROSS_LAYER, PER_LAYER)),
            ("feature_input_hook", READ_POINTS),
            ("feature_output_hook", WRITE_POINTS),
        ):
            if values.get(key) not in allowed:
                raise TranscoderError(f"{where}: {key} is {values.get(key)!r}; expected one of {', '.join(allowed)}.")
        scan = values.get("scan")
        if not (scan is None or isinstance(scan, str) or _are_texts(scan)):
            raise TranscoderError(f"{where}: scan is a {type(scan).__name__}; expected text or a list of texts.")
        activation, k = values.pop("activation", None), values.pop("k", None)
        if activation not in (None, "relu", "topk"):
            raise TranscoderError(f"{where}: activation is {activation!r}; expected relu or topk, or no such key.")
        k = tuple(k) if isinstance(k, list) else k
        every = k if isinstance(k, tuple) else (k,)
        is_right = activation == "topk" and all(one is None or is_count(one) for one in every)
        if k is not None and not is_right:  # a k that is missing may be with the weights
            raise TranscoderError(
                f"{where}: activation is {activation!r} with k {k!r:.60}; topk needs a positive integer k (or a list "
                "of them, one per layer), others none."
            )
        relu_before_topk = values.pop("relu_before_topk", activation != "topk")
        relu_before_topk = tuple(relu_before_topk) if isinstance(relu_before_topk, list) else relu_before_topk
        signs = relu_before_topk if isinstance(relu_before_topk, tuple) else (relu_before_topk,)
        if not all(isinstance(one, bool) for one in signs):
            raise TranscoderError(
                f"{where}: relu_before_topk is {relu_before_topk!r:.60}; expected true or false, or a list of them, "
                "one per layer."
            )
        names = ("model_kind", "feature_input_hook", "feature_output_hook", "scan")
        known: dict[str, Any] = {name: values.pop(name, None) for name in names}
        model_name = str(values.pop("model_name", ""))
        is_said = activation == "relu" or (activation == "topk" and k is None)
        extra = {**values, "activation": activation} if is_said else values
        topk: dict[str, Any] = {"k": k, "relu_before_topk": relu_before_topk}
        return TranscoderConfig(**known, model_name=model_name, extra=extra, **topk)

    def to_dict(self) -> dict[str, Any]:
        """The mapping to write, without keys that are not set."""
        without = ("extra",) if self.k is not None else ("extra", "relu_before_topk")
        values = {name: value for name, value in vars(self).items() if name not in without and value is not None}
        values |= {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        return {**values, **self.extra} if self.k is None else {**values, **self.extra, "activation": "topk"}


def is_count(value: Any) -> bool:
    """Whether it is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
