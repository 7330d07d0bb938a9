"""Prompts from a file, one JSON object a line: `{"prompt": ..., "id": ..., "target": ...}`."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrgraph.errors import PromptError
from attrgraph.files import check_bounded

_KEYS = ("prompt", "id", "target")
# of lines; a file with more is no file of prompts, and naming each would take long
_MOST_FAULTS = 10_000
# names become file names
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class NamedPrompt:
    """One line: a prompt as `trace` takes it, its name, and the tokens to explain, if not the most probable ones."""

    name: str
    prompt: Any = None
    targets: list[str | int] | None = None
    digest: str = ""  # of what is traced
    fault: str = ""  # why the line cannot be used; empty if it can


def read_prompts(path: str | Path) -> list[NamedPrompt]:
    """Every line's prompt: text, token ids, or chat messages; without an `id` it is named by its line's number.

    A line that cannot be used has a `fault`.

    Raises:
        PromptError: the file cannot be read, is empty, or has too many lines that cannot be used.
    """
    path, found, names, n_faults = Path(path), list[NamedPrompt](), dict[str, str](), 0
    try:
        check_bounded(path, 2**28)
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    found.append(_read(line, f"{number:05d}", names, f"{path}, line {number}"))
                    n_faults += bool(found[-1].fault)
                if n_faults == _MOST_FAULTS:
                    first = next(row.fault for row in found if row.fault)
                    raise PromptError(f"{first} {n_faults:,} lines cannot be used; expected a JSON object a line.")
    except PromptError:
        raise
    except (OSError, ValueError) as e:
        raise PromptError(f"{path}: cannot be read ({e}).") from e
    if not found:
        raise PromptError(f"{path}: holds no prompt.")
    return found


def _read(line: bytes, name: str, names: dict[str, str], where: str) -> NamedPrompt:
    """A line's prompt or its fault; its name is added to those that are taken."""
    try:
        row = _parse(line)
        name = _name_of(row, name)
        taken = names.get(name.casefold())
        if taken is not None:
            alike = "" if taken == name else f", as {taken!r}; not every disk can tell upper from lower case"
            raise PromptError(f"the id {name!r} occurs twice{alike}")
        names[name.casefold()] = name
        if not isinstance(row["prompt"], str | list):
            raise PromptError(f"the prompt is {row['prompt']!r:.60}; expected text, token ids, or chat messages")
        targets = _targets(row.get("target"))
        digest = hashlib.sha256(json.dumps([row["prompt"], targets]).encode()).hexdigest()
        return NamedPrompt(name, row["prompt"], targets, digest)
    except (PromptError, RecursionError) as e:
        reason = "is nested too deep" if isinstance(e, RecursionError) else e
        return NamedPrompt(name, fault=f"{where}: {reason}.")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode(), object_pairs_hook=_without_repetition)
    except UnicodeDecodeError as e:
        raise PromptError(f"is not UTF-8 (byte {line[e.start]:#04x} at {e.start})") from e
    except ValueError as e:
        raise PromptError(f"is not JSON ({e})") from e
    if not isinstance(row, dict) or "prompt" not in row or not set(row) <= set(_KEYS):
        got = line[:60].decode(errors="replace").strip()
        raise PromptError(f'expected an object with "prompt" and perhaps "id" and "target"; got {got!r}')
    return row


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key is there twice")
    return row


def _name_of(row: dict[str, Any], default: str) -> str:
    name = row.get("id")
    if name is None:
        return default
    if not isinstance(name, str | int) or isinstance(name, bool) or not _NAME.fullmatch(str(name)):
        raise PromptError(
            f"the id {name!r:.120} names a file; expected at most 100 letters, digits, '.', '_' and '-', and no '.' in "
            "front"
        )
    return str(name)


def _targets(target: Any) -> list[str | int] | None:
    targets = [target] if isinstance(target, str | int) else target
    is_list = isinstance(targets, list) and bool(targets)
    if targets is not None and not (is_list and all(isinstance(t, str | int) for t in targets)):
        raise PromptError(f"the target is {target!r:.60}; expected a token or a list of tokens")
    return targets
