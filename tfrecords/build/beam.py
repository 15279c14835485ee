"""The steps of a build as Apache Beam pipelines, for a corpus that outgrows one machine.

Beam takes the place of the local process pool (workers.py): every step is a pipeline whose elements
are the tasks, spread over the runner's machines. The tasks are those of the local build, so the
bytes are the same, and what a killed build has finished is kept. Input and output are paths that
every machine sees: a disk that they share, or a mounted bucket."""

import json
import pathlib
import tempfile

from tfrecords.errors import InputError, WorkerError

try:
    import apache_beam as beam
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
        make: A function that can be pickled; every process of a runner calls it once.
        arguments: Its arguments.
    """

    def __init__(self, options, directory, make, *arguments):
        self._options = PipelineOptions(list(options))
        known = self._options.get_all_options().keys()
        unknown = sorted(self._options.get_all_options(retain_unknown_options=True).keys() - known)
        if unknown:
            raise InputError(
                f"Expected options of Apache Beam. Received: {', '.join(unknown)}, which it does not know."
            )
        self._directory = pathlib.Path(directory)
        self._make = make
        self._arguments = arguments

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, method, tasks, progress=None):
        """Calls the method with every task and yields (task, result); `progress` is not called.

        Raises:
            InputError: What a worker raised.
            WorkerError: The pipeline failed; its last line says why.
        """
        if not tasks:
            return
        with tempfile.TemporaryDirectory(prefix="beam-", dir=self._directory) as results:
            self._run(method, tasks, results)
            for path in sorted(pathlib.Path(results).iterdir()):
                for line in path.read_text(encoding="utf-8").splitlines():
                    index, error, result = json.loads(line)
                    if error:
                        raise InputError(error)
                    yield tasks[index], result

    def _run(self, method, tasks, results):
        call = _Call(method, self._make, self._arguments)
        try:
            with beam.Pipeline(options=self._options) as pipeline:
                _ = (
                    pipeline
                    | "Tasks" >> beam.Create(list(enumerate(tasks)), reshuffle=True)
                    | method >> beam.ParDo(call)
                    | "Results" >> beam.io.WriteToText(f"{results}/result")
                )
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise WorkerError(
                f"Expected the step {method!r} on Beam to end well. Received: {lines[-1]}."
            ) from error


class _Call(beam.DoFn):
    def __init__(self, method, make, arguments):
        self._method = method
        self._make = make
        self._arguments = arguments

    def setup(self):
        self._worker = self._make(*self._arguments)

    def process(self, element):
        index, task = element
        try:
            result, error = getattr(self._worker, self._method)(task, lambda *_: None), None
        except InputError as refusal:  # trying again, as runners do, would not help
            result, error = None, str(refusal)
        yield json.dumps([index, error, result])
