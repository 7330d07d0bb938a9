"""Prompts from a file, one JSON object a line: `{"prompt": ..., "id": ..., "target": ...}`."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrgraph.errors import PromptError
from attrgraph.files import read_text

_KEYS = ("prompt", "id", "target")
# names become file names
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class NamedPrompt:
    """One line: a prompt as `trace` takes it, its name, and the tokens to explain, if not the most probable ones."""

    name: str
    prompt: Any
    targets: list[str | int] | None

    @property
    def digest(self) -> str:
        """Of what is traced."""
        return hashlib.sha256(json.dumps([self.prompt, self.targets]).encode()).hexdigest()


def read_prompts(path: str | Path) -> list[NamedPrompt]:
    """Every line's prompt: text, token ids, or chat messages; without an `id` it is named by its line's number.

    Raises:
        PromptError: the file or a line cannot be used; the line is named.
    """
    path = Path(path)
    try:
        lines = read_text(path, most_bytes=2**30).split("\n")
    except (OSError, ValueError) as e:
        raise PromptError(f"{path}: cannot be read as UTF-8 text ({e}).") from e
    found: dict[str, NamedPrompt] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        prompt = _parse(line, f"{number:05d}", f"{path}, line {number}")
        if prompt.name in found:
            raise PromptError(f"{path}, line {number}: the id {prompt.name!r} occurs twice.")
        found[prompt.name] = prompt
    if not found:
        raise PromptError(f"{path}: holds no prompt.")
    return list(found.values())


def _parse(line: str, name: str, where: str) -> NamedPrompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise PromptError(f"{where}: is not JSON ({e}).") from e
    if not isinstance(row, dict) or "prompt" not in row or not set(row) <= set(_KEYS):
        raise PromptError(
            f'{where}: expected an object with "prompt" and perhaps "id" and "target"; got {line[:60]!r}.'
        )
    if not isinstance(row["prompt"], str | list):
        raise PromptError(f"{where}: the prompt is {row['prompt']!r}; expected text, token ids, or chat messages.")
    name = str(row.get("id", name))
    if not _NAME.fullmatch(name):
        raise PromptError(
            f"{where}: the id {name!r} names a file; expected letters, digits, '.', '_' and '-', and no '.' in front."
        )
    target = row.get("target")
    targets = [target] if isinstance(target, str | int) else target
    is_list = isinstance(targets, list) and bool(targets) and all(isinstance(t, str | int) for t in targets)
    if targets is not None and not is_list:
        raise PromptError(f"{where}: the target is {target!r}; expected a token or a list of tokens.")
    return NamedPrompt(name, row["prompt"], targets)
