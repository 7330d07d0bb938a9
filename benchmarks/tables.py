"""Write docs/performance.md's tables from what was measured: `python benchmarks/tables.py`."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
_SHAPES = {"gpt2": "GPT-2", "llama": "Llama"}
_KINDS = {"cross_layer_transcoder": "cross-layer", "transcoder_set": "per-layer"}
_OPS = {"edge_rows": "edges", "mix_heads": "attention", "encode_sparse": "encoding", "influence_rows": "influence"}


def attribution_table(report: dict[str, Any]) -> str:
    """A row a case: what a trace takes, beside what the others take."""
    rows = []
    for found in report["results"]:
        ours, grouped = found["ours"], _fastest(found.get("grouped", {}))
        case = [_SHAPES[found["shape"]], _KINDS[found["kind"]], f"{found['n_tokens']:,}", f"{found['rows']:,}"]
        if "seconds" not in ours:
            rows.append([*case, "", str(ours["failed"]).split(": ", 1)[-1], *[""] * 4])
            continue
        seconds = median(ours["seconds"])
        rows.append(
            [
                *case,
                f"{ours['n_active']:,}",
                f"{seconds:.1f} s ({min(ours['seconds']):.1f} to {max(ours['seconds']):.1f})",
                f"{ours['peak_gib']:.1f} GiB",
                _beside(grouped, seconds),
                _beside(_fastest(found.get("circuit-tracer", {})), seconds),
                f"{ours['work']['share_of_flop_per_second']:.0%}",
            ]
        )
    names = "shape, transcoders, tokens, rows, active, seconds, memory, grouped autograd, circuit-tracer, operations"
    return _table(names.split(", "), rows)


def _fastest(results: dict[str, Any]) -> dict[str, Any]:
    """Of one engine's batch sizes; one that failed only if all did."""
    done = [result for result in results.values() if "seconds" in result]
    return min(done, key=lambda result: median(result["seconds"])) if done else next(iter(results.values()), {})


def _beside(result: dict[str, Any], seconds: float) -> str:
    if not result:
        return ""
    if "seconds" not in result:
        # a process that the system killed
        return {"ended with -9": "out of memory"}.get(result["failed"], str(result["failed"]))
    sampled = "" if result.get("n_sampled") == result.get("n_batches") else "\\*"
    return f"{median(result['seconds']) / seconds:.1f}x{sampled}, {result['peak_gib']:.1f} GiB"


def roofline_table(report: dict[str, Any]) -> str:
    """A row an operation and size."""
    rows = [
        [
            _OPS[found["op"]],
            f"[`{found['op']}`](../kernels/{found['op']}.py)",
            f"{found['n_tokens']:,}",
            f"{1e3 * found['torch']['median']:.2f} ms",
            f"{1e3 * min(found['torch']['seconds']):.2f} to {1e3 * max(found['torch']['seconds']):.2f} ms",
            f"{found['torch']['share_of_roofline']:.0%}",
        ]
        for found in report["results"]
    ]
    return _table(["operation", "file", "tokens", "median", "range", "of the roofline"], rows)


def estimate_table(report: dict[str, Any]) -> str:
    """A row a case: what was said, over what then happened."""
    rows = [
        [
            name,
            f"{median(found['seconds']):.2f} s",
            f"{found['ratio']:.2f}",
            f"{found['peak_mib']:,.0f} MiB",
            f"{found['estimated_mib'] / found['peak_mib']:.2f}",
            f"{found['estimated_total_mib'] / found['total_mib']:.2f}",
            f"{median(found['estimating_seconds']):.2f} s",
        ]
        for name, found in report["cases"].items()
    ]
    return _table(["case", "trace", "said", "it adds", "said", "process: said", "estimating"], rows)


def _table(names: list[str], rows: list[list[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "attribution": attribution_table,
    "roofline": roofline_table,
    "estimate": estimate_table,
}


def with_tables(text: str) -> str:
    """The document with each table between its two marks as its results say."""
    for name, make in TABLES.items():
        path = ROOT / "benchmarks" / "results" / f"{name}.json"
        start, end = f"<!-- {name}.json -->\n", f"<!-- end of {name}.json -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        table = make(json.loads(path.read_text(encoding="utf-8")))
        text = f"{before}{start}{table}\n{end}{after}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    print(DOCUMENT)
