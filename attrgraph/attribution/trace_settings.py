"""What decides which nodes a graph has; the command line shares it, so nothing heavy is imported here."""

from dataclasses import dataclass

from attrgraph.errors import share, whole_number


@dataclass(frozen=True)
class TraceSettings:
    """Settings of a trace that its graph depends on, and their defaults.

    Attributes:
        max_n_logits: with no targets given, at most this many tokens are explained.
        desired_logit_prob: with no targets given, the fewest tokens that hold this probability are explained.
        max_feature_nodes: with more active features than this, the most influential ones are chosen.

    Raises:
        AttrGraphError: a number out of range, or no whole one where one is expected.
    """

    max_n_logits: int = 10
    desired_logit_prob: float = 0.95
    max_feature_nodes: int = 7500

    def __post_init__(self) -> None:
        # numpy's numbers become Python's, which files can hold
        for name, least in (("max_feature_nodes", 0), ("max_n_logits", 1)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least=least))
        object.__setattr__(self, "desired_logit_prob", share("desired_logit_prob", self.desired_logit_prob))


DEFAULTS = TraceSettings()
