"""A corpus as rows of tokens: documents read one after another, each cut into rows that a model can run on."""

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from attrgraph.data.documents import Documents
from attrgraph.errors import CorpusError, checked
from attrgraph.models.language_model import LanguageModel

Split = Literal["train", "held-out", "all"]
HELD_OUT_SHARE = 0.05  # of documents, unless another is asked for or recorded

# tokenised at once: enough for a fast tokenizer's threads, little memory compared with the tokens that are kept
_BATCH_CHARACTERS = 2**20
# Stray unknown tokens are harmless: BabyLlama's newline is one, and a few foreign words are in any text. Text that a
# tokenizer was not made for is far above: 76% of a Russian sentence are unknown to BabyLlama's.
_MAX_UNKNOWN_SHARE = 0.2
# documents that are counted as different, for a message; with more, no split is empty
_MOST_DIFFERENT = 10_000


@dataclass(frozen=True)
class TokenRows:
    """Documents as rows of tokens. Two documents never share a row; a long document has several.

    Args:
        rows: int64, on the CPU, none longer than the model's context.
        document: of each row, the index of its document: 0 to n_documents - 1, ascending.
        sources: path as it was given -> digest of what was read there.
    """

    rows: list[Int[Tensor, " _n_pos"]]  # the underscore: rows differ in length
    document: list[int]
    sources: dict[str, str]

    @property
    def n_documents(self) -> int:
        return self.document[-1] + 1 if self.document else 0

    @property
    def n_tokens(self) -> int:
        """All tokens but the first of each row, which is BOS or where models without one have their sink."""
        return sum(len(row) - 1 for row in self.rows)

    def digest(self) -> str:
        """SHA-256 of each row's length and ids, as 64-bit integers.

        It differs where tokenizer, row length or split differ, which `sources` do not tell.
        """
        total = hashlib.sha256()
        for row in self.rows:
            total.update(len(row).to_bytes(8, "little") + _bytes(row))
        return f"sha256:{total.hexdigest()}"

    def first_tokens(self, n_tokens: int) -> "TokenRows":
        """The first rows that together have at least `n_tokens` tokens; all if they have fewer."""
        n_before = list(accumulate((len(row) - 1 for row in self.rows), initial=0))
        n_rows = bisect_left(n_before, n_tokens)
        return replace(self, rows=self.rows[:n_rows], document=self.document[:n_rows])


@checked
def read_corpus(
    model: LanguageModel,
    paths: str | Path | Sequence[str | Path],
    *,
    split: Split = "all",
    held_out_share: float = HELD_OUT_SHARE,
    text_field: str = "text",
    max_documents: int | None = None,
    max_row_length: int | None = None,
) -> TokenRows:
    """Read documents and cut them into rows of tokens, in the order of the files.

    A text file holds one document a line, a .jsonl file one JSON object a line, a folder a Hugging Face dataset
    (`save_to_disk`) or .parquet, .jsonl or .txt files. Lines without text are no documents. Each row begins with BOS
    if the model has one; a document that spells BOS out at its beginning gets no second one.

    Args:
        split: which documents. A hash of its text alone decides whether a document is held out (`is_held_out`).
        held_out_share: the expected share of held-out documents.
        text_field: where the text is in .jsonl, .parquet and datasets.
        max_documents: read at most this many, before they are split.
        max_row_length: in tokens with BOS; the model's context if None.

    Returns:
        The rows; their `sources` are digests of what was read, which is the whole file unless `max_documents` ended it.

    Raises:
        CorpusError: a file cannot be read as what it is, the tokenizer does not fit, no document is left, or a setting
            cannot work.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    if split not in get_args(Split):
        raise CorpusError(f"split is {split!r}; expected one of {', '.join(get_args(Split))}.")
    _check_share(held_out_share)
    if max_documents is not None and max_documents < 1:
        raise CorpusError(f"max_documents is {max_documents}; expected at least 1.")
    cutter = _RowCutter(model, max_row_length)
    documents = Documents(paths, text_field)
    n_documents, different = 0, set[int]()

    def of_split() -> Iterator[str]:
        nonlocal n_documents
        for text in islice(documents, max_documents):
            n_documents += 1
            if len(different) < _MOST_DIFFERENT:
                different.add(hash(text))
            if split == "all" or is_held_out(text.encode(), held_out_share) == (split == "held-out"):
                yield text

    rows, document = [], []
    for index, pieces in enumerate(pieces for batch in _batches(of_split()) for pieces in cutter.cut(batch)):
        rows.extend(pieces)
        document.extend([index] * len(pieces))
    if n_documents == 0:
        raise CorpusError(f"empty corpus: no document with text was found ({', '.join(map(str, paths)) or 'no file'}).")
    cutter.check_unknown_share()
    if not rows:
        raise _empty_split(split, n_documents, held_out_share, len(different))
    return TokenRows(rows, document, documents.sources())


def rows_of(model: LanguageModel, texts: Sequence[str]) -> TokenRows:
    """Documents as rows of tokens, as `read_corpus` makes them of files.

    Raises:
        CorpusError: one is no text, the tokenizer does not fit, or none has a token.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise CorpusError("texts are a list of documents, each a str; for files, ag.read_corpus(model, paths).")
    cutter = _RowCutter(model, None)
    pieces = list(cutter.cut(list(texts))) if texts else []
    rows = [row for document in pieces for row in document]
    cutter.check_unknown_share()
    if not rows:
        raise _empty_split("all", len(texts), HELD_OUT_SHARE, len(texts))
    return TokenRows(rows, [index for index, document in enumerate(pieces) for _ in document], {})


def is_held_out(content: bytes, held_out_share: float) -> bool:
    """Whether a document with this content is held out: its SHA-256, as a fraction of 1, is below the share."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") < held_out_share * 2**64


def split_rows(rows: TokenRows, held_out_share: float) -> tuple[TokenRows, TokenRows]:
    """Split rows whose text is not known (samples) into those to train on and those held out.

    As in `read_corpus`, but by a hash of each document's token ids: equal documents stay together, and a document's
    side does not depend on which others there are.

    Returns:
        To train on, and held out; both with the `sources` of the whole.

    Raises:
        CorpusError: one of the two would be empty, or the share is none.
    """
    _check_share(held_out_share)
    contents = [b""] * rows.n_documents
    for row, document in zip(rows.rows, rows.document, strict=True):
        contents[document] += _bytes(row)
    held_out = [is_held_out(content, held_out_share) for content in contents]

    def side(split: Split) -> TokenRows:
        kept = [i for i, document in enumerate(rows.document) if held_out[document] == (split == "held-out")]
        if not kept:
            raise _empty_split(split, rows.n_documents, held_out_share, len(set(contents)))
        _, numbers = np.unique([rows.document[i] for i in kept], return_inverse=True)
        return replace(rows, rows=[rows.rows[i] for i in kept], document=numbers.tolist())

    return side("train"), side("held-out")


def _bytes(row: Tensor) -> bytes:
    return row.numpy().astype("<i8").tobytes()


def _check_share(held_out_share: float) -> None:
    if not 0 <= held_out_share < 1:
        raise CorpusError(f"held_out_share is {held_out_share}; expected at least 0 and less than 1.")


def _empty_split(split: Split, n_documents: int, held_out_share: float, n_different: int) -> CorpusError:
    if split == "all":
        return CorpusError(f"empty corpus: none of its {n_documents} documents has a token.")
    alike = f", of which only {n_different} differ" if n_different < min(n_documents, _MOST_DIFFERENT) else ""
    return CorpusError(
        f"the corpus has {n_documents} documents{alike}, and none of them is in the {split} split "
        f"(held_out_share={held_out_share:g}, by a hash of each document, so that equal ones stay together); "
        f"give more documents, or a {'larger' if split == 'held-out' else 'smaller'} held_out_share."
    )


class _RowCutter:
    """Turns texts into rows of tokens."""

    def __init__(self, model: LanguageModel, max_row_length: int | None) -> None:
        if model.tokenizer is None:
            raise CorpusError(
                f"the model {model.source['id']} has no tokenizer, so it cannot read text; "
                "put its tokenizer into its folder, or train on samples of the model itself."
            )
        length = model.n_context if max_row_length is None else max_row_length
        if not 2 <= length <= model.n_context:
            raise CorpusError(f"max_row_length is {length}; expected 2 to {model.n_context}, the model's context.")
        self._tokenizer: Any = model.tokenizer
        self._d_vocab = model.d_vocab
        self._in_front = [] if model.bos_token_id is None else [model.bos_token_id]
        self._check_known(self._in_front)
        self._n_body = length - len(self._in_front)
        self._n_tokens = self._n_unknown = 0

    def cut(self, texts: list[str]) -> Iterator[list[Tensor]]:
        """The rows of each text that has tokens."""
        # verbose=False: the tokenizer would log that a document is longer than the context, which is meant here
        encoded = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for ids in encoded["input_ids"]:
            body = ids[1:] if ids[:1] == self._in_front else ids
            if body:
                self._check_known(body)
                self._n_tokens += len(body)
                self._n_unknown += body.count(self._tokenizer.unk_token_id)
                starts = range(0, len(body), self._n_body)
                yield [torch.tensor(self._in_front + body[i : i + self._n_body]) for i in starts]

    def check_unknown_share(self) -> None:
        if self._n_unknown > _MAX_UNKNOWN_SHARE * self._n_tokens:
            raise CorpusError(
                f"{self._n_unknown / self._n_tokens:.0%} of the corpus's tokens are {self._tokenizer.unk_token}, the "
                f"tokenizer's unknown token (at most {_MAX_UNKNOWN_SHARE:.0%} are accepted): the tokenizer does not "
                "seem to fit the text. Was it made for another language or model?"
            )

    def _check_known(self, ids: list[int]) -> None:
        if ids and max(ids) >= self._d_vocab:
            raise CorpusError(
                f"the tokenizer gave token id {max(ids)}, the model's vocabulary ends at {self._d_vocab - 1}; "
                "is it another model's tokenizer?"
            )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
