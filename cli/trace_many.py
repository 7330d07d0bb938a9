"""`attrgraph trace --prompts`: one graph a prompt in a folder, resumable."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrgraph as ag
from attrgraph.cli.output import print_json, tell
from attrgraph.cli.prune import PruneOptions
from attrgraph.cli.writing import Saving
from attrgraph.errors import AttrGraphError, GraphFileError
from attrgraph.files import locked, read_json, write_whole
from attrgraph.progress import Progress
from attrgraph.prompts.prompt_file import NamedPrompt
from attrgraph.viz.text import visible

# In the folder of graphs: what they are made from; and of each, by the name of its prompt, which begins with no '.', a
# digest of the prompt, the answer and the scores.
_RECORDS, _MADE_BY, _LOCK = ".prompts", ".made-by.json", ".lock"
_MOST_NAMES = 10


@dataclass(frozen=True)
class Batch:
    """How graphs are made, and where they go."""

    model: "ag.LanguageModel"
    folder: Path
    ending: str
    settings: dict[str, Any]  # of `trace`
    pruning: PruneOptions
    saving: Saving
    told: set[str] = field(default_factory=set)  # notes of graphs, of which each is told once

    def trace(self, prompts: Sequence[NamedPrompt], *, as_json: bool, progress: Progress) -> None:
        """Trace every prompt that has no graph in the folder yet; one that cannot be traced does not stop the others.

        Several runs may write into one folder at a time.

        Raises:
            GraphFileError: the folder holds graphs made with other settings, or cannot be written.
            AttrGraphError: some prompts could not be traced; each was named on stderr.
        """
        self._begin(prompts)
        failed = []
        for number, row in enumerate(prompts):
            progress("prompts", number, len(prompts))
            try:
                if row.fault:
                    raise AttrGraphError(row.fault)
                told = {"file": str(self._file(row)), **self._trace_one(row)}
            except Exception as e:  # whatever a prompt does, the others are still to be traced
                reason = str(e) if isinstance(e, AttrGraphError) else f"{type(e).__name__}: {e}"
                told = {"state": "failed", "reason": reason}
                failed.append(row.name)
            _tell(row.name, told, as_json)
        progress("prompts", len(prompts), len(prompts))
        if failed:
            names = ", ".join(failed[:_MOST_NAMES]) + (", ..." if len(failed) > _MOST_NAMES else "")
            raise AttrGraphError(f"{len(failed)} of {len(prompts)} prompts could not be traced: {names}.")

    def _file(self, row: NamedPrompt) -> Path:
        return self.folder / f"{row.name}{self.ending}"

    def _begin(self, prompts: Sequence[NamedPrompt]) -> None:
        """Record in the folder what its graphs are made from; refuse to mix graphs that are made from something else.

        With `force`, the graphs of these prompts are removed first.
        """
        from attrgraph.io.exports import files_of

        made_by, path = self._made_by(), self.folder / _RECORDS / _MADE_BY
        try:
            self.folder.mkdir(exist_ok=True)
            path.parent.mkdir(exist_ok=True)
            with locked(path.with_name(_LOCK)):
                if self.saving.force:
                    made = [file for row in prompts for file in files_of(self._file(row))]
                    for file in [*made, *path.parent.glob("*.json")]:
                        file.unlink(missing_ok=True)
                elif path.exists():
                    self._check_same(made_by, _read(path), prompts)
                    return
                _write(path, made_by)
        except OSError as e:
            raise GraphFileError(f"{self.folder}: cannot be made ({e}).") from e

    def _made_by(self) -> dict[str, Any]:
        assert self.model.transcoders is not None
        # graphs do not depend on the memory budget
        deciding = {name: value for name, value in self.settings.items() if name != "memory_budget"}
        made_by = {"model": self.model.source, "transcoders": self.model.transcoders.source, **deciding}
        made_by |= {
            **asdict(self.pruning),
            "names": [self.saving.profile, self.saving.scan, self.saving.source_set],
            "dtype": str(self.model.hf_model.dtype),
            "labels": sha256(repr(sorted(self.model.transcoders.labels.items())).encode()).hexdigest(),
        }
        return made_by

    def _check_same(self, made_by: dict[str, Any], old: dict[str, Any], prompts: Sequence[NamedPrompt]) -> None:
        if not old:
            raise GraphFileError(f"{self.folder}: its record of traced prompts cannot be read; choose another folder.")
        changed = [key for key in made_by.keys() | old.keys() if made_by.get(key) != old.get(key)]
        for row in prompts:
            digest = None if row.fault or not self._file(row).exists() else self._record(row).get("digest")
            if digest not in (None, row.digest):
                changed.append(row.name)
        if changed:
            raise GraphFileError(
                f"{self.folder}: holds graphs made from something else ({', '.join(sorted(changed))} changed); choose "
                "another folder, or trace all of them again with --force."
            )

    def _record(self, row: NamedPrompt) -> dict[str, Any]:
        return _read(self.folder / _RECORDS / f"{row.name}.json")

    def _trace_one(self, row: NamedPrompt) -> dict[str, Any]:
        """What is told of a prompt, whose graph is then in the folder."""
        answer = self._answered(row)
        if answer is not None:
            return {"state": "skipped", **answer}
        graph = ag.trace(self.model, row.prompt, targets=row.targets, **self.settings)
        for note in graph.metadata.get("notes", []):
            if note not in self.told:
                self.told.add(note)
                tell(f"attrgraph: {row.name}: {note}")
        kept = graph if self.ending == ".safetensors" else self.pruning.prune(graph)
        answer = _answer_of(graph)
        with locked(self.folder / _RECORDS / _LOCK):
            if self._answered(row) is None:  # another run may have been faster
                _write(self.folder / _RECORDS / f"{row.name}.json", {"digest": row.digest, "answer": answer})
                replace(self.saving, force=True).write(kept, self._file(row))
        return {"state": "traced", **answer}

    def _answered(self, row: NamedPrompt) -> dict[str, Any] | None:
        """Answer and scores of a graph that is in the folder, or None.

        Raises:
            GraphFileError: a file of this name is there, and is not of this prompt.
        """
        record = self._record(row)
        if record.get("digest") != row.digest:
            self.saving.check(self._file(row))
            return None
        return dict(record["answer"]) if os.path.lexists(self._file(row)) else None


def _answer_of(graph: "ag.Graph") -> dict[str, Any]:
    logits = graph.nodes[graph.nodes["kind"] == "logit"]
    best = logits.loc[logits["probability"].idxmax()]
    scores = {name: round(value, 4) for name, value in graph.scores()._asdict().items()}
    return {"answer": best["token"], "probability": round(float(best["probability"]), 4), **scores}


def _read(path: Path) -> dict[str, Any]:
    """A record; empty if there is none that can be read."""
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write(path: Path, record: dict[str, Any]) -> None:
    text = json.dumps(record, indent=1) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), overwrite=True)


def _tell(name: str, values: dict[str, Any], as_json: bool) -> None:
    """One line a prompt on stdout; a failure also on stderr, or only there."""
    if values["state"] == "failed":
        tell(f"attrgraph: {name}: {values['reason']}")
    if as_json:
        print_json({"id": name, **values})
    elif values["state"] != "failed":
        told = "{answer} ({probability:.3f})  replacement {replacement:.3f}, completeness {completeness:.3f}"
        before = "  (already traced)" if values["state"] == "skipped" else ""
        print(f"{name}  {visible(told.format(**values))}{before}", flush=True)
