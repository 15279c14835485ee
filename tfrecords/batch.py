"""What a batch is: the names, shapes and dtypes of x, y and sample_weight, said once.

`tfrecords.read` gives batches of this form and checks that it does; the model's inputs, the shapes
that compilers get, random batches and the tests' batches are made from it. A new feature is a new
line in FEATURES. Importing this file loads neither NumPy nor TensorFlow.

Shapes are written with letters: B rows in a batch, S tokens in a row, P slots for masked tokens in
a row, K pairs in a row of packed records. A row is one sequence, or with packing up to K of them,
one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tfrecords import schema
from tfrecords.errors import check_choice, check_range

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

T = TypeVar("T")
Batch = tuple[dict[str, T], dict[str, T], dict[str, T]]
"""(x, y, sample_weight), each by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feature:
    """One tensor of a batch."""

    part: Literal["x", "y", "sample_weight"]
    """Which of the three dicts of a batch it is in."""
    name: str
    """Its key in that dict; in y and sample_weight, the model output it belongs to."""
    axes: tuple[str, ...]
    """Its shape in letters, such as ("B", "S")."""
    dtype: str
    google_name: str | None
    """The feature of a record it is read from, by the name that google-research/bert gives it;
    None if no record has it."""
    meaning: str
    """What it holds, in a few words for documentation."""
    needs_pairs: bool = False
    """Whether it is only there if the records hold pairs of segments ("nsp" or "sop")."""
    packed: bool | None = None
    """Whether it is only there if the rows are packed, or only if they are not; None: in both."""


FEATURES = (
    Feature(
        part="x",
        name="token_ids",
        axes=("B", "S"),
        dtype="int32",
        google_name=schema.INPUT_IDS,
        meaning="[CLS] A [SEP] B [SEP], some tokens masked, then padding",
    ),
    Feature(
        part="x",
        name="segment_ids",
        axes=("B", "S"),
        dtype="int32",
        google_name=schema.SEGMENT_IDS,
        meaning="1 on B and its [SEP], 0 elsewhere",
    ),
    Feature(
        part="x",
        name="padding_mask",
        axes=("B", "S"),
        dtype="int32",
        google_name=schema.INPUT_MASK,
        meaning="1 on tokens, 0 on padding",
        packed=False,
    ),
    Feature(
        part="x",
        name="pair_numbers",
        axes=("B", "S"),
        dtype="int32",
        google_name=schema.INPUT_MASK,
        meaning="1 on the tokens of a row's first pair, 2 on those of its second; 0 on padding",
        packed=True,
    ),
    Feature(
        part="x",
        name="positions",
        axes=("B", "S"),
        dtype="int32",
        google_name=schema.POSITIONS,
        meaning="the place of each token in its pair, from 0; 0 on padding",
        packed=True,
    ),
    Feature(
        part="x",
        name="mask_positions",
        axes=("B", "P"),
        dtype="int32",
        google_name=schema.MASKED_LM_POSITIONS,
        meaning="where tokens are to be predicted, 0 in unused slots",
    ),
    Feature(
        part="x",
        name="cls_positions",
        axes=("B", "K"),
        dtype="int32",
        google_name=schema.NEXT_SENTENCE_POSITIONS,
        meaning="where the [CLS] of each pair stands, 0 for pairs that a row does not have",
        needs_pairs=True,
        packed=True,
    ),
    Feature(
        part="y",
        name="mlm",
        axes=("B", "P"),
        dtype="int32",
        google_name=schema.MASKED_LM_IDS,
        meaning="the original tokens at mask_positions",
    ),
    Feature(
        part="y",
        name="nsp",
        axes=("B",),
        dtype="int32",
        google_name=schema.NEXT_SENTENCE_LABELS,
        meaning="0 = B follows A, 1 = B is random, or with sop both are swapped",
        needs_pairs=True,
        packed=False,
    ),
    Feature(
        part="y",
        name="nsp",
        axes=("B", "K"),
        dtype="int32",
        google_name=schema.NEXT_SENTENCE_LABELS,
        meaning="the same for each pair of a row",
        needs_pairs=True,
        packed=True,
    ),
    Feature(
        part="sample_weight",
        name="mlm",
        axes=("B", "P"),
        dtype="float32",
        google_name=schema.MASKED_LM_WEIGHTS,
        meaning="1 in slots in use, 0 in unused ones",
    ),
    Feature(
        part="sample_weight",
        name="nsp",
        axes=("B",),
        dtype="float32",
        google_name=None,
        meaning="1; 0 in rows that only fill up the last batch",
        needs_pairs=True,
        packed=False,
    ),
    Feature(
        part="sample_weight",
        name="nsp",
        axes=("B", "K"),
        dtype="float32",
        google_name=schema.NEXT_SENTENCE_WEIGHTS,
        meaning="1 for the pairs that a row has, else 0",
        needs_pairs=True,
        packed=True,
    ),
)
"""All tensors of a batch. Records with static and with dynamic masks give the same ones."""

ENCODER_INPUTS = tuple(
    feature.name
    for feature in FEATURES
    if feature.part == "x" and feature.axes == ("B", "S") and not feature.packed
)
"""The names in x that an encoder without pretraining heads takes: those with a value per token."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """The form of the batches of some records.

    >>> spec = BatchSpec(sequence_length=128, max_predictions=20, pairs="none")
    >>> list(spec.x), list(spec.y)
    (['token_ids', 'segment_ids', 'padding_mask', 'mask_positions'], ['mlm'])
    >>> spec.shape(spec.y["mlm"], batch_size=32)
    (32, 20)

    Raises:
        InputError: `pairs` is none of schema.PAIRS.
    """

    sequence_length: int | None = None
    """S; None leaves it open."""
    max_predictions: int | None = None
    """P; None leaves it open."""
    pairs: str = "nsp"
    """"nsp", "sop" or "none", as in RecordsConfig."""
    pack: int = 1
    """K, the most pairs that a row holds; 1: rows are not packed."""

    def __post_init__(self) -> None:
        check_choice(self, "pairs", schema.PAIRS)
        check_range(self, "pack", 1, schema.MOST_PAIRS)

    @classmethod
    def of(cls, manifest: schema.Manifest) -> BatchSpec:
        """The form of the batches of the records with this manifest."""
        return cls(
            sequence_length=manifest.sequence_length,
            max_predictions=manifest.max_predictions,
            pairs=manifest.pairs,
            pack=manifest.pack,
        )

    @property
    def features(self) -> tuple[Feature, ...]:
        """All features, in the order of FEATURES."""
        return tuple(
            feature
            for feature in FEATURES
            if (self.pairs != "none" or not feature.needs_pairs)
            and feature.packed in (None, self.pack > 1)
        )

    @property
    def x(self) -> dict[str, Feature]:
        """The model's inputs, by name."""
        return self._part("x")

    @property
    def y(self) -> dict[str, Feature]:
        """The labels, by the output of the model that they belong to."""
        return self._part("y")

    @property
    def sample_weight(self) -> dict[str, Feature]:
        """The weights of the labels; the same names as in `y`."""
        return self._part("sample_weight")

    def _part(self, part: str) -> dict[str, Feature]:
        return {feature.name: feature for feature in self.features if feature.part == part}

    def shape(self, feature: Feature, batch_size: int | None = None) -> tuple[int | None, ...]:
        """The shape of a feature in a batch of B = `batch_size` rows; open axes are None."""
        sizes = {
            "B": batch_size,
            "S": self.sequence_length,
            "P": self.max_predictions,
            "K": self.pack,
        }
        return tuple(sizes[axis] for axis in feature.axes)

    def build(
        self,
        make: Callable[[Feature, tuple[int | None, ...]], T],
        batch_size: int | None = None,
    ) -> Batch[T]:
        """Makes (x, y, sample_weight) of whatever `make` returns for each feature and its shape.

        >>> spec = BatchSpec(sequence_length=128, max_predictions=20)
        >>> x, y, sample_weight = spec.build(lambda feature, shape: (feature.dtype, shape), 32)
        >>> y
        {'mlm': ('int32', (32, 20)), 'nsp': ('int32', (32,))}
        """
        x, y, sample_weight = (
            {
                name: make(feature, self.shape(feature, batch_size))
                for name, feature in features.items()
            }
            for features in (self.x, self.y, self.sample_weight)
        )
        return x, y, sample_weight

    def element_spec(self, batch_size: int | None = None) -> Batch[tf.TensorSpec]:
        """The same as the element_spec of a tf.data.Dataset of batches."""
        import tensorflow as tf

        return self.build(lambda feature, shape: tf.TensorSpec(shape, feature.dtype), batch_size)

    def arrays(self, values: Mapping[tuple[str, str], Any], batch_size: int) -> Batch[np.ndarray]:
        """Makes a batch of NumPy arrays with the dtypes of this form.

        Args:
            values: Arrays by (part, name), of any dtype. Those that this form does not have are
                left out.
            batch_size: B.

        Raises:
            ValueError: An array has another shape.
        """
        import numpy as np

        def array(feature: Feature, shape: tuple[int | None, ...]) -> np.ndarray:
            value = np.asarray(values[feature.part, feature.name], feature.dtype)
            if value.shape != shape:
                raise ValueError(
                    f"Expected {feature.part}[{feature.name!r}] of shape {shape}. "
                    f"Received: {value.shape}."
                )
            return value

        return self.build(array, batch_size)


def random_batch(
    spec: BatchSpec, batch_size: int, vocabulary_size: int, seed: int = 0
) -> Batch[np.ndarray]:
    """A batch of random tokens in the form that `tfrecords.read` gives.

    As in records, one row in ten is shorter, and about 15 % of the tokens of each are to be
    predicted. A packed row holds from one to K pairs, as many as there is room for.

    Args:
        spec: Its form, with S and P.
        batch_size: B.
        vocabulary_size: Ids are drawn below it.
        seed: The same seed gives the same batch.

    Returns:
        (x, y, sample_weight), dicts of NumPy arrays.
    """
    import numpy as np

    length, slots = spec.sequence_length, spec.max_predictions
    if length is None or slots is None:
        raise ValueError(f"Expected a sequence length and a number of slots. Received: {spec}.")
    draw = np.random.default_rng(seed)
    lengths = np.full(batch_size, length)
    lengths[::10] = max(1, length // 2)
    index = np.arange(length)
    padding_mask = (index < lengths[:, None]).astype("int32")
    used = np.minimum(slots, np.maximum(1, np.round(0.15 * lengths)))
    weights = (np.arange(slots) < used[:, None]).astype("int32")
    # Random ranks choose the positions; padding ranks behind all tokens, so it is never chosen
    # into a slot in use.
    ranks = draw.random((batch_size, length)) + 2 * (1 - padding_mask)
    mask_positions = np.sort(np.argsort(ranks)[:, :slots])
    ids = draw.integers(0, vocabulary_size, (2, batch_size, length), dtype="int32")
    second = (index >= lengths[:, None] // 2) & (spec.pairs != "none")
    values = {
        ("x", "token_ids"): ids[0] * padding_mask,
        ("x", "segment_ids"): second * padding_mask,
        ("x", "padding_mask"): padding_mask,
        ("x", "mask_positions"): mask_positions * weights,
        ("y", "mlm"): ids[1, :, :slots] * weights,
        ("y", "nsp"): draw.integers(0, 2, batch_size, dtype="int32"),
        ("sample_weight", "mlm"): weights,
        ("sample_weight", "nsp"): np.ones(batch_size),
    }
    if spec.pack > 1:
        values |= _packed_values(spec, lengths, padding_mask, draw)
    return spec.arrays(values, batch_size)


def _packed_values(
    spec: BatchSpec, lengths: np.ndarray, padding_mask: np.ndarray, draw: np.random.Generator
) -> dict[tuple[str, str], np.ndarray]:
    """What tells the pairs of packed rows apart: each row of so many tokens is cut at random into
    pairs that are long enough for [CLS] a [SEP] b [SEP], or [CLS] a [SEP]."""
    import numpy as np

    least = 3 if spec.pairs == "none" else 5
    pairs = np.zeros((len(lengths), spec.pack), "int32")  # the length of each pair, 0 for none
    for row, length in enumerate(lengths):
        count = draw.integers(1, max(1, min(spec.pack, length // least)) + 1)
        shortest = least if count > 1 else 0
        rest = draw.multinomial(length - count * shortest, np.full(count, 1 / count))
        pairs[row, :count] = shortest + rest
    ends, used = pairs.cumsum(axis=1), pairs > 0
    starts = ends - pairs
    index = np.arange(padding_mask.shape[1])
    numbers = (1 + (index[:, None] >= ends[:, None, :]).sum(axis=2)) * padding_mask
    own = np.maximum(numbers - 1, 0)  # on padding any, for what becomes 0 there
    positions = (index - np.take_along_axis(starts, own, axis=1)) * padding_mask
    second = (positions >= np.take_along_axis(pairs, own, axis=1) // 2) & (spec.pairs != "none")
    return {
        ("x", "segment_ids"): second * padding_mask,
        ("x", "pair_numbers"): numbers,
        ("x", "positions"): positions,
        ("x", "cls_positions"): starts * used,
        ("y", "nsp"): draw.integers(0, 2, pairs.shape, dtype="int32") * used,
        ("sample_weight", "nsp"): used,
    }
