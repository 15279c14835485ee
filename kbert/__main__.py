"""`python -m kbert`: the command line."""

from kbert.cli.commands import main

main(prog_name="kbert")
