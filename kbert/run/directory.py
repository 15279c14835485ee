"""The directory of a pretraining run: its configuration, vocabulary, checkpoints, history and
curves."""

import csv
import dataclasses
import pathlib

from kbert.config import BertConfig, PretrainingConfig
from kbert.model.bert import pretraining_model
from kbert.run.checkpoints import restore_checkpoint
from tfrecords import InputError, Vocabulary
from tfrecords.files import atomic_path, claim_directory, read_json, write_json

KIND = "a pretraining run"
CONFIGURATION = "config.json"
VOCABULARY = "vocab.txt"
HISTORY = "history.csv"
CURVES = "curves.png"
RESULTS = "results.json"
RECORDS = "records.json"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a run directory says of itself."""

    directory: pathlib.Path
    bert: BertConfig
    pretraining: PretrainingConfig
    sequence_length: int
    """S of the records; longer inputs would meet positions that were never trained."""
    cased: bool
    """Whether the vocabulary keeps case and accents."""
    pairs: str
    """The kind of pairs of the records, as in RecordsConfig: what the model learns beside masked
    tokens, if anything."""
    records_sha256: str
    """The hash of the manifest of the records."""
    initial_sha256: str | None = None
    """The hash of the weights that the run started from; None for new ones."""

    @property
    def checkpoints(self):
        return self.directory / CHECKPOINTS

    @property
    def vocabulary(self):
        return Vocabulary.load(self.directory / VOCABULARY)

    def claim(self):
        """Makes the directory this run's, or recognises it as that.

        Raises:
            InputError: The directory holds something else, or a run with another configuration.
        """
        identity = {"kind": KIND} | {
            f"bert.{key}": value for key, value in dataclasses.asdict(self.bert).items()
        }
        identity |= {
            f"pretraining.{key}": value
            for key, value in dataclasses.asdict(self.pretraining).items()
        }
        identity |= {
            name: getattr(self, name)
            for name in ("sequence_length", "cased", "pairs", "records_sha256", "initial_sha256")
        }
        claim_directory(self.directory, identity, CONFIGURATION)

    def check_claimed(self):
        """Makes sure that the directory is this run's, as the first of several workers has made it.

        Raises:
            InputError: It is not there, or another worker has another configuration.
        """
        if not (self.directory / CONFIGURATION).exists():
            raise InputError(
                "Expected the run's directory on a file system that all workers share. Received: "
                f"none at {self.directory}."
            )
        self.claim()

    def new_model(self, recompute=False):
        """The model as it is before the first step, not compiled; `recompute` as for
        `pretraining_model`."""
        return pretraining_model(
            self.bert,
            seed=self.pretraining.seed,
            dtype=self.pretraining.dtype_policy,
            pairs=self.pairs,
            recompute=recompute,
        )

    def load_model(self):
        """The model with the weights of the newest checkpoint, not compiled.

        Raises:
            InputError: There is no checkpoint.
        """
        model = self.new_model()
        if restore_checkpoint(self.checkpoints, model) is None:
            raise InputError(
                f"Expected a checkpoint in {self.checkpoints}. Received: none yet; train with "
                "'kbert pretrain'."
            )
        return model


def load_run(directory):
    """Reads the description of a run.

    Raises:
        InputError: `directory` is not that of a run.
    """
    directory = pathlib.Path(directory)
    fields = read_json(directory / CONFIGURATION, "the configuration of a run by 'kbert pretrain'")
    if fields.pop("kind", None) != KIND:
        raise InputError(
            f"Expected {KIND} by 'kbert pretrain' in {directory}. Received: something else."
        )
    parts = {"bert": {}, "pretraining": {}, "": {}}
    try:
        for key, value in fields.items():
            part, _, name = key.rpartition(".")
            parts[part][name] = value
        return Run(
            directory=directory,
            bert=BertConfig(**parts["bert"]),
            pretraining=PretrainingConfig(**parts["pretraining"]),
            **parts[""],
        )
    except (TypeError, KeyError) as error:
        raise InputError(
            f"Expected a run by 'kbert pretrain' in {directory}. Received: another configuration "
            f"({error})."
        ) from None


def append_history(run, row):
    """Adds a row (a dict with "step") to history.csv in place of any of the same or a later
    step."""
    rows = [there for there in read_history(run) if there["step"] < row["step"]] + [row]
    columns = dict.fromkeys(name for there in rows for name in there)  # not every row has them all
    with (
        atomic_path(run.directory / HISTORY) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_history(run):
    """The rows of history.csv: dicts of numbers, oldest first."""
    path = run.directory / HISTORY
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = [
            {key: float(value) for key, value in row.items() if value}
            for row in csv.DictReader(file)
        ]
    return [row | {"step": int(row["step"])} for row in rows]


def held_out_losses(run, step):
    """The losses of the held-out evaluations up to a step, oldest first."""
    return [
        row["val_loss"] for row in read_history(run) if "val_loss" in row and row["step"] <= step
    ]


def lacks_evaluation(run, step):
    """Whether a held-out evaluation was due after so many steps, and a stop came before it was in
    the history."""
    due = step > 0 and (step % run.pretraining.evaluate_every == 0 or step == run.pretraining.steps)
    return due and not any(row["step"] == step and "val_loss" in row for row in read_history(run))


def save_records(run, manifest):
    """Writes of which records the run is trained: how they were made and what was counted, without
    their files."""
    write_json(
        run.directory / RECORDS,
        {"config": dataclasses.asdict(manifest.config), "counts": manifest.counts},
    )


def read_records(run):
    """What `save_records` wrote; an empty dict where it is not there."""
    path = run.directory / RECORDS
    return read_json(path, "the records of a run") if path.exists() else {}


def save_results(run, step, results):
    """Writes that a run ended after so many steps, with its held-out results (None where there is
    no held-out split)."""
    write_json(run.directory / RESULTS, {"step": step, "held_out": results})


def read_results(run):
    """The held-out results of a finished run."""
    return read_json(run.directory / RESULTS, "the results of a finished run")["held_out"]


def is_finished(run, step):
    """Whether the run has come to its end, after so many steps."""
    path = run.directory / RESULTS
    return path.exists() and read_json(path, "the results of a finished run").get("step") == step
