"""Answers from a pretrained model: words for [MASK], whether one text follows another, and
embeddings."""

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from kbert.formats.load_and_save import format_of, load
from kbert.model.text_model import TextModel
from tfrecords import InputError
from tfrecords.vocabulary import MASK

POOLINGS = ("mean", "cls", "pooler")
"""How the vectors of a text's tokens become one: their mean, the first, or the first through the
pooler."""
_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Word:
    """A word piece proposed for a [MASK], with its probability."""

    token: str
    probability: float


class Predictor:
    """Answers for texts.

    Args:
        signatures: The functions of a TextModel or of a SavedModel of one, by name.
        source: What they were loaded from; kept alive with them.
        missing: The names of heads that were never trained, and "pooler" for the pooler; what they
            would answer is refused.
    """

    def __init__(self, signatures, source, missing=()):
        self._signatures = signatures
        self._source = source
        self._missing = missing

    def fill_mask(self, text):
        """The likeliest words for every "[MASK]" in `text`: a list per mask of Words, the likeliest
        first.

        Raises:
            InputError: The text has no [MASK], or none within the length that the model takes; or
                the model came without this head.
        """
        self._check_head("masked language modelling")
        if MASK not in text:
            raise InputError(f"Expected a text with {MASK} in it. Received: {text!r}.")
        answer = self._signatures["fill_mask"](texts=_strings([text]))
        words = [
            [
                Word(token.decode(), float(probability))
                for token, probability in zip(tokens, probabilities, strict=True)
            ]
            for tokens, probabilities in zip(
                answer["tokens"][0].numpy(), answer["probabilities"][0].numpy(), strict=True
            )
        ]
        words = words[: int(answer["num_masks"][0])]
        if not words:
            raise InputError(
                f"Expected {MASK} within the length that the model takes. Received: it only in the "
                "part cut off."
            )
        return words

    def next_sentence(self, first, second):
        """The probability that the text `second` follows the text `first`.

        The alternative is what the model was trained to tell it from: a random text, or, for a
        model of sentence order, the two of them swapped.

        Raises:
            InputError: The model was trained on single segments and knows nothing of pairs.
        """
        self._check_head("next sentence prediction")
        if "next_sentence" not in self._signatures:
            raise InputError(
                "Expected a model that was trained on sentence pairs. Received: one trained on "
                "single segments."
            )
        return float(
            self._signatures["next_sentence"](first=_strings([first]), second=_strings([second]))[
                "probability"
            ][0]
        )

    def embed(self, texts, pooling="mean"):
        """One vector for each of the texts: float32 [number of texts, H].

        Args:
            texts: A list of strings; longer ones are cut to the length that the model was trained
                with.
            pooling: "mean" over the text's tokens, [CLS] and [SEP] included; "cls", the vector of
                [CLS]; or "pooler", that through the dense layer of next sentence prediction, where
                the model has it.

        Raises:
            InputError: There is no such pooling, or the model came without a pooler.
        """
        if pooling not in POOLINGS:
            raise InputError(
                f"Expected a pooling among {', '.join(POOLINGS)}. Received: {pooling!r}."
            )
        if pooling == "pooler":
            self._check_head("pooler")
        vectors = []
        for start in range(0, max(1, len(texts)), _BATCH_SIZE):
            answer = self._signatures["serving_default"](
                texts=_strings(texts[start : start + _BATCH_SIZE])
            )
            hidden, mask = (
                answer["sequence_output"].numpy(),
                answer["padding_mask"].numpy()[:, :, None],
            )
            vectors.append(
                {
                    "mean": (hidden * mask).sum(1) / mask.sum(1),
                    "cls": hidden[:, 0],
                    "pooler": answer["pooled_output"].numpy(),
                }[pooling]
            )
        return np.concatenate(vectors).astype(np.float32)

    def _check_head(self, head):
        if head in self._missing:
            what = "pooler" if head == "pooler" else f"head of {head}"
            raise InputError(
                f"Expected a model with a trained {what}. Received: one that came without it."
            )


def _strings(texts):
    """Texts as a tensor; what is no Unicode, as in arguments that were not UTF-8, becomes bytes
    that the model passes over."""
    return tf.constant([text.encode("utf-8", "surrogatepass") for text in texts], tf.string)


def load_predictor(path, top_k=None):
    """Loads what answers for texts: a SavedModel by `kbert export` as it is, or else whatever
    `load` reads.

    Args:
        path: Its directory.
        top_k: How many words to propose for each [MASK]; None takes 5, or what the SavedModel was
            exported with.

    Raises:
        InputError: `path` is no pretrained model, or a SavedModel of something else.
    """
    path = pathlib.Path(path)
    if format_of(path) == "saved-model" and top_k is None:
        return _load_signatures(path)
    return predictor_of(load(path), 5 if top_k is None else top_k)


def predictor_of(pretrained, top_k=5):
    """The Predictor of a Pretrained; `top_k` as for `load_predictor`."""
    text_model = TextModel(pretrained, top_k=top_k)
    missing = list(pretrained.missing)
    if pretrained.pairs != "none" and "pooler/dense/kernel" not in pretrained.weights:
        missing.append("pooler")
    return Predictor(text_model.signatures, text_model, missing)


def _load_signatures(path):
    import tensorflow_text  # noqa: F401  (registers the operations of the tokenizer)

    try:
        saved = tf.saved_model.load(str(path))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise InputError(
            f"Expected a SavedModel at {path}. Received: one that cannot be loaded ({error})."
        ) from None
    if "fill_mask" not in saved.signatures:
        raise InputError(
            f"Expected a SavedModel by 'kbert export' at {path}. Received: one without fill_mask."
        )
    return Predictor(saved.signatures, saved)
