"""The corpus of a run, split into what is trained on and what is held out."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from attrgraph.data.corpus import TokenRows, read_corpus, split_rows
from attrgraph.data.self_generate import self_generate
from attrgraph.models.language_model import LanguageModel
from attrgraph.progress import Progress


def training_rows(
    model: LanguageModel,
    paths: Sequence[str | Path],
    *,
    n_self_generated: int | None,
    held_out_share: float,
    text_field: str,
    seed: int,
    progress: Progress | None = None,
) -> tuple[TokenRows, TokenRows]:
    """Rows to train on and held-out rows: of files, or of the model's own samples.

    Args:
        model: its tokenizer, and if asked its samples.
        paths: files and folders, see `read_corpus`.
        n_self_generated: tokens to sample instead.
        held_out_share: of documents, chosen by their content.
        text_field: of JSON lines and datasets.
        seed: of the samples.
        progress: see `self_generate`.

    Raises:
        CorpusError: nothing can be read, or one side is empty.
    """
    if n_self_generated is not None:
        return split_rows(self_generate(model, n_self_generated, seed=seed, progress=progress), held_out_share)
    read = partial(read_corpus, model, paths, held_out_share=held_out_share, text_field=text_field)
    return read(split="train"), read(split="held-out")
