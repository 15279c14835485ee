"""The directory of a pretraining run: its configuration, vocabulary, checkpoints, history and
results."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import warnings
from typing import TYPE_CHECKING, Any

from kbert.config import BertConfig, PretrainingConfig
from kbert.model.bert import pretraining_model
from kbert.objectives import names_with_weight, objectives_of
from kbert.run.checkpoints import (
    list_checkpoints,
    newest_checkpoint,
    restore_checkpoint,
    step_of,
)
from kbert.run.history import HistoryFile
from kbert.run.hub import no_run
from kbert.run.stops import best_step, is_exhausted
from tfrecords import InputError, Normalization, Vocabulary
from tfrecords.files import claim_directory, difference, read_json, with_defaults, write_json

if TYPE_CHECKING:
    import numpy as np

    from kbert.step.pretrainer import Pretrainer
    from tfrecords.schema import Manifest

KIND = "a pretraining run"
CONFIGURATION = "config.json"
VOCABULARY = "vocab.txt"
HISTORY = "history.csv"
CURVES = "curves.png"
RESULTS = "results.json"
RECORDS = "records.json"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"

MAY_CHANGE = (
    "evaluate_every",
    "evaluate_steps",
    "patience",
    "checkpoint_every",
    "keep_checkpoints",
)
"""The fields of PretrainingConfig that may have other values when a run is resumed: no update
depends on them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a run directory says of itself.

    A later release continues the runs of an earlier one, and reads what its config.json lacks as
    the defaults of the dataclasses. So the rule for a new field, here and in the configurations:
    its default is yesterday's behaviour.
    """

    directory: pathlib.Path
    bert: BertConfig
    pretraining: PretrainingConfig
    sequence_length: int
    """S of the records; longer inputs would meet positions that were never trained."""
    normalization: Normalization
    """How the text of the records was normalized; flat among the fields of the file."""
    pairs: str
    """The kind of pairs of the records, as in RecordsConfig: what the model learns beside masked
    tokens, if anything."""
    records_sha256: str
    """The hash of the manifest of the records."""
    initial_sha256: str | None = None
    """The hash of the weights that the run started from; None for new ones."""

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.directory / CHECKPOINTS

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.load(self.directory / VOCABULARY)

    @property
    def history(self) -> HistoryFile:
        return HistoryFile(self.directory / HISTORY)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of the loss of each objective in the total, by objective."""
        return {
            objective.name: getattr(self.pretraining, objective.weight_field)
            for objective in objectives_of(self.pairs, self.optional)
        }

    @property
    def optional(self) -> tuple[str, ...]:
        """The names of objectives whose heads the model has, if they are optional."""
        return names_with_weight(dataclasses.asdict(self.pretraining))

    def claim(self) -> str:
        """Makes the directory this run's, or recognises it as that. Of the settings that may change
        it keeps the new values.

        Returns:
            In words, which of the settings that may change have changed; empty if none has.

        Raises:
            InputError: The directory holds something else, or a run with another configuration.
        """
        identity = self._identity()
        free = {f"pretraining.{name}" for name in MAY_CHANGE}
        now = {name: value for name, value in identity.items() if name in free}
        before, steps = dict(now), self.pretraining.steps

        def complete(there: dict[str, Any]) -> dict[str, Any]:
            nonlocal steps
            there = _with_defaults(there)
            before.update({name: there[name] for name in free if name in there})
            steps = there["pretraining.steps"]
            return there | now

        try:
            claim_directory(self.directory, identity, CONFIGURATION, complete)
        except InputError as error:
            if steps >= self.pretraining.steps:
                raise
            # The learning rate of every update follows from the number of steps.
            raise InputError(
                f"{str(error).removesuffix('.')}. To train beyond its {steps:,} steps, start a new "
                f"run with --init-from {self.directory}."
            ) from None
        if before != now:
            write_json(self.directory / CONFIGURATION, identity)
        return difference(before, now)

    def check_claimed(self) -> None:
        """Makes sure that the directory is this run's, as the first of several workers has made it.

        Raises:
            InputError: It is not there, or another worker has another configuration.
        """
        path = self.directory / CONFIGURATION
        if not path.exists():
            raise InputError(
                "Expected the run's directory on a file system that all workers share. Received: "
                f"none at {self.directory}."
            )
        there = _with_defaults(read_json(path, "the configuration of a run"))
        if differences := difference(there, json.loads(json.dumps(self._identity()))):
            raise InputError(
                f"Expected the configuration of the first worker, in {path}. Received another: "
                f"{differences}; start all workers with the same command."
            )

    def _identity(self) -> dict[str, Any]:
        """All fields but the directory, flat, those of the configurations behind their names."""
        identity: dict[str, Any] = {"kind": KIND}
        for part in ("bert", "pretraining"):
            fields = dataclasses.asdict(getattr(self, part))
            identity |= {f"{part}.{name}": value for name, value in fields.items()}
        identity |= dataclasses.asdict(self.normalization)
        own = ("sequence_length", "pairs", "records_sha256", "initial_sha256")
        return identity | {name: getattr(self, name) for name in own}

    def new_model(self, *, recompute: bool = False, pack: int = 1) -> Pretrainer:
        """The model as it is before the first step, not compiled; `recompute` and `pack` as for
        `pretraining_model`. A run does not remember whether its rows were packed: its weights are
        the same, and its records say it."""
        return pretraining_model(
            self.bert,
            seed=self.pretraining.seed,
            dtype=self.pretraining.dtype_policy,
            pairs=self.pairs,
            optional=self.optional,
            recompute=recompute,
            pack=pack,
        )

    def load_model(self) -> Pretrainer:
        """The model with the run's weights, see `best_step`; not compiled.

        Raises:
            InputError: There is no checkpoint.
        """
        model = self.new_model()
        if restore_checkpoint(self.checkpoints, model, self.best_step()) is None:
            raise self._no_checkpoint()
        return model

    def read_weights(self) -> tuple[pathlib.Path, int, dict[str, np.ndarray]]:
        """The checkpoint with the run's weights, see `best_step`: its path, its step, its arrays by
        name, as of `newest_checkpoint`.

        Raises:
            InputError: There is no checkpoint.
        """
        found = newest_checkpoint(self.checkpoints, self.best_step())
        if found is None:
            raise self._no_checkpoint()
        return found

    def best_step(self) -> int | None:
        """The step whose weights are the run's: with patience that of the best evaluation so far
        whose checkpoint is there; None, without patience, for the newest checkpoint's."""
        if self.pretraining.patience is None:
            return None
        saved = self.saved_steps()
        losses = self.history.validation_losses(self.pretraining.steps)
        return best_step({step: loss for step, loss in losses.items() if step in saved})

    def restore_best(self, model: Pretrainer, best: int, verbose: bool) -> int:
        """Loads the checkpoint of the best evaluation into `model`, or the newest, with a warning,
        where that one could not be written; returns its step."""
        found = restore_checkpoint(self.checkpoints, model, best)
        assert found is not None  # the last step has a checkpoint
        if found != best:
            warnings.warn(
                f"The checkpoint of step {best:,}, the best in validation, is not there: a full "
                f"disk, perhaps. The weights are those of step {found:,}.",
                stacklevel=2,
            )
        elif verbose:
            print(f"taking the weights of step {best:,}, the best in validation", flush=True)
        return found

    def saved_steps(self) -> set[int]:
        """The steps of the checkpoints. Where patience was set later, that of an evaluation may be
        gone."""
        return {step_of(path) for path in list_checkpoints(self.checkpoints)}

    def _no_checkpoint(self) -> InputError:
        return InputError(
            f"Expected a checkpoint in {self.checkpoints}. Received: none yet; train with "
            "'kbert pretrain'."
        )

    def lacks_evaluation(self, step: int) -> bool:
        """Whether an evaluation was due after `step` updates, and a stop came before it was in the
        history."""
        every = self.pretraining.evaluate_every
        assert every is not None  # the configuration has resolved it
        due = step % every == 0 or step == self.pretraining.steps
        return step > 0 and due and step not in self.history.validation_losses(step)

    def save_records(self, manifest: Manifest) -> None:
        """Writes of which records the run is trained: how they were made and what was counted,
        without their files."""
        assert manifest.config is not None  # `load_manifest` returns none without
        config = dataclasses.asdict(manifest.config)
        write_json(self.directory / RECORDS, {"config": config, "counts": manifest.counts})

    def read_records(self) -> dict[str, Any]:
        """What `save_records` wrote; an empty dict where it is not there."""
        path = self.directory / RECORDS
        return read_json(path, "the records of a run") if path.exists() else {}

    def save_results(
        self, step: int, results: dict[str, Any] | None, best: int | None = None
    ) -> None:
        """Writes that the run has ended.

        Args:
            step: The last step.
            results: Of `evaluate`; None where there is no validation split.
            best: With patience the step whose weights were evaluated; None without.
        """
        steps = {"step": step} if best is None else {"step": step, "best_step": best}
        write_json(self.directory / RESULTS, {**steps, "held_out": results})

    def results_of(self, step: int) -> dict[str, Any] | None:
        """The results of the finished run, if those of the weights of this step; else None."""
        fields = self._results()
        return (
            fields.get("held_out") if fields.get("best_step", fields.get("step")) == step else None
        )

    def is_finished(self, step: int, best: int | None = None) -> bool:
        """Whether the run has ended after `step` updates, with the weights of the step `best`
        evaluated, or with the last where that is None."""
        fields = self._results()
        losses = list(self.history.validation_losses(step).values())
        return (
            fields.get("step") == step
            and fields.get("best_step") == best
            # With more patience than before, a run that was stopped goes on.
            and (step == self.pretraining.steps or is_exhausted(losses, self.pretraining.patience))
        )

    def _results(self) -> dict[str, Any]:
        path = self.directory / RESULTS
        return read_json(path, "the results of a finished run") if path.exists() else {}


def load_run(directory: str | os.PathLike[str]) -> Run:
    """Reads the description of a run.

    Raises:
        InputError: `directory` is not that of a run.
    """
    directory = pathlib.Path(directory)
    if not directory.exists():
        raise no_run(directory)
    fields = read_json(directory / CONFIGURATION, "the configuration of a run by 'kbert pretrain'")
    if fields.pop("kind", None) != KIND:
        raise InputError(
            f"Expected {KIND} by 'kbert pretrain' in {directory}. Received: something else."
        )
    # Names such as bert.hidden_size say which dataclass they belong to. A field that the file lacks
    # has its default, and one that no class knows is a TypeError.
    parts: dict[str, dict[str, Any]] = {"bert": {}, "pretraining": {}, "": {}}
    try:
        for key, value in fields.items():
            part, _, name = key.rpartition(".")
            parts[part][name] = value
        normalization, own = Normalization.taken_from(parts[""])
        return Run(
            directory=directory,
            bert=BertConfig(**parts["bert"]),
            pretraining=PretrainingConfig(**parts["pretraining"]),
            normalization=normalization,
            **own,
        )
    except (TypeError, KeyError) as error:
        raise InputError(
            f"Expected a run by 'kbert pretrain' in {directory}. Received: another configuration "
            f"({error})."
        ) from None


def _with_defaults(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of config.json, with a default for each that its release did not know yet."""
    fields = with_defaults(fields, BertConfig, "bert.")
    fields = with_defaults(fields, PretrainingConfig, "pretraining.")
    fields = with_defaults(fields, Normalization)
    own = {
        field.name: field.default
        for field in dataclasses.fields(Run)
        if field.default is not dataclasses.MISSING
    }
    return own | fields
