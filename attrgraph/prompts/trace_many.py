"""Many prompts, one after the other."""

from collections.abc import Iterable, Iterator, Sized
from typing import Any

from attrgraph.attribution.trace import trace
from attrgraph.errors import AttrGraphError
from attrgraph.graph.graph import Graph
from attrgraph.models.language_model import LanguageModel, Prompt
from attrgraph.progress import Progress, shown


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
    tell, of_all = settings.pop("progress", None), f" of {len(prompts):,}" if isinstance(prompts, Sized) else ""
    for number, prompt in enumerate(prompts):
        try:
            graph = trace(model, prompt, progress=tell or _within(f"prompt {number + 1:,}{of_all}"), **settings)
        except AttrGraphError as e:
            raise type(e)(f"prompt {number}: {e}") from e
        yield graph


def _within(prompt: str) -> Progress:
    """What tells, where nobody else is told, of one prompt among others."""
    tell = shown(None)
    return lambda phase, done, total: tell(f"{prompt}, {phase}", done, total)
