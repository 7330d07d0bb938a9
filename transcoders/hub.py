"""Where files come from: a local folder, or a Hugging Face hub repository at a resolved revision; and their digests."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from attrgraph.errors import AttrGraphError

# Files and tensors up to this size are hashed whole. Of larger ones (up to 160 GB) only a piece of every stretch is:
# enough to notice that a whole matrix has changed.
_HASH_WHOLE_BYTES = 64 * 2**20
_STRETCH_BYTES = 4 * 2**20
_PIECE_BYTES = 64 * 2**10
_SNAPSHOT_COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")


def resolve_folder(
    name: str, *, revision: str | None, patterns: list[str], error: type[AttrGraphError], may_lack: bool = False
) -> tuple[Path, dict[str, str]]:
    """A folder with the files, and where it came from: its name, and its commit if it is from the hub.

    Args:
        name: path of a folder, or `owner/repo[/subfolder][@revision]` on the hub.
        revision: branch, tag or commit on the hub; overrides one in `name`.
        patterns: which files of a hub repository to fetch.
        error: what to raise if there is no such folder or repository.
        may_lack: whether a repository may have no file of the patterns in the subfolder.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if revision is not None:
            raise error(f"{name}: a folder has no revision {revision!r}; revisions are for names on the hub.")
        return folder, {"id": str(name)}
    repo, _, pinned = name.partition("@")
    parts = repo.split("/")
    if folder.is_absolute() or len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise error(f"{name}: no such folder; give a folder, or owner/repo on the Hugging Face hub.")
    subfolder = "/".join(parts[2:])
    prefix = f"{subfolder}/" if subfolder else ""
    of = "/".join(parts[:2])
    with _hub_errors(f"{name}: no such folder, and not found on the Hugging Face hub", error):
        from huggingface_hub import snapshot_download

        patterns = [prefix + pattern for pattern in patterns]
        root = snapshot_download(of, revision=revision or pinned or None, allow_patterns=patterns)
    if not may_lack and not (Path(root) / subfolder).is_dir():
        shown, more = ", ".join(patterns[:6]), " ..." if len(patterns) > 6 else ""
        raise error(
            f"{name}: {of} on the hub has no {shown}{more}; expected some of them: its folders are listed at "
            f"https://huggingface.co/{of}/tree/{revision or pinned or 'main'}."
        )
    commit = _SNAPSHOT_COMMIT.search(root.replace("\\", "/"))
    return Path(root) / subfolder, {"id": repo, "revision": commit.group(1) if commit else (revision or pinned)}


def fetch_uri(uri: str, *, beside: Iterable[str] = (), error: type[AttrGraphError]) -> Path:
    """The local copy of one file named `hf://owner/repo/path[?revision=...]`.

    Args:
        uri: its name.
        beside: files of its folder that are fetched too, if they exist.
        error: what to raise if it is not there.
    """
    repo, path, revision = split_uri(uri, error=error)
    with _hub_errors(f"{uri}: not found on the Hugging Face hub", error):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        for name in beside:
            with suppress(EntryNotFoundError):
                hf_hub_download(repo, str(Path(path).with_name(name)), revision=revision)
        return Path(hf_hub_download(repo, path, revision=revision))


def split_uri(uri: str, *, error: type[AttrGraphError]) -> tuple[str, str, str | None]:
    """Repository, path and revision of `hf://owner/repo/path[?revision=...]`."""
    location, _, query = uri.removeprefix("hf://").partition("?")
    owner, repo, path = (*location.split("/", 2), "", "")[:3]
    revision = query.removeprefix("revision=") or None
    if not all(
        owner and part not in ("", ".", "..") for part in (repo, *path.split("/"), *(revision or "main").split("/"))
    ):
        raise error(f"{uri}: names no file on the hub; expected hf://owner/repo/path[?revision=...].")
    return f"{owner}/{repo}", path, revision


@contextmanager
def _hub_errors(message: str, error: type[AttrGraphError]) -> Iterator[None]:
    """Turn what a download raises into `error`."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as e:
        raise error(f"{message} ({type(e).__name__}); check the name, the network, or HF_TOKEN.") from e


def digest_files(paths: Iterable[Path]) -> str:
    """SHA-256 over names, sizes and contents of files; "sampled" if of a file above 64 MiB only pieces were read.

    Files that are given are those that decide what is computed, wherever they are, and no others.
    """
    total, kind = hashlib.sha256(), "sha256"
    for path in paths:
        size = path.stat().st_size
        total.update(f"{path.name}:{size}:".encode())
        stretch, piece = 2**20, 2**20
        if size > _HASH_WHOLE_BYTES:
            kind, stretch, piece = "sampled-sha256", _STRETCH_BYTES, _PIECE_BYTES
        with path.open("rb") as file:
            for start in range(0, size, stretch):
                file.seek(start)
                total.update(file.read(piece))
    return f"{kind}:{total.hexdigest()}"


def digest_tensors(tensors: Mapping[str, Tensor | None]) -> str:
    """`digest_files` for weights in memory: over names, types, shapes and contents."""
    total, kind = hashlib.sha256(), "tensors-sha256"
    for name, tensor in sorted(tensors.items()):
        if tensor is None:
            continue
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        flat = tensor.detach().reshape(-1)
        size, stretch, piece = flat.element_size(), max(1, len(flat)), len(flat)
        if len(flat) * size > _HASH_WHOLE_BYTES:
            kind, stretch, piece = "sampled-tensors-sha256", _STRETCH_BYTES // size, _PIECE_BYTES // size
        for start in range(0, len(flat), stretch):
            total.update(flat[start : start + piece].cpu().view(torch.uint8).numpy().data)
    return f"{kind}:{total.hexdigest()}"
