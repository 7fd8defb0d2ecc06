"""The command ``mezzotint``."""

from __future__ import annotations


def main() -> None:
    from engine.cli import jobs, serve  # noqa: F401  (their commands are added where they are read)
    from engine.cli.app import app

    app()
