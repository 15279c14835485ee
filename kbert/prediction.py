"""Answers from a run or from a SavedModel: words for [MASK], and whether one text follows another."""

import dataclasses
import pathlib

import tensorflow as tf

from kbert.export.saved_model import TextModel
from kbert.runs import is_run, load_run
from tfrecords import InputError
from tfrecords.vocabulary import MASK


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
    """

    def __init__(self, signatures, source):
        self._signatures = signatures
        self._source = source

    def fill_mask(self, text):
        """The likeliest words for every "[MASK]" in `text`: a list per mask of Words, the likeliest first.

        Raises:
            InputError: The text has no [MASK], or none within the length that the model takes.
        """
        if MASK not in text:
            raise InputError(f"Expected a text with {MASK} in it. Received: {text!r}.")
        answer = self._signatures["fill_mask"](texts=tf.constant([text]))
        words = [
            [Word(token.decode(), float(probability)) for token, probability in zip(tokens, probabilities, strict=True)]
            for tokens, probabilities in zip(answer["tokens"][0].numpy(), answer["probabilities"][0].numpy(), strict=True)
        ]
        words = words[: int(answer["num_masks"][0])]
        if not words:
            raise InputError(f"Expected {MASK} within the length that the model takes. Received: it only in the part cut off.")
        return words

    def next_sentence(self, first, second):
        """The probability that the text `second` follows the text `first`.

        The alternative is what the model was trained to tell it from: a random text, or, for a model of sentence order, the
        two of them swapped.

        Raises:
            InputError: The model was trained on single segments and knows nothing of pairs.
        """
        if "next_sentence" not in self._signatures:
            raise InputError("Expected a model that was trained on sentence pairs. Received: one trained on single segments.")
        return float(
            self._signatures["next_sentence"](first=tf.constant([first]), second=tf.constant([second]))["probability"][0]
        )


def load_predictor(path):
    """Loads a run (its newest checkpoint) or a SavedModel.

    Raises:
        InputError: `path` is neither.
    """
    path = pathlib.Path(path)
    if (path / "saved_model.pb").is_file():
        import tensorflow_text  # noqa: F401  (registers the operations of the tokenizer)

        try:
            saved = tf.saved_model.load(str(path))
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise InputError(f"Expected a SavedModel at {path}. Received: one that cannot be loaded ({error}).") from None
        if "fill_mask" not in saved.signatures:
            raise InputError(f"Expected a SavedModel by 'kbert export' at {path}. Received: one without fill_mask.")
        return Predictor(saved.signatures, saved)
    if is_run(path):
        text_model = text_model_of(load_run(path))
        return Predictor(text_model.signatures, text_model)
    raise InputError(f"Expected a run by 'kbert pretrain' or a SavedModel at {path}. Received: neither.")


def text_model_of(run):
    """The TextModel of a run's newest checkpoint."""
    return TextModel(run.load_model(), run.vocabulary, sequence_length=run.sequence_length, cased=run.cased)
