"""What a validation found: tables, facts, and the verdict in words."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from attrgraph.files import plain
from attrgraph.graph.graph import Graph
from attrgraph.validation import validation_report


@dataclass(frozen=True)
class Statement:
    """One line of a verdict. Levels: `good`, `fair`, `weak`, and `note` for a line without a judgement."""

    level: str
    text: str


@dataclass(frozen=True, eq=False)
class Validation:
    """How far a graph can be trusted.

    Attributes:
        verdict: in plain words, the most important first.
        facts: single numbers: scores, checks, the answer, the largest errors.
        tables: pandas DataFrames by name:
            agreement: predicted and measured change by `what` (edges: what features read; nodes: the answer's logit;
                paths; supernodes) and mode: six measures with 95% intervals, see `agreement.agreement`;
            by_depth: the same for edges, by how many layers the target lies above the source;
            rankings: correlation of ways to rank features with the measured effect on the answer of taking them out;
            control: scores, and the correlation of influence, of a dictionary whose decoder rows are exchanged;
            necessity: whether taking out the top k features changes the answer, and how often random ones do;
            sufficiency: whether the top k features keep the answer when all other ones are taken out;
            doses: the answer's logit as nodes are scaled, predicted and measured;
            paths, supernodes, nodes: one by one; error_share: of influence by layer; stability: the graph under other
            thresholds; paraphrases: other prompts' top features; compared: a graph by other transcoders.
        graph: what was validated.
        settings: of the validation.
    """

    verdict: list[Statement]
    facts: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    graph: Graph
    settings: dict[str, Any]

    def __repr__(self) -> str:
        return "\n".join(f"{statement.level:<4}  {statement.text}" for statement in self.verdict)

    @property
    def weaknesses(self) -> list[str]:
        """What speaks against relying on the graph."""
        return [statement.text for statement in self.verdict if statement.level == "weak"]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain values; None for what is undefined."""
        return {
            "verdict": [vars(statement) for statement in self.verdict],
            "facts": plain(self.facts),
            "tables": {
                name: plain(self.tables[name].to_dict("records"))
                for name in validation_report.HEADINGS
                if name in self.tables
            },
            "prompt_tokens": self.graph.prompt_tokens,
            "provenance": {
                name: plain(self.graph.metadata[name])
                for name in ("model", "transcoders", "versions", "dtype", "settings", "token_ids")
                if name in self.graph.metadata
            },
            "settings": plain(self.settings),
        }

    save = validation_report.save
    _repr_html_ = validation_report.in_notebook
