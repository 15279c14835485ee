"""`python -m kbert`: the command line."""

from kbert.cli import main

main(prog_name="kbert")
