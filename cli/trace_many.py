"""`attrgraph trace --prompts`: one graph a prompt in a folder, resumable."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import attrgraph as ag
from attrgraph.cli.output import print_json
from attrgraph.cli.prune import PruneOptions
from attrgraph.cli.writing import Saving
from attrgraph.errors import AttrGraphError, GraphFileError
from attrgraph.files import read_json, write_whole
from attrgraph.progress import Progress
from attrgraph.prompts.prompt_file import NamedPrompt

# no prompt can have this name
_RECORD = ".prompts.json"


def trace_prompts(
    model: "ag.LanguageModel",
    prompts: Sequence[NamedPrompt],
    folder: Path,
    ending: str,
    settings: dict[str, Any],
    pruning: PruneOptions,
    saving: Saving,
    *,
    as_json: bool,
    progress: Progress,
) -> None:
    """Trace every prompt that has no graph in the folder yet; one that cannot be traced does not stop the others.

    Raises:
        GraphFileError: the folder holds graphs made with other settings, or cannot be written.
        AttrGraphError: some prompts could not be traced; each was named on stderr.
    """
    assert model.transcoders is not None
    # graphs do not depend on the memory budget
    deciding = {name: value for name, value in settings.items() if name != "memory_budget"}
    made_by = {"model": model.source, "transcoders": model.transcoders.source, **deciding, **asdict(pruning)}
    made_by |= {"profile": saving.profile, "dtype": str(model.hf_model.dtype)}
    _record(folder, made_by, prompts, ending, force=saving.force)
    failed = []
    for number, row in enumerate(prompts):
        progress("prompts", number, len(prompts))
        path = folder / f"{row.name}{ending}"
        if path.exists():
            _tell(row.name, {"file": str(path), "state": "skipped"}, as_json)
            continue
        try:
            graph = ag.trace(model, row.prompt, targets=row.targets, **settings)
            saving.write(graph if ending == ".safetensors" else pruning.prune(graph), path)
        except AttrGraphError as e:
            failed.append(row.name)
            print(f"attrgraph: {row.name}: {e}", file=sys.stderr)
            continue
        logits = graph.nodes[graph.nodes["kind"] == "logit"]
        best = logits.loc[logits["probability"].idxmax()]
        scores = {name: round(value, 4) for name, value in graph.scores()._asdict().items()}
        answer = {"answer": best["token"], "probability": round(float(best["probability"]), 4)}
        _tell(row.name, {"file": str(path), "state": "traced", **answer, **scores}, as_json)
    progress("prompts", len(prompts), len(prompts))
    if failed:
        raise AttrGraphError(f"{len(failed)} of {len(prompts)} prompts could not be traced: {', '.join(failed)}.")


def _record(folder: Path, made_by: dict[str, Any], prompts: Sequence[NamedPrompt], ending: str, *, force: bool) -> None:
    """Record in the folder what its graphs are made from; refuse to mix graphs that are made from something else.

    With `force`, the graphs of these prompts are removed first.
    """
    from attrgraph.io.exports import files_of

    digests = {row.name: row.digest for row in prompts}
    path = folder / _RECORD
    if path.exists() and not force:
        try:
            there = read_json(path)
            old = there["made_by"]
            changed = [key for key in made_by.keys() | old.keys() if made_by.get(key) != old.get(key)]
            others = [name for name, digest in there["prompts"].items() if digests.get(name, digest) != digest]
            changed += [name for name in others if (folder / f"{name}{ending}").exists()]
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as e:
            raise GraphFileError(f"{path}: is no record of traced prompts ({e}); choose another folder.") from e
        if changed:
            raise GraphFileError(
                f"{folder}: holds graphs made from something else ({', '.join(sorted(changed))} changed); choose "
                "another folder, or trace all of them again with --force."
            )
        digests = there["prompts"] | digests
    try:
        folder.mkdir(exist_ok=True)
        if force:
            for row in prompts:
                for file in files_of(folder / f"{row.name}{ending}"):
                    file.unlink(missing_ok=True)
    except OSError as e:
        raise GraphFileError(f"{folder}: cannot be made ({e}).") from e
    text = json.dumps({"made_by": made_by, "prompts": digests}, indent=1) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), overwrite=True)


def _tell(name: str, values: dict[str, Any], as_json: bool) -> None:
    """One line a prompt on stdout."""
    if as_json:
        print_json({"id": name, **values})
        return
    told = "skipped: already traced"
    if values["state"] == "traced":
        told = "{answer} ({probability:.3f})  replacement {replacement:.3f}, completeness {completeness:.3f}"
    print(f"{name}  {told.format(**values)}", flush=True)
