"""The command `dlka`: one file per verb, which looks at its options and paths and then calls the library once."""

from dlka_med.cli.command import build_parser, main

__all__ = ["build_parser", "main"]
