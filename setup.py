"""Refuse to build from a checkout whose links are missing; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup

for room in ("transcoders", "kernels", "cli"):
    if not (Path(__file__).parent / "attrgraph" / room / "__init__.py").is_file():
        raise SystemExit(
            f"attrgraph/{room} is not a link to the folder {room}: this checkout was made without symbolic links. "
            "Clone again with them (git config --global core.symlinks true; on Windows, in developer mode)."
        )

setup()
