"""What stands in a record and what stands in the manifest beside the records.

Records that are masked when they are written are `tf.train.Example`s with the seven features of
google-research/bert, so that its records and those of everyone who followed it can be trained on
here, and ours there. Records that are masked when they are read have the whole text in `input_ids`,
without padding, and where the second segment begins."""

import dataclasses
import pathlib

from tfrecords.errors import InputError, check_choice, check_range
from tfrecords.files import read_json, sha256, write_json
from tfrecords.vocabulary import Vocabulary

MANIFEST = "manifest.json"
VOCABULARY = "vocab.txt"
VERSION = 2
SPLITS = ("train", "validation")
PAIRS = ("nsp", "sop", "none")
MASKINGS = ("static", "dynamic")
MASK_UNITS = ("token", "word", "ngram")
COMPRESSIONS = ("none", "gzip")
BLOCK_RECORDS = 4096
"""The manifest keeps the offset of every so many records: reading can start at any of them."""

_ANEW = "remove the directory and make the records anew"

INPUT_IDS = "input_ids"  # int64 [S]; for masking on reading [number of tokens]
INPUT_MASK = "input_mask"  # int64 [S], 1 on tokens, 0 on padding
SEGMENT_IDS = "segment_ids"  # int64 [S], 0 on [CLS] A [SEP] and padding, 1 on B [SEP]
MASKED_LM_POSITIONS = "masked_lm_positions"  # int64 [P]
MASKED_LM_IDS = "masked_lm_ids"  # int64 [P]
MASKED_LM_WEIGHTS = "masked_lm_weights"  # float32 [P], 1 on slots in use
NEXT_SENTENCE_LABELS = "next_sentence_labels"  # int64 [1], 0 = B follows A, 1 = random; there are none for single segments
FIRST_LENGTH = "first_length"  # int64 [1], for masking on reading: the length of [CLS] A [SEP]

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
    pairs: str = "nsp"
    """"nsp": B follows A or is random. "sop": B follows A or both are swapped (Lan et al. 2020).
    "none": single segments."""
    duplicates: int | None = None
    """How often the corpus is passed over, with other pairs and other masks; None becomes 5, or 1
    with dynamic masking."""
    short_sequence_probability: float = 0.1
    """The share of passes over a document with a shorter target length, drawn uniformly."""
    masking: str = "static"
    """"static": masks are drawn once and written. "dynamic": they are drawn in reading, other ones
    in every epoch."""
    mask_unit: str = "token"
    """What is masked as one: a "token", a whole "word", or an "ngram" of up to three words."""
    mask_rate: float = 0.15
    """The share of a sequence's tokens that is predicted."""
    mask_share: float = 0.8
    """The share of those that [MASK] takes the place of."""
    random_share: float = 0.1
    """The share of those that a random token takes the place of; the rest stays as it is."""
    validation_fraction: float = 0.05
    """The share of documents that is held out of training, as a split of its own."""
    num_shards: int | None = None
    """Files of the training split; None: one for every 4 million tokens that are written. A
    document's random next sentences come from its own shard."""
    compression: str = "none"
    """Of the files: "none" or "gzip"."""
    seed: int = 12345
    """Every draw follows from it."""
    cased: bool | None = None
    """Whether case and accents are kept; None takes what the vocabulary shows."""

    def __post_init__(self):
        if self.duplicates is None:
            object.__setattr__(self, "duplicates", 1 if self.masking == "dynamic" else 5)
        check_choice(self, "pairs", PAIRS)
        check_choice(self, "masking", MASKINGS)
        check_choice(self, "mask_unit", MASK_UNITS)
        check_choice(self, "compression", COMPRESSIONS)
        check_range(self, "sequence_length", 5, 1 << 16)
        check_range(self, "max_predictions", 1, self.sequence_length)
        check_range(self, "duplicates", 1, 1 << 16)
        check_range(self, "short_sequence_probability", 0.0, 1.0)
        check_range(self, "mask_rate", 0.0, 1.0)
        check_range(self, "mask_share", 0.0, 1.0)
        check_range(self, "random_share", 0.0, 1.0)
        if self.mask_share + self.random_share > 1.0:
            raise InputError(
                f"Expected mask_share and random_share of at most 1.0 together. "
                f"Received: {self.mask_share} and {self.random_share}."
            )
        check_range(self, "validation_fraction", 0.0, 0.5)
        if self.num_shards is not None:
            check_range(self, "num_shards", 1, 1 << 16)
        check_range(self, "seed", 0, (1 << 63) - 1)

    @property
    def longest_text(self):
        """The tokens of a sequence that are not [CLS] or [SEP], at most."""
        return self.sequence_length - (2 if self.pairs == "none" else 3)

    @property
    def num_validation_shards(self):
        """Files of the validation split, which are about as large as those of the training
        split."""
        ratio = self.validation_fraction / (1 - self.validation_fraction)
        return max(1, round(self.num_shards * ratio)) if ratio else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of records."""

    name: str
    split: str
    records: int
    bytes: int
    sha256: str
    offsets: tuple[int, ...]
    """Where every BLOCK_RECORDS-th record begins; empty where reading can only start at the
    beginning (gzip)."""
    compression: str = "none"

    def __post_init__(self):
        object.__setattr__(self, "offsets", tuple(self.offsets))  # a list in JSON


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
    """Per split: documents, sentences, tokens, unknown tokens, records, truncated pairs, and so
    on."""

    def files(self, split):
        """The paths of a split's shards, in order."""
        return [str(self.directory / shard.name) for shard in self.shards if shard.split == split]

    def num_records(self, split):
        """The number of records in a split."""
        return sum(shard.records for shard in self.shards if shard.split == split)

    @property
    def pairs(self):
        """The kind of pairs: "nsp", "sop" or "none"; "nsp" for records by another tool."""
        return "nsp" if self.config is None else self.config.pairs

    def load_vocabulary(self):
        """Reads the vocabulary that the records were written with, kept beside them.

        Raises:
            InputError: It is no longer the same.
        """
        vocabulary = Vocabulary.load(self.directory / VOCABULARY)
        if vocabulary.sha256 != self.vocabulary_sha256:
            raise InputError(
                f"{self.directory / VOCABULARY}: expected the vocabulary that the records were "
                "written with, "
                f"{self.vocabulary_sha256[:12]}. Received: another, {vocabulary.sha256[:12]}; "
                f"{_ANEW}."
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
                    f"{path}: expected the content with SHA-256 {shard.sha256[:12]}, as in the "
                    "manifest. "
                    f"Received: {received[:12]}, a damaged file; {_ANEW}."
                )

    def save(self):
        """Writes the manifest into its directory, atomically. It is written last: its presence
        means that all is there."""
        fields = dataclasses.asdict(self)
        del fields["directory"]
        write_json(self.directory / MANIFEST, fields)


def load_manifest(directory):
    """Reads the manifest in a directory of records and checks that the shards it names are there,
    of the right size.

    Raises:
        InputError: There is no manifest, it is of another version, or a shard is missing or cut.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise InputError(
            f"Expected a directory of records. Received: {directory}, which is no directory."
        )
    if not (directory / MANIFEST).exists():
        raise InputError(
            f"Expected {MANIFEST} in {directory}. Received: a directory without it, so no finished "
            "records; "
            "make them with 'kbert records' (run again, it replaces an unfinished attempt)."
        )
    fields = read_json(directory / MANIFEST, "the manifest of records")
    if fields.get("version") != VERSION:
        raise InputError(
            f"{directory / MANIFEST}: expected version {VERSION}. Received: "
            f"{fields.get('version')!r}."
        )
    try:
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        fields["config"] = RecordsConfig(**fields["config"])
        manifest = Manifest(directory=directory, **fields)
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{directory / MANIFEST}: expected a manifest by 'kbert records'. Received: {error}."
        ) from None
    names = {shard.name for shard in manifest.shards}
    for path in sorted(directory.glob("*.tfrecord*")):
        if path.name not in names:
            raise InputError(
                f"{path}: expected only the files that the manifest names. Received: another; "
                "remove it."
            )
    for shard in manifest.shards:
        if "/" in shard.name:
            raise InputError(
                f"{directory / MANIFEST}: expected shards beside it, by name. Received: "
                f"{shard.name!r}; {_ANEW}."
            )
        path = directory / shard.name
        size = path.stat().st_size if path.is_file() else None
        if size != shard.bytes:
            received = "no such file" if size is None else f"{size} bytes"
            raise InputError(
                f"{path}: expected {shard.bytes} bytes, as in the manifest. Received: {received}; "
                f"{_ANEW}."
            )
    return manifest
