"""The command line: every command reads its options and calls one function of the library."""

from kbert.cli.commands import main

__all__ = ["main"]
