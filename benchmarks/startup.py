"""How long the command line takes to start, beside importing torch and the one model class that a trace needs.

    python benchmarks/startup.py -o benchmarks/results/startup.json

Each command runs in a process of its own; commands take turns, so that all see the same machine. The floor is a process
that imports torch and the model class of the demo and does nothing.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

PROMPT = "in the state containing dallas the capital is"
OTHER = PROMPT.replace("dallas", "chicago")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=7, help="rounds")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(Path(folder), arguments.n)
    floor = statistics.median(seconds["torch and the model class"])
    found = {
        name: {
            "median": round(statistics.median(values), 3),
            "least": round(min(values), 3),
            "most": round(max(values), 3),
            "of_floor": round(statistics.median(values) / floor, 3),
        }
        for name, values in seconds.items()
    }
    versions = {name: version(name) for name in ("attrgraph", "torch", "transformers", "pandas", "typer")}
    result = {
        "machine": {"system": platform.platform(), "python": platform.python_version(), "cores": count_cores()},
        "versions": versions,
        "rounds": arguments.n,
        "seconds": found,
    }
    text = json.dumps(result, indent=1) + "\n"
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")
    print(text, end="")


def measure(folder: Path, n_rounds: int) -> dict[str, list[float]]:
    """Seconds of each command, a value a round."""
    program = [str(Path(sys.executable).with_name("attrgraph"))]
    graph, one, two = (folder / name for name in ("dallas.safetensors", "one.txt", "two.txt"))
    subprocess.run([*program, "trace", PROMPT, "-o", str(graph)], check=True, capture_output=True)
    one.write_text(f'trace "{PROMPT}"\n')
    two.write_text(f'trace "{PROMPT}"\ntrace "{OTHER}"\n')
    imports = "import torch; from transformers.models.llama.modeling_llama import LlamaForCausalLM"
    commands = {
        "torch and the model class": [sys.executable, "-c", imports],
        "attrgraph trace": [*program, "trace", PROMPT],
        "attrgraph info": [*program, "info", str(graph)],
        "attrgraph --help": [*program, "--help"],
        "import attrgraph": [sys.executable, "-c", "import attrgraph"],
        "python": [sys.executable, "-c", "pass"],
        "shell, one trace": [*program, "shell", str(one)],
        "shell, two traces": [*program, "shell", str(two)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(n_rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    pairs = zip(seconds["shell, one trace"], seconds["shell, two traces"], strict=True)
    seconds["second trace in a shell"] = [max(0.0, two - one) for one, two in pairs]
    return seconds


def count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
