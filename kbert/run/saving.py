"""When a run saves checkpoints, and which ones it keeps."""

from __future__ import annotations

import math
import pathlib
import warnings
from collections.abc import Callable

import keras
import numpy as np

from kbert.run.checkpoints import list_checkpoints, save_checkpoint
from kbert.run.errors import TrainingError
from kbert.run.pace import Logs, Pace
from kbert.step.loss_scale import LEAST_SCALE
from tfrecords import InputError


class Checkpoints(keras.callbacks.Callback):
    """Saves a checkpoint every so many updates and at every evaluation; ends the run where its loss
    or its weights are no longer finite, so that no checkpoint holds such weights.

    Args:
        directory: Where the checkpoints are kept.
        pace: The Pace of the run.
        every: Updates between checkpoints.
        keep: How many stay: the newest ones.
        best: The step whose checkpoint stays too, or None.
        writes: Whether this is the process that writes.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        pace: Pace,
        *,
        every: int,
        keep: int,
        best: Callable[[], int | None],
        writes: bool,
    ) -> None:
        super().__init__()
        self._directory = directory
        self._pace = pace
        self._every = every
        self._keep = keep
        self._best = best
        self._writes = writes

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        # Before the weights that this loss led to are saved.
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            raise self._failure(f"expected a finite loss. Received: {loss}")
        scale = float((logs or {}).get("loss_scale", 1.0))
        if scale < LEAST_SCALE:
            raise self._failure(
                "expected finite gradients. Received: infinity or NaN in float16 in one update "
                f"after the other, down to a loss scale of {scale:.1g}"
            )
        if self._pace.step % self._every == 0:
            self.save()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.save()

    def save(self) -> pathlib.Path | None:
        """Saves a checkpoint of the present step, if this is the process that does.

        Returns:
            Its path; None where it could not be written, after a warning, or is another's to write.

        Raises:
            TrainingError: The weights are not finite.
        """
        model = self.model
        assert model is not None  # `fit` sets it before it calls a callback
        # The loss is of the weights before the update: it may be finite where they no longer are.
        if not all(np.isfinite(variable.numpy()).all() for variable in model.trainable_variables):
            raise self._failure("expected finite weights. Received: NaN or infinity")
        # All workers have looked at the weights, so that all of them end; one writes. A full disk
        # costs a checkpoint, not the run.
        if not self._writes:
            return None
        try:
            return save_checkpoint(
                self._directory,
                model,
                self._pace.step,
                keep=self._keep,
                best=self._best(),
            )
        except (OSError, InputError) as error:  # InputError: no directory could be made
            warnings.warn(
                f"Step {self._pace.step}: no checkpoint could be written ({error}); training goes "
                "on.",
                stacklevel=2,
            )
            return None

    def _failure(self, what: str) -> TrainingError:
        checkpoints = list_checkpoints(self._directory)
        kept = (
            f"the last good checkpoint is {checkpoints[-1]}"
            if checkpoints
            else "there is no checkpoint yet"
        )
        return TrainingError(
            f"Step {self._pace.step}: {what}; {kept}; try a lower learning rate in another "
            "directory."
        )
