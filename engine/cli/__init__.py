"""The command ``mezzotint``."""

from __future__ import annotations


def main() -> None:
    from engine.cli.app import app

    app()
