"""`attrgraph transcoders`."""

from pathlib import Path
from typing import Annotated, Any

import attrgraph as ag
from attrgraph.cli import options
from attrgraph.cli.output import print_files, print_json, print_table, print_text
from attrgraph.demo.shipped import SHIPPED, shipped_folder

_KINDS = {"cross-layer": "CLT", "per-layer": "PLT", "both": "both"}


def transcoders(
    source: Annotated[
        str | None, options.argument("SOURCE", "demo, demo-per-layer, a folder of any layout, or owner/repo.")
    ] = None,
    output: Annotated[Path | None, options.output("Write it as a folder in the common layout.")] = None,
    read_point: options.ReadPoint = None,
    write_point: options.WritePoint = None,
    revision: options.Revision = None,
    allow_missing_layers: options.AllowMissingLayers = False,
    digest: Annotated[
        bool, options.flag("Say the digest that graphs record, too: all files are read.", "--digest")
    ] = False,
    as_json: options.AsJson = False,
    force: options.Force = False,
) -> None:
    """Say what a folder of transcoders is, or convert it. Without a folder: list published sets.

    \b
    Example:
      attrgraph transcoders demo
    """
    if source is None:
        _list_known(as_json=as_json)
        return
    source = str(shipped_folder(SHIPPED[source])) if source in SHIPPED else source
    how: dict[str, Any] = {"read_point": read_point, "write_point": write_point, "revision": revision}
    how |= {"allow_missing_layers": allow_missing_layers}
    if output is None:
        found = ag.describe_transcoders(source, **how, digest=digest)
        (print_json if as_json else _print)(found)
        return
    from attrgraph.cli.progress import progress_bar

    with progress_bar() as progress:
        ag.convert_transcoders(source, output, **how, overwrite=force, progress=progress)
    if as_json:
        print_json({"files": [output]})
    else:
        print_files([output])


def _list_known(*, as_json: bool) -> None:
    import pandas as pd

    from attrgraph.transcoders.known_sets import AS_OF, KNOWN_SETS, sets_for

    if as_json:
        print_json([known._asdict() for known in KNOWN_SETS])
        return
    rows = []
    for model in dict.fromkeys(known.model for known in KNOWN_SETS):
        rows.append((model, "", "", "", ""))
        for known in sets_for(model):
            name = f"- {known.name}{known.short and f' ({known.short})'}"
            rows.append((name, _KINDS[known.kind], known.features, known.layout, known.size))
    print_table(pd.DataFrame(rows, columns=["model and sets", "kind", "features", "layout", "size"]))
    print_text(
        f"\nAs of {AS_OF}, from what others wrote. CLT: cross-layer, PLT: per-layer. Features: layers\n"
        "x features a layer. In brackets: a short name. Of gemma-scope-2 and Llama-Scope-2\n"
        "name a folder, too: mwhanna/gemma-scope-2-1b-pt/transcoder_all/width_16k_l0_small_affine."
    )


def _print(found: dict[str, object]) -> None:
    from attrgraph.memory import in_words

    sizes = found["n_features"]
    missing = found["missing_layers"]
    assert isinstance(sizes, list) and isinstance(missing, list)
    same = f"{found['n_layers']} x {sizes[0]}" if len(set(sizes)) == 1 else ", ".join(map(str, sizes))
    rows = {
        "layout": found["format"],
        "kind": found["kind"],
        "model": found["model"] or "(not said)",
        "features": f"{same}, d_model {found['d_model']}",
        **({"missing": f"layers {', '.join(map(str, missing))}"} if missing else {}),
        "activation": found["activation"] if found["k"] is None else f"{found['activation']}, k {found['k']}",
        "reads": found["read_point"],
        "writes": found["write_point"],
        "skip": "linear" if found["has_skip"] else "none",
        "weights": f"{in_words(int(str(found['bytes'])))}, {found['dtype']}",
        "opening": found.get("changes", "as they are"),
    }
    for name, value in rows.items():
        print_text(f"{name:<12} {value}")
