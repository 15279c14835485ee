"""What a record holds, how records are made, and the manifest beside them.

With static masking a record is a `tf.train.Example` with the seven features of
google-research/bert, so that tools that read Google's records read ours, and the other way round.
With dynamic masking it holds the unmasked tokens without padding, and where the second segment
begins; the reader masks them. batch.py says what the reader makes of both."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from typing import Any, TypeVar

from tfrecords.damage import MAKE_AGAIN, check_hash, check_sizes
from tfrecords.errors import InputError, check_choice, check_range
from tfrecords.files import EARLIER, read_json, values_before, write_json
from tfrecords.normalization import ACCENTS, LONG_WORDS, Normalization
from tfrecords.vocabulary import Vocabulary

T = TypeVar("T", "Manifest", "RecordsConfig", "Shard")

MANIFEST = "manifest.json"
VOCABULARY = "vocab.txt"
VERSION = 2
SPLITS = ("train", "validation")
PAIRS = ("nsp", "sop", "none")
MASKINGS = ("static", "dynamic")
MASK_UNITS = ("token", "word", "ngram")
LONG_SENTENCES = ("split", "truncate")
COMPRESSIONS = ("none", "gzip")
MOST_PAIRS = 64
"""The largest number of pairs in a row of packed records."""
USUAL_PACK = 8  # what is advised: more pairs fill the rows no better
BLOCK_RECORDS = 4096
"""The manifest keeps the offset of every 4096th record, so that reading can start there."""

# The features of a record. S = sequence length, P = slots for masked tokens.
INPUT_IDS = "input_ids"  # int64 [S]; with dynamic masking [number of tokens]
INPUT_MASK = "input_mask"  # int64 [S], 1 on tokens, 0 on padding
SEGMENT_IDS = "segment_ids"  # int64 [S], 0 on [CLS] A [SEP] and padding, 1 on B [SEP]
MASKED_LM_POSITIONS = "masked_lm_positions"  # int64 [P]
MASKED_LM_IDS = "masked_lm_ids"  # int64 [P]
MASKED_LM_WEIGHTS = "masked_lm_weights"  # float32 [P], 1 on slots in use
# int64 [1], 0 = B follows A, 1 = B is random or, with sop, swapped; absent with pairs "none"
NEXT_SENTENCE_LABELS = "next_sentence_labels"
FIRST_LENGTH = "first_length"  # int64 [1], with dynamic masking alone: the length of [CLS] A [SEP]
# Packed records alone, with up to K pairs in a row. input_mask is then the number of each token's
# pair, from 1, and next_sentence_labels is int64 [K].
POSITIONS = "position_ids"  # int64 [S], the place of each token in its pair, from 0
NEXT_SENTENCE_POSITIONS = "next_sentence_positions"  # int64 [K], where [CLS] of each pair stands
NEXT_SENTENCE_WEIGHTS = "next_sentence_weights"  # float32 [K], 1 for the pairs of the row
# Packed with dynamic masking, n pairs in a row: first_length and labels are int64 [n] as well.
PAIR_LENGTHS = "pair_lengths"  # int64 [n], in tokens
PAIR_PLACES = "pair_places"  # int64 [n], which records of the shard they would be, not packed
SHARD_INDEX = "shard_index"  # int64 [1], the number of the shard in its split

SEQUENCE_FEATURES = (INPUT_IDS, INPUT_MASK, SEGMENT_IDS)
PREDICTION_FEATURES = (MASKED_LM_POSITIONS, MASKED_LM_IDS, MASKED_LM_WEIGHTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordsConfig:
    """How records are made from documents.

    A field that a later release adds needs a default that means what this release does: records
    and unfinished builds of earlier releases lack it. (Or metadata that say what its absence means;
    see `files.EARLIER`.)

    Raises:
        InputError: A value is out of range.
    """

    sequence_length: int = 128
    """S, the length of a sequence in tokens, including special tokens and padding."""
    max_predictions: int = 20
    """The most tokens to predict in a sequence: P, the number of slots, if rows are not packed; see
    `row_predictions`."""
    pairs: str = "nsp"
    """"nsp": B follows A or is random. "sop": B follows A, or the two are swapped (Lan et al.
    2020). "none": single segments."""
    duplicates: int | None = None
    """The number of passes over the corpus, each with other pairs and other masks; None becomes 5,
    or 1 with dynamic masking."""
    short_sequence_probability: float = 0.1
    """The share of passes over a document with a shorter target length, drawn uniformly."""
    long_sentences: str | None = dataclasses.field(default=None, metadata={EARLIER: "truncate"})
    """What becomes of a sentence that is longer than a sequence: "split": it goes on as several
    sentences. "truncate": it stays one sentence, and what does not fit into a pair is lost, as in
    Google's script. None becomes "split", and "truncate" where an earlier release, which knew
    nothing else, has begun the records."""
    masking: str = "static"
    """"static": masks are drawn once and written. "dynamic": masks are drawn on reading, different
    ones in every epoch."""
    mask_unit: str = "token"
    """What is masked together: a "token", a whole "word", or an "ngram" of up to three words."""
    words_by: str | None = None
    """What separates the words of the text, as a segmenter wrote them: " " or a character such as
    U+2581. The units "word" and "ngram" then mask these words whole, and else what has no white
    space, punctuation or CJK character in it."""
    mask_rate: float = 0.15
    """The share of a sequence's tokens that is predicted."""
    mask_share: float = 0.8
    """The share of the predicted tokens that is replaced by [MASK]."""
    random_share: float = 0.1
    """The share of the predicted tokens that is replaced by a random token; the rest is kept."""
    pack: int = 1
    """K, the most pairs in a row of S tokens (Krell et al. 2021); 1: a pair is a row, in Google's
    schema."""
    deduplicate: bool = False
    """Whether a paragraph that has stood in the corpus before is dropped, so that no held-out text
    is trained on. Where nothing tells paragraphs apart (one sentence per line), whole documents
    are compared."""
    validation_fraction: float = 0.05
    """The share of documents that goes to the validation split instead of the training split."""
    num_shards: int | None = None
    """The number of files of the training split; None: one per 4 million tokens written. A
    document's random next sentences come from its own shard."""
    compression: str = "none"
    """Of the files: "none" or "gzip"."""
    seed: int = 12345
    """The seed of every random choice."""
    cased: bool | None = None
    """Whether case is kept; None takes what the vocabulary shows, of accents too."""
    accents: str | None = None
    """"keep" or "strip"; None as BERT: "strip" with uncased text, "keep" with cased."""
    long_words: str = LONG_WORDS[0]
    """What becomes of words of more than 200 characters, as of text without spaces: "unknown", a
    token [UNK] each, as in BERT, or "split", several words."""

    def __post_init__(self) -> None:
        # Masks that are drawn on reading differ in every epoch, so one pass over the text suffices.
        if self.duplicates is None:
            object.__setattr__(self, "duplicates", 1 if self.masking == "dynamic" else 5)
        # Choices, then ranges. 5 tokens are the least for a pair: [CLS] a [SEP] b [SEP].
        check_choice(self, "pairs", PAIRS)
        check_choice(self, "masking", MASKINGS)
        check_choice(self, "mask_unit", MASK_UNITS)
        check_choice(self, "compression", COMPRESSIONS)
        if self.words_by is not None and (not self.words_by or self.mask_unit == "token"):
            raise InputError(
                "Expected a separator of words (words_by) with the mask units word or ngram, which "
                f"take words whole. Received: {self.words_by!r} with mask_unit={self.mask_unit}; "
                "for single tokens put spaces in its place."
            )
        check_choice(self, "long_words", LONG_WORDS)
        if self.accents is not None:
            check_choice(self, "accents", ACCENTS)
        if self.long_sentences is not None:
            check_choice(self, "long_sentences", LONG_SENTENCES)
        check_range(self, "sequence_length", 5, 1 << 16)
        check_range(self, "max_predictions", 1, self.sequence_length)
        check_range(self, "pack", 1, MOST_PAIRS)
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

    def normalization(self, vocabulary: Vocabulary | None = None) -> Normalization:
        """How text is normalized: as chosen, or as the vocabulary shows where `cased` is None;
        uncased without a vocabulary."""
        shown = Normalization(cased=False) if vocabulary is None else vocabulary.normalization
        return shown.chosen(self.cased, self.accents, self.long_words)

    @property
    def row_predictions(self) -> int:
        """P, the number of slots for masked tokens in a row.

        A row of several pairs may be full, and then `mask_rate` of its tokens need slots, even
        where `max_predictions` keeps a single pair from having so many."""
        share = math.ceil(self.mask_rate * self.sequence_length)
        return max(self.max_predictions, min(self.pack * self.max_predictions, share))

    @property
    def longest_text(self) -> int:
        """The most tokens that a sequence has besides [CLS] and [SEP]."""
        return self.sequence_length - (2 if self.pairs == "none" else 3)

    @property
    def longest_part(self) -> int:
        """The most tokens of a sentence that was part of a long one: those of a segment.

        Parts of a whole sequence would be truncated as long sentences are: the two segments of a
        pair share the room, and a run of sentences ends only beyond it. Of text with 128 tokens in
        a sequence and a paragraph in a sentence, 8 % of the tokens were then in no record, and
        0.9 % with halves (WikiText-2, 5 duplicates)."""
        return self.longest_text if self.pairs == "none" else (self.longest_text + 1) // 2

    def num_ids(self, vocabulary_size: int) -> int:
        """The number of ids that stand for V tokens before masks are drawn: with `words_by` id + V
        is a token that goes on with the word of the one before it."""
        return vocabulary_size if self.words_by is None else 2 * vocabulary_size

    @property
    def num_validation_shards(self) -> int:
        """The number of files of the validation split, each about as large as one of the training
        split. Needs num_shards."""
        assert self.num_shards is not None, "the build sets it before it counts shards"
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
    """Where every BLOCK_RECORDS-th record begins, in bytes; empty for gzip, which can only be read
    from its beginning."""
    compression: str = "none"
    pairs: int | None = None
    """The number of pairs, or single segments, in packed records; None: every record is one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", tuple(self.offsets))  # a list in JSON

    @property
    def num_pairs(self) -> int:
        """The number of pairs, or single segments."""
        return self.records if self.pairs is None else self.pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a directory of records holds; training takes every shape from it."""

    directory: pathlib.Path = dataclasses.field(compare=False)
    """Where the records are; not written to the file."""
    version: int = VERSION
    sequence_length: int
    max_predictions: int
    vocabulary_size: int | None
    """V; None for records by another tool, which do not tell it."""
    vocabulary_sha256: str | None
    config: RecordsConfig | None
    """None for records by another tool."""
    shards: tuple[Shard, ...]
    counts: dict[str, dict[str, int]]
    """For "corpus" and each split: documents, sentences, tokens, unknown tokens, records, pairs,
    truncated pairs, and so on. A count that the release that made the records did not know is
    absent."""
    format: str | None = None
    """The format of the text; None for records by another tool or an earlier release."""
    foreign_pack: int = 1
    """K of records by another tool, which have no configuration: more than 1 after `kbert pack`."""

    def files(self, split: str) -> list[str]:
        """The paths of a split's shards, in order."""
        return [str(self.directory / shard.name) for shard in self.shards if shard.split == split]

    def num_records(self, split: str) -> int:
        """The number of records in a split: rows, which may hold several pairs."""
        return sum(shard.records for shard in self.shards if shard.split == split)

    @property
    def pairs(self) -> str:
        """The kind of pairs: "nsp", "sop" or "none"; "nsp" for records by another tool."""
        return "nsp" if self.config is None else self.config.pairs

    @property
    def pack(self) -> int:
        """K, the most pairs in a row; 1 where every record is one."""
        return self.foreign_pack if self.config is None else self.config.pack

    @property
    def normalization(self) -> Normalization:
        """How text was normalized; uncased as in BERT for records by another tool, which do not
        tell."""
        return Normalization(cased=False) if self.config is None else self.config.normalization()

    @property
    def is_dynamic(self) -> bool:
        """Whether the reader draws the masks; records by another tool have theirs."""
        return self.config is not None and self.config.masking == "dynamic"

    def load_vocabulary(self) -> Vocabulary:
        """Reads the vocabulary that the records were written with, which is kept beside them.

        Raises:
            InputError: It is missing or no longer the same.
        """
        vocabulary = Vocabulary.load(self.directory / VOCABULARY)
        if vocabulary.sha256 != self.vocabulary_sha256:
            raise InputError(
                f"{self.directory / VOCABULARY}: expected the vocabulary that the records were "
                f"written with, SHA-256 {str(self.vocabulary_sha256)[:12]}. Received: another, "
                f"{vocabulary.sha256[:12]}; {MAKE_AGAIN}."
            )
        return vocabulary

    def verify(self) -> None:
        """Reads all shards and compares them with their hashes in the manifest.

        Raises:
            InputError: A shard is damaged.
        """
        for shard in self.shards:
            check_hash(self.directory / shard.name, shard.sha256)

    def save(self) -> None:
        """Writes the manifest into its directory, atomically. It is written last: where there is a
        manifest, the records are complete."""
        fields = dataclasses.asdict(self)
        del fields["directory"]
        for shard in fields["shards"] if self.pack == 1 else ():
            del shard["pairs"]  # one for each record
        write_json(self.directory / MANIFEST, fields)


def load_manifest(directory: str | os.PathLike) -> Manifest:
    """Reads the manifest in a directory of records and checks that the shards it names are there
    with the right size.

    A field that was added after the records were written takes its default.

    Raises:
        InputError: There is no manifest, it is of another version or has fields of a newer
            release, a shard is missing or cut short, or the records are another tool's, packed.
    """
    manifest = load_any_manifest(directory)
    if manifest.config is None:
        raise InputError(
            f"Expected records that name their vocabulary and configuration. Received: {directory},"
            " packed records of another tool, which do not; read them with tfrecords.read."
        )
    return manifest


def load_any_manifest(directory: str | os.PathLike) -> Manifest:
    """`load_manifest` that takes packed records of another tool too, which have neither a
    configuration nor a vocabulary."""
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise InputError(
            f"Expected a directory of records. Received: {directory}, which is no directory."
        )
    path = directory / MANIFEST
    if not path.exists():
        raise InputError(
            f"Expected {MANIFEST} in {directory}. Received: a directory without it, so no finished "
            "records; make them with 'kbert records' (run again, it continues an unfinished build)."
        )
    manifest = _parsed(read_json(path, "the manifest of records"), path)
    check_sizes(path, "*.tfrecord*", {shard.name: shard.bytes for shard in manifest.shards})
    return manifest


def _parsed(fields: dict[str, Any], path: pathlib.Path) -> Manifest:
    """The manifest that the file `path` holds as `fields`."""
    if fields.get("version") != VERSION:
        raise InputError(
            f"{path}: expected version {VERSION}. Received: {fields.get('version')!r}."
        )
    try:
        shards = tuple(_from_json(Shard, shard, path) for shard in fields["shards"])
        foreign = fields["config"] is None and fields.get("foreign_pack", 1) > 1
        config = None if foreign else _from_json(RecordsConfig, fields["config"], path)
        fields = fields | {"directory": path.parent, "shards": shards, "config": config}
        return _from_json(Manifest, fields, path)
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{path}: expected a manifest by 'kbert records'. Received: {error}."
        ) from None


def _from_json(kind: type[T], fields: Any, path: pathlib.Path) -> T:
    """The dataclass `kind` with these fields, and the defaults of those that are missing.

    Raises:
        InputError: There are fields that the dataclass does not have. They are not ignored: they
            may say that the records are to be read in another way.
        TypeError: `fields` is no dict, or lacks a field without a default.
    """
    if not isinstance(fields, dict):
        raise TypeError(f"{fields!r} in the place of a {kind.__name__}")
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(fields.keys() - known):
        raise InputError(
            f"{path}: expected a manifest that this release of kbert knows. Received: the fields "
            f"{', '.join(unknown)}, which a newer release wrote; upgrade, or make the records "
            "again with this release."
        )
    return kind(**values_before(kind) | fields)
