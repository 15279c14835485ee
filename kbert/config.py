"""The sizes of BERT, and everything else a pretraining run depends on.

Needs the standard library alone, so that the command line can take its choices and defaults from
here without loading anything large."""

from __future__ import annotations

import dataclasses
import numbers
import operator
import re
from collections.abc import Mapping
from typing import Any

from tfrecords.errors import InputError, check_choice, check_range

SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}
"""Layers and hidden size of the named sizes (Turc et al. 2019, table 1; Devlin et al. 2019, section
3)."""

_MINIATURES = re.compile(r"L-(2|4|6|8|10|12)_H-(128|256|512|768)")
_HEAD_SIZE = 64
DEFAULT_SIZE = "base"
"""The size of a model for which nothing else is asked."""
DTYPE_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
"""The Keras dtype policy of each precision."""
PRECISIONS = tuple(DTYPE_POLICIES)
OPTIMIZERS = ("adamw", "lamb")
"""The names of the optimizers; their classes are in `kbert.step.optimizers`."""
STRATEGIES = ("auto", "one", "mirrored", "multi-worker", "tpu")
"""How training is distributed over devices. auto: what the machine and TF_CONFIG offer. one: a
single device. mirrored: all GPUs of this machine, or the logical devices of its CPU. multi-worker:
the processes that TF_CONFIG names; a single one is this machine, as for auto. tpu: all cores of a
TPU."""
RELEASED_VOCABULARY_SIZE = 30522
"""The number of WordPiece tokens of the released uncased models."""
POOLINGS = ("mean", "cls", "pooler")
"""How the vectors of a text's tokens become one: their mean, the vector of [CLS], or the pooler's
output."""
TOP_K = 5
"""The number of words that a model proposes for each [MASK], where nothing else is asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The shape of a BERT model.

    >>> BertConfig.of_size("mini", vocabulary_size=30522).num_heads
    4

    Raises:
        InputError: A value is out of its range.
    """

    vocabulary_size: int
    """V, the number of WordPiece ids."""
    num_layers: int
    """Encoder blocks."""
    hidden_size: int
    """H, the width of the sequence output."""
    num_heads: int
    """Attention heads; they share the hidden size evenly."""
    intermediate_size: int
    """F, the width inside the feed-forward network."""
    max_positions: int = 512
    """The longest sequence that has position embeddings."""
    num_segments: int = 2
    """Segment ids: sentence A and sentence B."""
    dropout: float = 0.1
    """On the embeddings, the attention probabilities, and the outputs of attention and feed-forward
    network."""
    attention_dropout: float | None = None
    """The same on the attention probabilities alone; None takes `dropout`. 0 lets JAX use its fused
    attention, but in the last block of pretraining, which has few queries."""
    exact_gelu: bool = False
    """Gaussian error function instead of the tanh form that BERT was released with; for weights
    from `transformers`."""
    layer_norm_epsilon: float = 1e-12
    """Added to the variance."""
    initializer_range: float = 0.02
    """Standard deviation of the truncated normal that kernels and embeddings start from."""

    def __post_init__(self) -> None:
        _normalise(self)
        # The shape.
        for name in (
            "vocabulary_size",
            "num_layers",
            "hidden_size",
            "num_heads",
            "intermediate_size",
            "max_positions",
            "num_segments",
        ):
            check_range(self, name, 1, None)
        # A default is resolved here, so that config.json says what was trained. The rate 1 would
        # drop everything and divide by zero.
        if self.attention_dropout is None:
            object.__setattr__(self, "attention_dropout", self.dropout)
        check_range(self, "dropout", 0.0, 0.999)
        check_range(self, "attention_dropout", 0.0, 0.999)
        check_range(self, "layer_norm_epsilon", 0.0, None)
        check_range(self, "initializer_range", 0.0, None)
        if self.hidden_size % self.num_heads:
            raise InputError(
                f"Expected a hidden size that {self.num_heads} heads share evenly. Received: "
                f"hidden_size={self.hidden_size}."
            )

    @classmethod
    def of_size(cls, size: str, *, vocabulary_size: int, **changes: Any) -> BertConfig:
        """The configuration of a released size.

        Args:
            size: "tiny", "mini", "small", "medium", "base" or "large", or one of the 24 miniatures
                of Turc et al. 2019 as "L-4_H-256" (4 layers, hidden size 256).
            vocabulary_size: The number of WordPiece ids.
            **changes: Other fields that depart from the released ones, such as `dropout=0.0`.

        Raises:
            InputError: There is no such size.
        """
        return cls(vocabulary_size=vocabulary_size, **(_shape_of(size) | changes))


def _shape_of(size: str) -> dict[str, Any]:
    """The fields of BertConfig that a size stands for; it says nothing of the others."""
    if miniature := _MINIATURES.fullmatch(size):
        num_layers, hidden_size = map(int, miniature.groups())
    elif size in SIZES:
        num_layers, hidden_size = SIZES[size]
    else:
        raise InputError(
            f"Expected a size among {', '.join(SIZES)}, or a miniature such as L-4_H-256. "
            f"Received: {size!r}."
        )
    return {
        "num_layers": num_layers,
        "hidden_size": hidden_size,
        "num_heads": hidden_size // _HEAD_SIZE,
        "intermediate_size": 4 * hidden_size,
    }


def resolve_bert(
    bert: BertConfig | str | None,
    changes: Mapping[str, Any] | None = None,
    *,
    vocabulary_size: int,
    initial: BertConfig | None = None,
) -> BertConfig:
    """The configuration of a model to pretrain, from what was asked for and what it starts from.

    A size stands for the shape, None for that of the initial model; both take the size of the
    vocabulary from the records. All other fields are those of the initial model, if there is one,
    or else the released ones. A change of `dropout` is one of `attention_dropout` too, unless that
    is given.

    >>> tiny = BertConfig.of_size("tiny", vocabulary_size=53, exact_gelu=True)
    >>> mini = resolve_bert("mini", {"dropout": 0.2}, vocabulary_size=53, initial=tiny)
    >>> mini.num_layers, mini.exact_gelu, mini.attention_dropout
    (4, True, 0.2)

    Args:
        bert: A BertConfig, to be taken as it is but for the changes; the name of a size; or None
            for the shape of the initial model.
        changes: Fields of BertConfig with values that take precedence.
        vocabulary_size: Of the records.
        initial: The configuration of the model whose weights this one starts from.

    Raises:
        InputError: There is no such size, a value is out of its range, or neither `bert` nor
            `initial` is given.
    """
    changes = dict(changes or {})
    if "dropout" in changes:
        changes.setdefault("attention_dropout", changes["dropout"])
    if isinstance(bert, str):
        shape: dict[str, Any] = _shape_of(bert) | {"vocabulary_size": vocabulary_size}
        base, changes = initial or BertConfig(**shape), shape | changes
    elif bert is None:
        base, changes = initial, {"vocabulary_size": vocabulary_size} | changes
    else:
        base = bert
    if base is None:
        raise InputError(
            "Expected a size or a BertConfig, or init_from to take it from. Received: neither."
        )
    if unknown := sorted(set(changes) - {field.name for field in dataclasses.fields(base)}):
        raise InputError(f"Expected fields of BertConfig. Received: {', '.join(unknown)}.")
    return dataclasses.replace(base, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """How a model is pretrained.

    Raises:
        InputError: A value is out of its range.
    """

    steps: int = 100_000
    """Updates of the weights."""
    batch_size: int = 256
    """Rows in an update: sequences, or where records are packed, rows of them."""
    learning_rate: float = 1e-4
    """The peak, at the end of the warmup."""
    warmup_steps: int | None = None
    """Updates over which the learning rate rises from 0; None takes `default_warmup_steps`."""
    optimizer: str = "adamw"
    """"adamw" as in the paper, or "lamb" for batches of thousands (You et al. 2020)."""
    weight_decay: float = 0.01
    """The share of a weight, times the learning rate, that an update takes away; not of biases and
    normalisation."""
    decay_power: float = 1.0
    """The power of the curve on which the learning rate falls to 0: 1 is a line."""
    mlm_weight: float = 1.0
    """The weight of the masked language modelling loss in the total."""
    nsp_weight: float = 1.0
    """The weight of the loss of next sentence or sentence order prediction in the total; there is
    none for single segments."""
    precision: str = "float32"
    """"float32", or "bfloat16" or "float16" for computations with float32 weights; float16 with
    dynamic loss scaling."""
    seed: int = 0
    """Initial weights, dropout and the order of the records follow from it."""
    evaluate_every: int | None = None
    """Updates between evaluations on the validation split; None makes twenty of them."""
    evaluate_steps: int | None = None
    """Batches of an evaluation during training; None takes `validation_steps`."""
    patience: int | None = None
    """Evaluations in a row without a better loss, after which training stops; None trains for all
    steps."""
    checkpoint_every: int = 1000
    """Updates between checkpoints; there is one at every evaluation too."""
    keep_checkpoints: int = 3
    """How many checkpoints are kept: the newest ones; with `patience` the best stays too."""

    def __post_init__(self) -> None:
        _normalise(self)
        # What does not depend on another field.
        for name in ("steps", "batch_size", "checkpoint_every", "keep_checkpoints"):
            check_range(self, name, 1, None)
        check_range(self, "learning_rate", 0.0, None)
        check_choice(self, "optimizer", OPTIMIZERS)
        check_choice(self, "precision", PRECISIONS)
        check_range(self, "weight_decay", 0.0, 1.0)
        check_range(self, "decay_power", 0.0, None)
        check_range(self, "mlm_weight", 0.0, None)
        check_range(self, "nsp_weight", 0.0, None)
        check_range(self, "seed", 0, (1 << 31) - 1)
        # Defaults that follow from the number of steps, resolved so that config.json has the values
        # that were used; `steps` is checked by now.
        for name, default in {
            "warmup_steps": default_warmup_steps(self.steps),
            "evaluate_every": max(1, self.steps // 20),
        }.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        check_range(self, "warmup_steps", 0, self.steps)
        check_range(self, "evaluate_every", 1, None)
        for name in ("evaluate_steps", "patience"):
            if getattr(self, name) is not None:
                check_range(self, name, 1, None)

    @property
    def dtype_policy(self) -> str:
        """The name of the Keras dtype policy of the layers."""
        return DTYPE_POLICIES[self.precision]

    @property
    def validation_steps(self) -> int:
        """The most batches of an evaluation during training; the whole split where it has fewer.

        A batch takes about a third as long to evaluate as to train on, forward without backward. So
        with 3 batches for every 10 updates evaluation takes at most a tenth of the time of
        training, however large the split is."""
        if self.evaluate_steps is not None:
            return self.evaluate_steps
        assert self.evaluate_every is not None  # resolved above
        return max(1, 3 * self.evaluate_every // 10)


def default_warmup_steps(steps: int) -> int:
    """The updates over which the learning rate rises, where nothing else is asked for: 10,000 as in
    the paper (Devlin et al. 2019, appendix A.2), but at most a tenth of all."""
    return min(10_000, steps // 10)


def _normalise(config: BertConfig | PretrainingConfig) -> None:
    """Gives every field of a configuration its plain Python type, so that it can be written as JSON
    and compared: np.int64(8) and 8.0 become 8 where an integer is expected.

    Raises:
        InputError: A value is not of the field's type.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        kind, _, optional = str(field.type).partition(" | ")
        if not (value is None and optional):
            object.__setattr__(config, field.name, _CONVERSIONS[kind](field.name, value))


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"Expected {name} to be a number. Received: {value!r}.")
    if isinstance(value, numbers.Integral):
        return operator.index(value)
    if not float(value).is_integer():
        raise InputError(f"Expected {name} to be an integer. Received: {value!r}.")
    return int(float(value))


def _float(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"Expected {name} to be a number. Received: {value!r}.")
    return float(value)


def _bool(name: str, value: Any) -> bool:
    # NumPy's bool is no bool, and prints as it does.
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return bool(value)
    raise InputError(f"Expected {name} to be True or False. Received: {value!r}.")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"Expected {name} to be a string. Received: {value!r}.")
    return str(value)


_CONVERSIONS = {"int": _integer, "float": _float, "bool": _bool, "str": _text}
"""By the annotation of a field."""
