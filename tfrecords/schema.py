"""What stands in a record and what stands in the manifest beside the records.

The records are `tf.train.Example`s with the seven features of google-research/bert, so that its records and those of
everyone who followed it can be trained on here, and ours there.
"""

import dataclasses
import pathlib

from tfrecords.errors import InputError, check_range
from tfrecords.files import read_json, sha256, write_json
from tfrecords.vocabulary import Vocabulary

MANIFEST = "manifest.json"
VOCABULARY = "vocab.txt"
VERSION = 1
SPLITS = ("train", "validation")
_ANEW = "remove the directory and make the records anew"

INPUT_IDS = "input_ids"  # int64 [S]
INPUT_MASK = "input_mask"  # int64 [S], 1 on tokens, 0 on padding
SEGMENT_IDS = "segment_ids"  # int64 [S], 0 on [CLS] A [SEP] and padding, 1 on B [SEP]
MASKED_LM_POSITIONS = "masked_lm_positions"  # int64 [P]
MASKED_LM_IDS = "masked_lm_ids"  # int64 [P]
MASKED_LM_WEIGHTS = "masked_lm_weights"  # float32 [P], 1 on slots in use
NEXT_SENTENCE_LABELS = "next_sentence_labels"  # int64 [1], 0 = B follows A, 1 = random

SEQUENCE_FEATURES = (INPUT_IDS, INPUT_MASK, SEGMENT_IDS)
PREDICTION_FEATURES = (MASKED_LM_POSITIONS, MASKED_LM_IDS, MASKED_LM_WEIGHTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordsConfig:
    """How records are made from documents.

    Raises:
        InputError: A value is out of its range.
    """

    sequence_length: int = 128
    """S, the longest pair of sentences in tokens, special ones included."""
    max_predictions: int = 20
    """P, the slots for masked tokens in a sequence."""
    duplicates: int = 5
    """How often the corpus is passed over, with other pairs and other masks."""
    mask_rate: float = 0.15
    """The share of a sequence's tokens that is predicted."""
    short_sequence_probability: float = 0.1
    """The share of passes over a document with a shorter target length, drawn uniformly."""
    validation_fraction: float = 0.05
    """The share of documents that is held out of training, as a split of its own."""
    num_shards: int = 1
    """Files of the training split; a document's random next sentences come from its own shard."""
    seed: int = 12345
    """Every draw follows from it."""
    cased: bool | None = None
    """Whether case and accents are kept; None takes what the vocabulary shows."""

    def __post_init__(self):
        check_range(self, "sequence_length", 5, 1 << 16)
        check_range(self, "max_predictions", 1, self.sequence_length)
        check_range(self, "duplicates", 1, 1 << 16)
        check_range(self, "mask_rate", 0.0, 1.0)
        check_range(self, "short_sequence_probability", 0.0, 1.0)
        check_range(self, "validation_fraction", 0.0, 0.5)
        check_range(self, "num_shards", 1, 1 << 16)
        check_range(self, "seed", 0, (1 << 63) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of records."""

    name: str
    split: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a directory of records holds; the trainer takes every shape from it."""

    directory: pathlib.Path = dataclasses.field(compare=False)
    """Where the records are; not part of the file."""
    version: int = VERSION
    sequence_length: int
    max_predictions: int
    vocabulary_size: int | None
    """None for records by another tool, which say nothing of it."""
    vocabulary_sha256: str | None
    config: RecordsConfig | None
    """None for records by another tool."""
    shards: tuple[Shard, ...]
    counts: dict
    """Per split: documents, sentences, tokens, unknown tokens, records, truncated pairs, and so on."""

    def files(self, split):
        """The paths of a split's shards, in order."""
        return [str(self.directory / shard.name) for shard in self.shards if shard.split == split]

    def num_records(self, split):
        """The number of records in a split."""
        return sum(shard.records for shard in self.shards if shard.split == split)

    def load_vocabulary(self):
        """Reads the vocabulary that the records were written with, kept beside them.

        Raises:
            InputError: It is no longer the same.
        """
        vocabulary = Vocabulary.load(self.directory / VOCABULARY)
        if vocabulary.sha256 != self.vocabulary_sha256:
            raise InputError(
                f"{self.directory / VOCABULARY}: expected the vocabulary that the records were written with, "
                f"{self.vocabulary_sha256[:12]}. Received: another, {vocabulary.sha256[:12]}; {_ANEW}."
            )
        return vocabulary

    def verify(self):
        """Reads all shards and compares them with the hashes in the manifest.

        Raises:
            InputError: A shard is damaged.
        """
        for shard in self.shards:
            path = self.directory / shard.name
            received = sha256(path)
            if received != shard.sha256:
                raise InputError(
                    f"{path}: expected the content with SHA-256 {shard.sha256[:12]}, as in the manifest. "
                    f"Received: {received[:12]}, a damaged file; {_ANEW}."
                )

    def save(self):
        """Writes the manifest into its directory, atomically. It is written last: its presence means that all is there."""
        fields = dataclasses.asdict(self)
        del fields["directory"]
        write_json(self.directory / MANIFEST, fields)


def load_manifest(directory):
    """Reads the manifest in a directory of records and checks that the shards it names are there, of the right size.

    Raises:
        InputError: There is no manifest, it is of another version, or a shard is missing or cut.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise InputError(f"Expected a directory of records. Received: {directory}, which is no directory.")
    if not (directory / MANIFEST).exists():
        raise InputError(
            f"Expected {MANIFEST} in {directory}. Received: a directory without it, so no finished records; "
            "make them with 'kbert records' (run again, it replaces an unfinished attempt)."
        )
    fields = read_json(directory / MANIFEST, "the manifest of records")
    if fields.get("version") != VERSION:
        raise InputError(f"{directory / MANIFEST}: expected version {VERSION}. Received: {fields.get('version')!r}.")
    try:
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        fields["config"] = RecordsConfig(**fields["config"])
        manifest = Manifest(directory=directory, **fields)
    except (TypeError, KeyError) as error:
        raise InputError(f"{directory / MANIFEST}: expected a manifest by 'kbert records'. Received: {error}.") from None
    for shard in manifest.shards:
        path = directory / shard.name
        size = path.stat().st_size if path.is_file() else None
        if size != shard.bytes:
            received = "no such file" if size is None else f"{size} bytes"
            raise InputError(f"{path}: expected {shard.bytes} bytes, as in the manifest. Received: {received}; {_ANEW}.")
    return manifest
