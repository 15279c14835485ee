"""The sizes of BERT, and everything else a pretraining run depends on."""

import dataclasses
import re

from tfrecords import InputError
from tfrecords.errors import check_choice, check_integer, check_range

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
PRECISIONS = ("float32", "bfloat16")
PAIR_TASKS = {"nsp": "next sentence", "sop": "sentence order"}
"""What is learned from sentence pairs, by their kind in RecordsConfig; single segments ("none")
teach nothing of it."""


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

    def __post_init__(self):
        for name in (
            "vocabulary_size",
            "num_layers",
            "hidden_size",
            "num_heads",
            "intermediate_size",
            "max_positions",
        ):
            check_integer(self, name, 1)
        check_integer(self, "num_segments", 1)
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
    def of_size(cls, size, *, vocabulary_size, **changes):
        """The configuration of a released size.

        Args:
            size: "tiny", "mini", "small", "medium", "base" or "large", or one of the 24 miniatures
                of Turc et al. 2019 as "L-4_H-256" (4 layers, hidden size 256).
            vocabulary_size: The number of WordPiece ids.
            **changes: Other fields that depart from the released ones, such as `dropout=0.0`.

        Raises:
            InputError: There is no such size.
        """
        if miniature := _MINIATURES.fullmatch(size):
            num_layers, hidden_size = map(int, miniature.groups())
        elif size in SIZES:
            num_layers, hidden_size = SIZES[size]
        else:
            raise InputError(
                f"Expected a size among {', '.join(SIZES)} or such as L-4_H-256. Received: "
                f"{size!r}."
            )
        shape = {
            "num_layers": num_layers,
            "hidden_size": hidden_size,
            "num_heads": hidden_size // _HEAD_SIZE,
            "intermediate_size": 4 * hidden_size,
        }
        return cls(vocabulary_size=vocabulary_size, **(shape | changes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """How a model is pretrained.

    Raises:
        InputError: A value is out of its range.
    """

    steps: int = 100_000
    """Updates of the weights."""
    batch_size: int = 256
    """Sequences in an update."""
    learning_rate: float = 1e-4
    """The peak, at the end of the warmup."""
    warmup_steps: int | None = None
    """Updates over which the learning rate rises from 0; None is 10,000 as in the paper, but at
    most a tenth of the steps."""
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
    """"float32", or "bfloat16" for computations with float32 weights."""
    seed: int = 0
    """Initial weights, dropout and the order of the records follow from it."""
    evaluate_every: int | None = None
    """Updates between held-out evaluations; None makes twenty of them."""
    evaluate_steps: int | None = None
    """Batches of a held-out evaluation during training; None takes the whole split."""
    patience: int | None = None
    """Held-out evaluations in a row without a better loss, after which training stops; None trains
    for all steps."""
    checkpoint_every: int = 1000
    """Updates between checkpoints; there is one at every held-out evaluation too."""
    keep_checkpoints: int = 3
    """The newest checkpoints that are kept."""

    def __post_init__(self):
        for name in ("steps", "batch_size", "checkpoint_every", "keep_checkpoints"):
            check_range(self, name, 1, None)
        check_range(self, "learning_rate", 0.0, None)
        check_choice(self, "optimizer", ("adamw", "lamb"))
        check_choice(self, "precision", PRECISIONS)
        check_range(self, "weight_decay", 0.0, 1.0)
        check_range(self, "decay_power", 0.0, None)
        check_range(self, "mlm_weight", 0.0, None)
        check_range(self, "nsp_weight", 0.0, None)
        check_range(self, "seed", 0, (1 << 31) - 1)
        for name, default in {
            "warmup_steps": min(10_000, self.steps // 10),
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
    def dtype_policy(self):
        """The name of the Keras dtype policy of the layers."""
        return {"float32": "float32", "bfloat16": "mixed_bfloat16"}[self.precision]
