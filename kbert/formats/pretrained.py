"""A pretrained model with all that its answers depend on, whatever file format it came from or goes
to."""

import dataclasses
import functools
import hashlib
import warnings

import numpy as np

from kbert.config import BertConfig
from kbert.model.bert import pretraining_model
from kbert.objectives import pairs_of_outputs
from tfrecords import InputError, Vocabulary
from tfrecords.errors import check_integer
from tfrecords.files import read_json, write_json
from tfrecords.schema import PAIRS

NOTES = "kbert.json"
"""The file beside exported weights that holds what their own format has no place for."""

RELEASED_EPSILON = 1e-12
"""Added to the variance in BERT's normalisations."""

HEADS = {
    "mlm_transform": "masked language modelling",
    "mlm": "masked language modelling",
    "pooler": "next sentence prediction",
    "nsp": "next sentence prediction",
}
"""What can be missing in weights that are loaded, by the layer's name: all but the encoder."""

_CHOSEN_ANEW = ("dropout", "attention_dropout", "initializer_range")
"""Fields of BertConfig that may differ between a model and the weights that it starts from."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pretrained:
    """A pretrained model: its shape, weights, vocabulary, and how texts become its inputs.

    Raises:
        InputError: The parts do not fit each other.
    """

    bert: BertConfig
    weights: dict[str, np.ndarray]
    """float32 arrays by the paths of the trainable variables of a `pretraining_model`; heads may be
    missing."""
    vocabulary: Vocabulary
    cased: bool
    """Whether case and accents are kept."""
    sequence_length: int
    """S, the longest input in tokens that it was trained with."""
    pairs: str = "nsp"
    """What it learned from pairs: "nsp", "sop", or "none" for single segments; as in
    RecordsConfig."""
    training: str = ""
    """What is known of how it was trained, in Markdown; for model cards."""
    source: str = dataclasses.field(default="the model", compare=False)
    """Where it came from, for messages."""

    def __post_init__(self):
        if (
            not isinstance(self.cased, bool)
            or not isinstance(self.training, str)
            or self.pairs not in PAIRS
        ):
            raise InputError(
                f"Expected for {self.source} cased as a bool, training as text, and pairs among "
                f"{', '.join(PAIRS)}. "
                f"Received: {self.cased!r}, {self.training!r} and {self.pairs!r}."
            )
        check_integer(self, "sequence_length", 1)
        # Contiguous, as safetensors writes them without asking.
        weights = {
            path: np.ascontiguousarray(value, np.float32) for path, value in self.weights.items()
        }
        object.__setattr__(self, "weights", weights)
        if len(self.vocabulary) != self.bert.vocabulary_size:
            raise InputError(
                f"Expected in {self.source} a vocabulary of {self.bert.vocabulary_size} pieces, as "
                "its embeddings have. "
                f"Received: {len(self.vocabulary)}; where embeddings were padded, add as many "
                "pieces, such as [unused0], to it."
            )
        if not 3 < self.sequence_length <= self.bert.max_positions:
            raise InputError(
                f"Expected a sequence length from 4 to {self.bert.max_positions}, the positions of "
                f"{self.source}. "
                f"Received: {self.sequence_length}."
            )
        wanted = weight_shapes(self.bert)
        for path, value in self.weights.items():
            if value.shape != wanted.get(path):
                raise InputError(
                    f"Expected in {self.source} {path} of shape {wanted.get(path)}, as its "
                    "configuration says. "
                    f"Received: {value.shape}."
                )
        absent = [
            path
            for path in wanted
            if path not in self.weights and path.partition("/")[0] not in HEADS
        ]
        if absent:
            raise InputError(
                f"Expected in {self.source} all weights of the encoder. Received: none for "
                f"{absent[0]}."
            )

    @classmethod
    def of_model(cls, model, vocabulary, *, sequence_length=None, cased=None, **more):
        """Describes a model that is there.

        Args:
            model: A pretraining model.
            vocabulary: Its Vocabulary.
            sequence_length: The longest input in tokens; None takes as many as the model has
                positions.
            cased: Whether to keep case and accents; None takes what the vocabulary shows.
            **more: Other fields.

        Raises:
            InputError: The vocabulary is another model's, or the length beyond its positions.
        """
        bert = _config_of(model)
        return cls(
            bert=bert,
            weights={variable.path: variable.numpy() for variable in model.trainable_variables},
            vocabulary=vocabulary,
            cased=vocabulary.cased if cased is None else cased,
            sequence_length=bert.max_positions if sequence_length is None else sequence_length,
            **({"pairs": pairs_of_outputs(model.output)} | more),
        )

    @property
    def missing(self):
        """The names of the heads that the weights lack, whole or in part."""
        wanted = weight_shapes(self.bert, self.pairs)
        return tuple(
            dict.fromkeys(
                HEADS[path.partition("/")[0]] for path in wanted if path not in self.weights
            )
        )

    @functools.cached_property
    def model(self):
        """The Keras model, a Pretrainer, not compiled. Heads that the weights lack are new, and a
        warning names them."""
        model = pretraining_model(self.bert, pairs=self.pairs)
        assign_weights(model, self)
        return model

    def without_pairs(self):
        """The same model without the head of next sentence prediction and its pooler."""
        weights = {
            path: value
            for path, value in self.weights.items()
            if path.partition("/")[0] not in ("pooler", "nsp")
        }
        return dataclasses.replace(self, weights=weights, pairs="none")

    @property
    def sha256(self):
        """The SHA-256 of the weights, by name, in hexadecimal."""
        digest = hashlib.sha256()
        for path in sorted(self.weights):
            digest.update(path.encode())
            digest.update(self.weights[path].data)
        return digest.hexdigest()

    def shape_differences(self, bert):
        """The fields in which another BertConfig is another shape than this one: {name: (here,
        there)}."""
        here, there = dataclasses.asdict(self.bert), dataclasses.asdict(bert)
        return {
            name: (here[name], there[name])
            for name in here
            if here[name] != there[name] and name not in _CHOSEN_ANEW
        }


def weight_shapes(bert, pairs="nsp"):
    """The shapes of the trainable variables of a `pretraining_model`, by path, in its order."""
    hidden, intermediate = bert.hidden_size, bert.intermediate_size
    shapes = {
        "token_embedding/embeddings": (bert.vocabulary_size, hidden),
        "embeddings/position_embeddings": (bert.max_positions, hidden),
        "embeddings/segment_embeddings": (bert.num_segments, hidden),
    }

    def dense(path, rows, columns):
        shapes.update({f"{path}/kernel": (rows, columns), f"{path}/bias": (columns,)})

    def norm(path):
        shapes.update({f"{path}/gamma": (hidden,), f"{path}/beta": (hidden,)})

    norm("embeddings/layer_norm")
    for index in range(bert.num_layers):
        dense(f"layer_{index}/qkv", hidden, 3 * hidden)
        dense(f"layer_{index}/attention_output", hidden, hidden)
        norm(f"layer_{index}/attention_norm")
        dense(f"layer_{index}/intermediate", hidden, intermediate)
        dense(f"layer_{index}/output", intermediate, hidden)
        norm(f"layer_{index}/output_norm")
    dense("mlm_transform/dense", hidden, hidden)
    norm("mlm_transform/layer_norm")
    shapes["mlm/bias"] = (bert.vocabulary_size,)
    if pairs != "none":
        dense("pooler/dense", hidden, hidden)
        dense("nsp", hidden, 2)
    return shapes


def assign_weights(model, pretrained):
    """Gives a pretraining model of the same shape the weights of a Pretrained; heads that these
    lack stay as they are.

    Warns of heads that stay new, and of weights that the model has no place for.
    """
    new, values = [], dict(pretrained.weights)
    for variable in model.trainable_variables:
        if variable.path in values:
            variable.assign(values.pop(variable.path))
        else:
            new.append(HEADS[variable.path.partition("/")[0]])
    for head in dict.fromkeys(new):
        warnings.warn(
            f"The head of {head} is new: {pretrained.source} has none, or a part of it.",
            stacklevel=2,
        )
    for head in dict.fromkeys(HEADS[path.partition("/")[0]] for path in values):
        warnings.warn(
            f"The head of {head} in {pretrained.source} is left out: this model has none.",
            stacklevel=2,
        )


def _config_of(model):
    """The BertConfig that a pretraining model was built of, read from its layers."""
    token_embedding, embeddings = model.get_layer("token_embedding"), model.get_layer("embeddings")
    num_layers = sum(layer.name.startswith("layer_") for layer in model.layers)
    block = model.get_layer("layer_0")
    return BertConfig(
        vocabulary_size=token_embedding.vocabulary_size,
        num_layers=num_layers,
        hidden_size=token_embedding.hidden_size,
        num_heads=block.num_heads,
        intermediate_size=block.intermediate_size,
        max_positions=embeddings.max_positions,
        num_segments=embeddings.num_segments,
        dropout=embeddings.dropout,
        attention_dropout=block.attention_dropout,
        exact_gelu=block.exact_gelu,
        layer_norm_epsilon=embeddings.layer_norm_epsilon,
        initializer_range=embeddings.initializer_range,
    )


def check_released_form(bert, format):
    """Raises InputError unless a model has the form that BERT was released in, all that the code of
    some formats knows."""
    if bert.exact_gelu or bert.layer_norm_epsilon != RELEASED_EPSILON:
        raise InputError(
            f"Expected the tanh form of gelu and a layer_norm_epsilon of {RELEASED_EPSILON}, all "
            f"that {format} has. Received: "
            f"exact_gelu={bert.exact_gelu}, layer_norm_epsilon={bert.layer_norm_epsilon}; export "
            "it to huggingface."
        )


def pairs_of(weights):
    """What a model with these weights is taken for: one of next sentences if any part of their head
    is there, a pooler alone too, which then waits for the rest of it."""
    return (
        "nsp"
        if any(HEADS.get(path.partition("/")[0]) == HEADS["nsp"] for path in weights)
        else "none"
    )


def save_notes(pretrained, directory):
    """Writes what weights in another format do not say to NOTES in the directory."""
    notes = {
        name: getattr(pretrained, name)
        for name in ("sequence_length", "cased", "pairs", "training")
    }
    write_json(directory / NOTES, {"bert": dataclasses.asdict(pretrained.bert)} | notes)


def read_notes(directory):
    """What `save_notes` wrote, with `bert` as a BertConfig; an empty dict if it is not there.

    Raises:
        InputError: The file is not one of `save_notes`.
    """
    path = directory / NOTES
    if not path.exists():
        return {}
    notes = read_json(path, "notes by 'kbert export'")
    try:
        names = ("sequence_length", "cased", "pairs", "training")
        return {"bert": BertConfig(**notes["bert"])} | {name: notes[name] for name in names}
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{path}: expected notes by 'kbert export'. Received: something else ({error})."
        ) from None


def pretrained_with_notes(directory, bert, *, cased=None, **fields):
    """A Pretrained of what a format's own files say and of the NOTES beside them, which hold what
    the format has no place for.

    Args:
        directory: Where both are.
        bert: The BertConfig that the format's own files say.
        cased: Whether the model is cased; None where the format does not say it.
        **fields: The other fields; sequence_length and pairs are for where there are no notes.

    Raises:
        InputError: The notes are of another model.
    """
    notes, source = read_notes(directory), str(directory)
    if not notes:
        cased = fields["vocabulary"].cased if cased is None else cased
        return Pretrained(bert=bert, cased=cased, source=source, **fields)
    written = notes.pop("bert")
    chosen = {name: getattr(written, name) for name in _CHOSEN_ANEW}
    here = Pretrained(bert=dataclasses.replace(bert, **chosen), source=source, **(fields | notes))
    differences = here.shape_differences(written)
    if cased not in (None, here.cased):
        differences["cased"] = (cased, here.cased)
    for name, (said, noted) in differences.items():
        raise InputError(
            f"Expected in {directory} a model as {NOTES} there says, with {name}={noted}. "
            f"Received: {name}={said}; "
            f"remove {NOTES} if the model is meant to be another."
        )
    return here
