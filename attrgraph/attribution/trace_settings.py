"""What decides which nodes a graph has; the command line shares it, so nothing heavy is imported here."""

from dataclasses import dataclass

from attrgraph.errors import AttrGraphError


@dataclass(frozen=True)
class TraceSettings:
    """Settings of a trace that its graph depends on, and their defaults.

    Attributes:
        max_n_logits: with no targets given, at most this many tokens are explained.
        desired_logit_prob: with no targets given, the fewest tokens that hold this probability are explained.
        max_feature_nodes: with more active features than this, the most influential ones are chosen.

    Raises:
        AttrGraphError: a number out of range.
    """

    max_n_logits: int = 10
    desired_logit_prob: float = 0.95
    max_feature_nodes: int = 7500

    def __post_init__(self) -> None:
        if self.max_feature_nodes < 0 or self.max_n_logits < 1:
            raise AttrGraphError(
                f"max_feature_nodes is {self.max_feature_nodes} and max_n_logits {self.max_n_logits}; expected at "
                "least 0 and at least 1."
            )
        if not 0 <= self.desired_logit_prob <= 1:
            raise AttrGraphError(f"desired_logit_prob is {self.desired_logit_prob}; expected a number from 0 to 1.")


DEFAULTS = TraceSettings()
