"""Many prompts, one after the other."""

from collections.abc import Iterable, Iterator
from typing import Any

from attrgraph.attribution.trace import trace
from attrgraph.errors import AttrGraphError
from attrgraph.graph.graph import Graph
from attrgraph.models.language_model import LanguageModel, Prompt


def trace_many(model: LanguageModel, prompts: Iterable[Prompt], **settings: Any) -> Iterator[Graph]:
    """`trace` of one prompt after another, each exactly as if it were traced alone.

    A graph is made when it is asked for, so that only those which the caller keeps are in memory.

    Args:
        model: a language model with transcoders.
        prompts: what `trace` takes, one after the other.
        settings: of `trace`, for all of them.

    Raises:
        AttrGraphError: as `trace`; the message says which prompt (from 0).
    """
    for number, prompt in enumerate(prompts):
        try:
            graph = trace(model, prompt, **settings)
        except AttrGraphError as e:
            raise type(e)(f"prompt {number}: {e}") from e
        yield graph
