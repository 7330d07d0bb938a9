"""A text's tokens one after another, each with its number, and the side of the text that it is on."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from jaxtyping import Int

from attrgraph.data.corpus import TokenRows


@dataclass(frozen=True)
class Text:
    """A text's tokens one after another, as they are counted from here on.

    Args:
        token_ids: of all rows.
        begin, end: of each row, the numbers of its first token and of the first after it.
        document: of each row.
        side: of each row: labels are found on the documents of side 0 and judged on those of side 1.
    """

    token_ids: Int[np.ndarray, " n_tokens"]
    begin: Int[np.ndarray, " n_rows"]
    end: Int[np.ndarray, " n_rows"]
    document: Int[np.ndarray, " n_rows"]
    side: Int[np.ndarray, " n_rows"]

    @staticmethod
    def of(rows: TokenRows) -> "Text":
        """By a hash of its first row, each document is on one side: equal ones are on the same."""
        document, first = np.unique(rows.document, return_index=True)
        sides = np.array([sha256(rows.rows[row].numpy().astype("<i8").tobytes()).digest()[0] & 1 for row in first])
        lengths = [len(row) for row in rows.rows]
        return Text(
            torch.cat(rows.rows).numpy(),
            np.cumsum([0, *lengths[:-1]]),
            np.cumsum(lengths),
            np.asarray(rows.document),
            sides[np.searchsorted(document, rows.document)],
        )

    def row_of(self, token: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The rows in which tokens are."""
        return np.searchsorted(self.begin, token, side="right") - 1
