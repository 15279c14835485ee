"""What a refactoring must leave as it is: `python -m benchmarks.fingerprint --text FILE
--vocabulary VOCABULARY` prints a line of JSON, `{"name": ..., "value": ...}`, for each of

- the records that are made of the text with several sets of options: SHA-256 of every file;
- the losses of 50 steps of the size tiny with dropout, all their digits, on TensorFlow and on JAX;
- the weights of a run by `kbert.pretrain`: names, shapes and SHA-256, on both backends;
- the files of that run exported to each format: SHA-256, but for the model cards, which are prose,
  and for what holds a date or a random id.

Lines are sorted by name, so two revisions are compared with `diff`:

    kbert vocabulary FILE --size 2000 --uncased --output VOCABULARY
    python benchmarks/fingerprint.py --text FILE --vocabulary VOCABULARY > here.jsonl
    PYTHONPATH=OTHER python benchmarks/fingerprint.py --text FILE --vocabulary VOCABULARY \
        > there.jsonl

OTHER is a checkout of the other revision; this file uses only public names, and the list of export
formats, that both have. Both must run on the same machine with the same libraries: other processors
round otherwise."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

RECORDS = {
    "static nsp": {},
    "static sop ngram": {"pairs": "sop", "mask_unit": "ngram"},
    "dynamic": {"masking": "dynamic"},
    "word gzip": {"mask_unit": "word", "compression": "gzip", "num_shards": 3},
    "none dynamic": {"pairs": "none", "masking": "dynamic"},
}
"""Fields of RecordsConfig by the name of the set."""
BACKENDS = ("tensorflow", "jax")
STEPS = 50
BATCH_SIZE = 16
TENSORFLOW_ALONE = {"saved-model"}
"""Formats that are not exported on JAX."""
NOT_COMPARED = {
    "README.md",  # the model card
    "fingerprint.pb",  # TensorFlow's own, with a random id
    "metadata.json",  # KerasHub's, with the date
}

Line = tuple[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description="What a refactoring must leave as it is.")
    parser.add_argument(
        "--text", type=pathlib.Path, required=True, help="Sentences, one per line; a MB is enough."
    )
    parser.add_argument(
        "--vocabulary", type=pathlib.Path, required=True, help="The vocab.txt of the records."
    )
    # The process of one backend, in the directory where the records are.
    parser.add_argument("--backend", choices=BACKENDS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.backend:
        lines = list(of_training(arguments.directory, arguments.backend))
    else:
        with tempfile.TemporaryDirectory(prefix="kbert-fingerprint-") as directory:
            place = pathlib.Path(directory)
            lines = list(of_records(arguments.text.resolve(), arguments.vocabulary, place))
            for backend in BACKENDS:
                lines += of_backend(place, backend)
    for name, value in sorted(lines):
        print(json.dumps({"name": name, "value": value}))


def of_records(
    text: pathlib.Path, vocabulary_file: pathlib.Path, directory: pathlib.Path
) -> Iterator[Line]:
    """Makes records in `directory`, a folder for every set of options."""
    import tfrecords

    vocabulary = tfrecords.Vocabulary.load(vocabulary_file)
    for name, options in RECORDS.items():
        output = directory / name
        config = tfrecords.RecordsConfig(
            sequence_length=64, max_predictions=10, cased=False, **options
        )
        tfrecords.build_records([text], vocabulary, output, config, workers=1)
        # The manifest and the configuration may gain fields; the shards may not change.
        for path in sorted(output.glob("*.tfrecord*")):
            yield f"records, {name}: {path.name}", digest(path.read_bytes())


def of_backend(directory: pathlib.Path, backend: str) -> list[Line]:
    """The lines of `of_training`, from a process of its own: a process has one backend."""
    spec = importlib.util.find_spec("kbert")
    assert spec is not None and spec.origin is not None
    environment = {
        "KERAS_BACKEND": backend,
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # The same kbert as here, whether it was found by PYTHONPATH or by the current directory.
        "PYTHONPATH": str(pathlib.Path(spec.origin).parent.parent),
    }
    command = [sys.executable, __file__, *sys.argv[1:], "--backend", backend]
    done = subprocess.run(
        [*command, "--directory", str(directory)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{backend}: ended with exit code {done.returncode}.")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name": ')]
    return [(line["name"], line["value"]) for line in lines]


def of_training(directory: pathlib.Path, backend: str) -> Iterator[Line]:
    """Trains on the records in `directory`, in this process."""
    yield from of_steps(directory / "static nsp", backend)
    for name in ("static nsp", "none dynamic"):
        yield from of_run(directory / name, directory / f"{backend} {name}", backend)


def of_steps(records: pathlib.Path, backend: str) -> Iterator[Line]:
    """The loss of every step of a model that is compiled and fitted as any Keras model."""
    import kbert
    import tfrecords

    size = tfrecords.load_manifest(records).vocabulary_size
    assert size is not None  # a manifest has it
    bert = kbert.BertConfig.of_size("tiny", vocabulary_size=size, dropout=0.1)
    model = kbert.pretraining_model(bert, seed=7)
    model.compile(**kbert.pretraining_objective(learning_rate=1e-3, steps=STEPS, warmup_steps=5))
    batches = tfrecords.read(records, "train", batch_size=BATCH_SIZE, seed=7, epochs=None)
    # An epoch of one step each, since within an epoch Keras reports the mean so far.
    history = model.fit(batches, steps_per_epoch=1, epochs=STEPS, shuffle=False, verbose=0).history
    for figure, values in history.items():
        yield f"losses, {backend}: {figure}", [repr(float(value)) for value in values]


def of_run(records: pathlib.Path, output: pathlib.Path, backend: str) -> Iterator[Line]:
    """Weights, results and exported files of the main job."""
    import kbert
    from kbert.formats.protocol import EXPORT_FORMATS

    name = f"{backend}, {records.name}"
    pretraining = kbert.PretrainingConfig(
        steps=12, batch_size=BATCH_SIZE, learning_rate=1e-3, evaluate_every=6, seed=7
    )
    _, results = kbert.pretrain(
        records, output, bert="tiny", pretraining=pretraining, strategy="one", verbose=0
    )
    yield (
        f"results, {name}",
        {key: repr(value) for key, value in sorted((results or {}).items())},
    )
    pretrained = kbert.load(output)
    weights = pretrained.weights
    shapes = {key: list(weights[key].shape) for key in sorted(weights)}
    yield f"weights, {name}: shapes", shapes
    joined = b"".join(weights[key].tobytes() for key in sorted(weights))
    yield f"weights, {name}: values", digest(joined)
    for format in EXPORT_FORMATS:
        if backend != "tensorflow" and format in TENSORFLOW_ALONE:
            continue
        exported = kbert.save(pretrained, output.with_name(f"{output.name} {format}"), format)
        for path in sorted(pathlib.Path(exported).rglob("*")):
            if path.is_file() and path.name not in NOT_COMPARED:
                file = path.relative_to(exported)
                yield f"export, {name}, {format}: {file}", digest(path.read_bytes())


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
