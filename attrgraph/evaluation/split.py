"""Which documents to evaluate on: those that the transcoders were trained on tell little."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attrgraph.data.corpus import HELD_OUT_SHARE, TokenRows, read_corpus
from attrgraph.data.documents import Documents
from attrgraph.errors import TranscoderError
from attrgraph.files import read_yaml
from attrgraph.models.language_model import LanguageModel
from attrgraph.models.special import SkipPositions

RECORD = "training.yaml"  # written by the trainer next to the weights
Split = Literal["held-out", "all"]


@dataclass(frozen=True)
class Choice:
    """Which documents, and why."""

    split: Split
    reason: str
    held_out_share: float | None = None  # of documents; None with all


@dataclass(frozen=True)
class _Record:
    """What a training record says about the text."""

    folder: Path
    digests: frozenset[str]
    held_out_share: float
    skip_positions: SkipPositions


def choose_split(
    paths: Sequence[str | Path],
    folders: Sequence[str | Path],
    *,
    asked: Split | None = None,
    text_field: str = "text",
) -> Choice:
    """Held-out documents if any of the transcoders were trained on one of these texts, else all of them.

    Texts are compared by the digests that the trainer wrote; the same documents in another file go unnoticed. With
    several records the smallest share is taken: a document is held out where its hash is below the share, so it is held
    out from all of them then.

    Args:
        paths: texts, see `read_corpus`.
        folders: of transcoders; names that are no local folders have no record.
        asked: which documents to take whatever the records say.
        text_field: of JSON lines and datasets.

    Raises:
        TranscoderError: a record cannot be read.
        CorpusError: a text cannot be read.
    """
    local = [Path(folder).expanduser() for folder in folders]
    records = [_read_record(folder) for folder in local if (folder / RECORD).is_file()]
    if asked is not None:
        share = min((record.held_out_share for record in records), default=HELD_OUT_SHARE)
        return Choice(asked, "as asked", share if asked == "held-out" else None)
    if not records:
        return Choice("all", f"no transcoders here have a {RECORD}")
    given = _digests(paths, text_field)
    trained = [record for record in records if record.digests & given]
    if not trained:
        return Choice("all", "the transcoders were trained on other text")
    names = ", ".join(str(record.folder) for record in trained)
    return Choice("held-out", f"{names} was trained on the others", min(record.held_out_share for record in trained))


def skipped_in_training(folder: str | Path) -> SkipPositions:
    """Tokens of rows that transcoders were not trained on, by their record; "auto" without one.

    Raises:
        TranscoderError: the record cannot be read.
    """
    path = Path(folder).expanduser() / RECORD
    if not path.is_file():
        return "auto"
    return _read_record(path.parent).skip_positions


def read_rows(
    model: LanguageModel,
    paths: Sequence[str | Path],
    choice: Choice,
    *,
    text_field: str = "text",
    max_documents: int | None = None,
) -> TokenRows:
    """`read_corpus`, of the documents chosen."""
    share = choice.held_out_share or 0.0  # makes no difference with all documents
    return read_corpus(
        model, paths, split=choice.split, held_out_share=share, text_field=text_field, max_documents=max_documents
    )


def _read_record(folder: Path) -> _Record:
    path = folder / RECORD
    try:
        values = read_yaml(path)
        digests = frozenset(str(digest) for digest in values["text"].values())
        skipped = values.get("config", {}).get("skip_positions", "auto")
        if not isinstance(skipped, str | list):
            raise TypeError
        return _Record(folder, digests, float(values["held_out_share"]), skipped)
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as e:
        raise TranscoderError(
            f"{path}: expected YAML with `text` (digests by path) and `held_out_share` ({type(e).__name__}); "
            "say which documents to use with --held-out or --all, or restore the file."
        ) from e


def _digests(paths: Sequence[str | Path], text_field: str) -> set[str]:
    """Of whole texts, as in `TokenRows.sources`, without tokenising them."""
    documents = Documents(paths, text_field)
    deque(documents, maxlen=0)  # reads them to their ends
    return set(documents.sources().values())
