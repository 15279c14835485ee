"""The steps of a build as Apache Beam pipelines, for a corpus that outgrows one machine.

Beam takes the place of the local process pool (workers.py): every step is a pipeline whose elements
are the tasks, spread over the runner's machines. The tasks are those of the local build, so the
bytes are the same, and finished work survives a kill. Input and output are paths that every machine
sees: a shared disk, or a mounted bucket."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tfrecords.errors import InputError, WorkerError, one_line

try:
    import apache_beam as beam
    from apache_beam.io import WriteToText
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError:
    raise InputError(
        "Expected the package apache-beam. Received: none; pip install '.[beam]' in the clone."
    ) from None


class BeamWorkers:
    """Does what `workers.Workers` does, on a runner of Apache Beam.

    Args:
        options: Options of Beam as on a command line, such as ["--runner=FlinkRunner",
            "--flink_master=host:8081"].
        directory: A directory that every machine sees, for the results.
        make: A class, or a function that can be pickled; every process of a runner calls it once.
        arguments: Its arguments.
    """

    def __init__(
        self,
        options: Sequence[str],
        directory: str | os.PathLike,
        make: Callable[..., Any],
        *arguments: Any,
    ):
        self._options = PipelineOptions(list(options))
        # Beam drops options that it does not know, a mistyped runner too.
        known = self._options.get_all_options().keys()
        unknown = sorted(self._options.get_all_options(retain_unknown_options=True).keys() - known)
        if unknown:
            raise InputError(
                f"Expected options of Apache Beam. Received: {', '.join(unknown)}, which it does "
                "not know."
            )
        self._directory = pathlib.Path(directory)
        self._make = make
        self._arguments = arguments

    def __enter__(self) -> BeamWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(
        self,
        function: Callable[..., Any],
        tasks: Iterable[Any],
        progress: Callable[..., object] = lambda *_: None,
    ) -> Iterator[tuple[Any, Any]]:
        """Calls `function(worker, task, report)` with every task and yields (task, result);
        `progress` is not called.

        Raises:
            InputError: What the function raised in a worker.
            WorkerError: The pipeline failed; the last line of its error says why.
        """
        tasks = list(tasks)
        if not tasks:
            return
        with tempfile.TemporaryDirectory(prefix="beam-", dir=self._directory) as results:
            self._run(function, tasks, results)
            for path in sorted(pathlib.Path(results).iterdir()):
                for line in path.read_text(encoding="utf-8").splitlines():
                    index, error, result = json.loads(line)
                    if error:
                        raise InputError(error)
                    yield tasks[index], result

    def _run(self, function, tasks, results):
        step = function.__name__
        call = _Call(function, self._make, self._arguments)
        try:
            with beam.Pipeline(options=self._options) as pipeline:
                _ = (
                    pipeline
                    | "Tasks" >> beam.Create(list(enumerate(tasks)), reshuffle=True)
                    | step >> beam.ParDo(call)
                    | "Results" >> WriteToText(f"{results}/result")
                )
        except Exception as error:
            # Beam's message is a stack of several machines; what went wrong is its last line.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise WorkerError(
                f"The step {step!r} failed on Apache Beam: {one_line(lines[-1], 500)}. Run the "
                "same command again to continue."
            ) from error


class _Call(beam.DoFn):
    """A call of the function in a runner's process. It yields one line of JSON."""

    def __init__(self, function, make, arguments):
        self._function = function
        self._make = make
        self._arguments = arguments

    def setup(self):
        self._worker = self._make(*self._arguments)

    def process(self, element):
        index, task = element
        try:
            result, error = self._function(self._worker, task, lambda *_: None), None
        except InputError as refusal:  # runners retry what fails, and here that would not help
            result, error = None, str(refusal)
        yield json.dumps([index, error, result])
