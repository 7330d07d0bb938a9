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
from attrgraph.cli.stopping import leaving
from attrgraph.cli.writing import Saving
from attrgraph.errors import AttrGraphError, GraphFileError
from attrgraph.files import SAMPLED, locked, plain, read_json, write_whole
from attrgraph.progress import Progress
from attrgraph.prompts.prompt_file import NamedPrompt
from attrgraph.viz.text import typed

# In the folder of graphs: what they are made from; and of each, by the name of its prompt, which begins with no '.', a
# digest of the prompt, the answer, the scores, and digests of the files, once they are all written.
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
        failed, n_done = [], 0
        with leaving(lambda: f" after {n_done} of {len(prompts)} prompts; the same command goes on"):
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
                n_done += 1
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
                elif any(path.parent.glob("*.json")):
                    self._check_same(made_by, _read(path), prompts)
                    if SAMPLED in str(made_by):
                        tell(f"attrgraph: transcoders are compared by samples and times of change ({SAMPLED}).")
                    return
                _write(path, made_by)
        except OSError as e:
            raise GraphFileError(f"{self.folder}: cannot be made ({e}).") from e

    def _made_by(self) -> dict[str, Any]:
        from attrgraph.attribution.provenance import provenance_of

        assert self.model.transcoders is not None
        # what graphs say of themselves, so that nothing is left out; with other versions they are the same but for
        # rounding, and they do not depend on the memory budget
        about = provenance_of(self.model)
        made_by = {name: about.get(name) for name in ("model", "tokenizer", "transcoders", "dtype")}
        for files in (about["model"], about["transcoders"]):
            if "digest" in files:  # wherever they lie, and however the path is written
                del files["id"]
            files.pop("asked_revision", None)  # a commit has several names
        made_by |= {name: about["transcoders"].pop(name) for name in ("read_point", "write_point")}
        made_by |= {name: value for name, value in self.settings.items() if name != "memory_budget"}
        made_by |= {
            **asdict(self.pruning),
            "chat_template_kwargs": self.model.chat_template_kwargs,
            "names": [self.saving.profile, self.saving.scan, self.saving.source_set],
            "labels": sha256(repr(sorted(self.model.transcoders.labels.items())).encode()).hexdigest(),
        }
        read_again: dict[str, Any] = plain(made_by)
        return read_again

    def _check_same(self, made_by: dict[str, Any], old: dict[str, Any], prompts: Sequence[NamedPrompt]) -> None:
        if not old:
            raise GraphFileError(
                f"{self.folder}: its record of traced prompts cannot be read, or an earlier version wrote it; "
                "choose another folder, or pass --force to trace all prompts again."
            )
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
        answer, why = self._answered(row)
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
            if self._answered(row)[0] is None:  # another run may have been faster
                self._save(row, kept, answer)
        return {"state": "traced", **answer} | ({"reason": why} if why else {})

    def _save(self, row: NamedPrompt, graph: "ag.Graph", answer: dict[str, Any]) -> None:
        from attrgraph.io.exports import files_of

        path, old = self.folder / _RECORDS / f"{row.name}.json", self._record(row)
        record: dict[str, Any] = {"digest": row.digest, "answer": answer}
        others = old.get("files", {}) if old.get("digest") == row.digest else {}  # in other formats
        files = {file.name: file for file in files_of(self._file(row))}
        kept = {name: digest for name, digest in others.items() if name not in files}
        _write(path, {**record, "files": kept})  # the files are ours, whenever this run is stopped
        replace(self.saving, force=True).write(graph, self._file(row))
        _write(path, {**record, "files": kept | {name: _digest(file) for name, file in files.items()}})

    def _answered(self, row: NamedPrompt) -> tuple[dict[str, Any] | None, str]:
        """Answer and scores of a graph that is in the folder, or None; and of one that was, why not.

        Raises:
            GraphFileError: a file of this name is there, and is not of this prompt, or not as it was written.
        """
        from attrgraph.io.exports import files_of

        record, files = self._record(row), files_of(self._file(row))
        if not record and (self.folder / _RECORDS / f"{row.name}.json").exists():
            return None, "its record was damaged"
        if record.get("digest") != row.digest:
            self.saving.check(self._file(row))
            return None, ""
        answer, written = record.get("answer"), record.get("files")
        if not (isinstance(answer, dict) and isinstance(written, dict) and all(file.name in written for file in files)):
            return None, ""
        for file in files:
            if os.path.lexists(file) and not (file.is_file() and _digest(file) == written[file.name]):
                raise GraphFileError(
                    f"{file}: is not as it was written: truncated, or changed since; remove it to have this prompt "
                    "traced again, or pass --force for all."
                )
        missing = ", ".join(file.name for file in files if not file.exists())
        return (None, f"{missing} was missing") if missing else (answer, "")


def _answer_of(graph: "ag.Graph") -> dict[str, Any]:
    from attrgraph.schema import answer_of

    answer, probability = answer_of(graph.nodes, graph.metadata)
    scores = {name: round(value, 4) for name, value in graph.scores()._asdict().items()}
    return {"answer": answer, "probability": round(probability, 4), **scores}


def _digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    """A record; empty if there is none that can be read, or not as it was written."""
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(record, dict) and record.pop("checksum", None) == _checksum(record)
    return record if is_whole else {}


def _checksum(record: dict[str, Any]) -> str:
    return sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _write(path: Path, record: dict[str, Any]) -> None:
    text = json.dumps({**record, "checksum": _checksum(record)}, indent=1) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), overwrite=True)


def _tell(name: str, values: dict[str, Any], as_json: bool) -> None:
    """One line a prompt on stdout; a failure also on stderr, or only there."""
    if values["state"] == "failed":
        tell(f"attrgraph: {name}: {values['reason']}")
    if as_json:
        print_json({"id": name, **values})
    elif values["state"] != "failed":
        told = "{answer} ({probability:.3f})  replacement {replacement:.3f}, completeness {completeness:.3f}"
        again = f"  (traced again: {values['reason']})" if "reason" in values else ""
        before = "  (already traced)" if values["state"] == "skipped" else again
        values["answer"] = typed(values["answer"])
        print(f"{name}  {told.format(**values)}{before}", flush=True)
