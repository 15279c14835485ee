"""Answers from a pretrained model: words for [MASK], whether one text follows another, and
embeddings."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kbert.config import POOLINGS, TOP_K
from kbert.objectives import MLM, NSP
from tfrecords import InputError
from tfrecords.vocabulary import MASK

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from kbert.formats.pretrained import Pretrained

_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Word:
    """A token proposed for a [MASK], with its probability."""

    token: str
    probability: float


class Predictor:
    """Answers for texts.

    Args:
        signatures: The functions of a TextModel or of a SavedModel of one, by name.
        source: What they were loaded from; kept alive with them, since they hold no reference to
            its variables.
        missing: The names of heads that were never trained, and "pooler" for the pooler; questions
            to them are refused.
    """

    def __init__(
        self, signatures: Mapping[str, Any], source: object, missing: Collection[str] = ()
    ) -> None:
        self._signatures = signatures
        self._source = source
        self._missing = missing

    def fill_mask(self, text: str) -> list[list[Word]]:
        """The most probable words for every "[MASK]" in `text`: a list for each mask, the most
        probable first.

        Raises:
            InputError: The text has no [MASK], or none within the length that the model takes; or
                the model has no trained head for it.
        """
        self._check_head(MLM.head)
        if MASK not in text:
            raise InputError(f"Expected a text with {MASK} in it. Received: {text!r}.")
        # Rows of the answer beyond the number of masks are padding, cut off below.
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

    def fill_masks(self, texts: Iterable[str]) -> Iterator[tuple[str, list[list[Word]]]]:
        """Answers a stream of texts one by one: yields each text with what `fill_mask` says of it,
        before the next text is asked for.

        A text without a [MASK], such as an empty line of a file, is a text with nothing to fill:
        its list is empty.

        Raises:
            InputError: As for `fill_mask`, for a text with a [MASK].
        """
        self._check_head(MLM.head)
        for text in texts:
            yield text, self.fill_mask(text) if MASK in text else []

    def next_sentence(self, first: str, second: str) -> float:
        """The probability that the text `second` follows the text `first`.

        The alternative is the one that the model was trained with: a random text, or, for a model
        of sentence order, the two texts swapped.

        Raises:
            InputError: The model was trained on single segments and knows nothing of pairs.
        """
        self._check_head(NSP.head)
        if "next_sentence" not in self._signatures:
            raise InputError(
                "Expected a model that was trained on sentence pairs. Received: one trained on "
                "single segments."
            )
        answer = self._signatures["next_sentence"](
            first=_strings([first]), second=_strings([second])
        )
        return float(answer["probability"][0])

    def embed(self, texts: Iterable[str], pooling: str = "mean") -> np.ndarray:
        """One vector for each of the texts: float32 [number of texts, H].

        Args:
            texts: Strings; longer ones are cut to the length that the model was trained with.
            pooling: "mean" over the text's tokens, [CLS] and [SEP] included; "cls", the vector of
                [CLS]; or "pooler", that vector through the dense layer of next sentence prediction,
                if the model has it.

        Raises:
            InputError: There is no such pooling, or the model has no trained pooler.
        """
        import numpy as np

        if pooling not in POOLINGS:
            raise InputError(
                f"Expected a pooling among {', '.join(POOLINGS)}. Received: {pooling!r}."
            )
        if pooling == "pooler":
            self._check_head("pooler")
        texts = iter(texts)
        batches = iter(lambda: list(itertools.islice(texts, _BATCH_SIZE)), [])
        vectors = [self._embed(batch, pooling) for batch in batches]
        return np.concatenate(vectors or [self._embed([], pooling)])

    def _embed(self, texts: list[str], pooling: str) -> np.ndarray:
        """The vectors of one batch."""
        import numpy as np

        answer = self._signatures["serving_default"](texts=_strings(texts))
        hidden_BSH = answer["sequence_output"].numpy()
        mask_BS1 = answer["padding_mask"].numpy()[:, :, None]
        if pooling == "mean":
            vectors_BH = (hidden_BSH * mask_BS1).sum(1) / mask_BS1.sum(1)
        elif pooling == "cls":
            vectors_BH = hidden_BSH[:, 0]
        else:
            vectors_BH = answer["pooled_output"].numpy()
        return vectors_BH.astype(np.float32)

    def _check_head(self, head: str) -> None:
        if head in self._missing:
            what = "pooler" if head == "pooler" else f"{head} head"
            raise InputError(f"Expected a model with a trained {what}. Received: one without it.")


def _strings(texts: list[str]) -> tf.Tensor:
    """Texts as a tensor of strings. Surrogates, which stand for bytes of arguments that were not
    UTF-8, become bytes that the model ignores."""
    import tensorflow as tf

    return tf.constant([text.encode("utf-8", "surrogatepass") for text in texts], tf.string)


def load_predictor(path: str | os.PathLike[str], top_k: int | None = None) -> Predictor:
    """Loads a model to answer for texts: a SavedModel by `kbert export` with its own graph, or
    anything else that `load` reads.

    Args:
        path: Its directory.
        top_k: The number of words to propose for each [MASK]; None takes 5, or what the SavedModel
            was exported with. With a number, a SavedModel's weights are read and its graph is not
            run.

    Raises:
        InputError: `path` is no pretrained model, or a SavedModel of something else.
    """
    from kbert.formats.load_and_save import format_of, load
    from kbert.formats.saved_model import NAME

    path = pathlib.Path(path)
    if top_k is None and format_of(path) == NAME:
        return _load_signatures(path)
    return predictor_of(load(path), TOP_K if top_k is None else top_k)


def predictor_of(pretrained: Pretrained, top_k: int = TOP_K) -> Predictor:
    """The Predictor of a Pretrained; `top_k` as for `load_predictor`."""
    from kbert.formats.text_model import TextModel

    text_model = TextModel(pretrained, top_k=top_k)
    missing = list(pretrained.missing)
    if pretrained.pairs in NSP.titles and "pooler/dense/kernel" not in pretrained.weights:
        missing.append("pooler")
    if pretrained.bert.num_segments < 2:  # no second text can be told from the first
        missing.append(NSP.head)
    return Predictor(text_model.signatures, text_model, missing)


def _load_signatures(path: pathlib.Path) -> Predictor:
    """The Predictor of a SavedModel's own functions."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (registers the operations of the tokenizer)

    from kbert.formats.saved_model import check_operations

    # Loading a SavedModel already runs parts of its graph, so the check comes first.
    check_operations(path)
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
