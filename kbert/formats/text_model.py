"""A model that answers for plain texts: BERT with its tokenizer in one TensorFlow graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from kbert.config import TOP_K
from kbert.model.bert import encoder_of
from tfrecords import InputError, Tokenizer
from tfrecords.vocabulary import MASK

if TYPE_CHECKING:
    from kbert.formats.pretrained import Pretrained

_RaggedTensor: Any = tf.RaggedTensor
"""The same; the checker's stubs of TensorFlow lack its class methods."""
_TEXTS = tf.TensorSpec([None], tf.string)
_IDS = tf.TensorSpec([None, None], tf.int32)


class TextModel(tf.Module):
    """Answers for texts: embeddings, words for [MASK], and whether one text follows another.

    Texts are any bytes; invalid UTF-8 in them is ignored. Longer texts are cut to the length that
    the model was trained with. For a model without next sentence prediction, `next_sentence` is
    None.

    Args:
        pretrained: A Pretrained.
        top_k: K, the number of words that `fill_mask` proposes for each [MASK].

    Raises:
        InputError: top_k is less than 1, or Keras runs on another backend than TensorFlow.
    """

    vocabulary_file: tf.saved_model.Asset
    """The vocabulary as a file, once this is to be saved."""

    def __init__(self, pretrained: Pretrained, *, top_k: int = TOP_K) -> None:
        super().__init__()
        if top_k < 1:
            raise InputError(f"Expected a top_k of at least 1. Received: {top_k}.")
        if keras.backend.backend() != "tensorflow":
            raise InputError(
                "Expected Keras on TensorFlow, for a graph with a tokenizer. "
                f"Received: {keras.backend.backend()}; set KERAS_BACKEND=tensorflow, the weights "
                "are the same."
            )
        model, vocabulary = pretrained.model, pretrained.vocabulary
        self.sequence_length = pretrained.sequence_length
        self.top_k = min(top_k, len(vocabulary))
        self.weights = {variable.path: variable.value for variable in model.trainable_variables}

        # tf.Module saves every model, layer and optimizer among its attributes. Closures hide the
        # Keras models, so that `weights` alone is saved, each variable once and by its own path.
        encoder = encoder_of(model)
        self._predict = lambda inputs: model(inputs, training=False)
        self._encode = lambda inputs: {
            name: tf.cast(value, tf.float32) for name, value in encoder(inputs).items()
        }
        self._pieces = tf.constant(vocabulary.tokens)
        self._vocabulary = vocabulary
        self._tokenizer = Tokenizer(vocabulary, pretrained.normalization)

        # A function with an input signature is traced when this is saved, asked for or not.
        if pretrained.pairs == "none":
            self.next_sentence = None  # pyright: ignore[reportAttributeAccessIssue]  (hides it)

    @tf.function(input_signature=[_TEXTS])
    def embed(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Embeds texts.

        Args:
            texts: string [B].

        Returns:
            A dict of pooled_output (float32 [B, H]), sequence_output (float32 [B, n, H]), token_ids
            and padding_mask (int32 [B, n]), where n is the number of tokens of the longest text, at
            most S.
        """
        inputs = self._pack(self._tokenize(texts))
        return self._encode(inputs) | {
            "token_ids": inputs["token_ids"],
            "padding_mask": inputs["padding_mask"],
        }

    @tf.function(input_signature=[_IDS, _IDS, _IDS])
    def embed_ids(
        self, token_ids: tf.Tensor, segment_ids: tf.Tensor, padding_mask: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Embeds inputs that are ids already.

        Args:
            token_ids: int32 [B, n], n at most S.
            segment_ids: int32 [B, n].
            padding_mask: int32 [B, n], 1 on tokens and 0 on padding.

        Returns:
            A dict of pooled_output (float32 [B, H]) and sequence_output (float32 [B, n, H]).
        """
        return self._encode(
            {"token_ids": token_ids, "segment_ids": segment_ids, "padding_mask": padding_mask}
        )

    @tf.function(input_signature=[_TEXTS])
    def fill_mask(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predicts the token at every literal "[MASK]" in the texts, the most probable first.

        Args:
            texts: string [B].

        Returns:
            A dict of ids (int32 [B, M, K]), tokens (string [B, M, K]), probabilities (float32 [B,
            M, K]) and num_masks (int32 [B]), where M is the largest number of masks in a text, at
            least 1; slots beyond a text's own number hold 0 and "". A [MASK] that was cut off with
            the end of its text has no answer.
        """
        # Texts are split at the literal, since the tokenizer takes "[MASK]" for ordinary
        # characters, as in training; the ids of the masks are put between the parts afterwards:
        #
        #     "ba [MASK] be" -> ["ba ", " be"] -> [[ba, mask], [be, mask]] -> [ba, mask, be]
        parts = tf.strings.split(texts, MASK)
        ids = self._tokenize(parts.flat_values)
        mask = _RaggedTensor.from_tensor(tf.fill([ids.nrows(), 1], self._vocabulary.mask_id))
        ids = _RaggedTensor.from_row_splits(
            tf.concat([ids, mask], axis=1), parts.row_splits
        ).merge_dims(1, 2)
        inputs = self._pack(ids[:, :-1])  # every part brought a mask, the last one too many

        # The positions of the masks come first in each row, sorted; `length` stands for no mask.
        is_mask = inputs["token_ids"] == self._vocabulary.mask_id
        num_masks = tf.reduce_sum(tf.cast(is_mask, tf.int32), axis=1)
        length = tf.shape(is_mask)[1]
        positions = tf.sort(tf.where(is_mask, tf.range(length), length), axis=1)[
            :, : tf.maximum(tf.reduce_max(num_masks), 1)
        ]
        in_use = positions < length

        # Unused slots are predicted at position 0, which always exists, and blanked out.
        logits = self._predict(inputs | {"mask_positions": tf.where(in_use, positions, 0)})["mlm"]
        probabilities, ids = tf.math.top_k(tf.nn.softmax(logits), self.top_k)
        in_use = in_use[:, :, None]
        return {
            "ids": tf.where(in_use, ids, 0),
            "tokens": tf.where(in_use, tf.gather(self._pieces, ids), ""),
            "probabilities": tf.where(in_use, probabilities, 0.0),
            "num_masks": num_masks,
        }

    @tf.function(input_signature=[_TEXTS, _TEXTS])
    def next_sentence(self, first: tf.Tensor, second: tf.Tensor) -> dict[str, tf.Tensor]:
        """The probability that the second text follows the first. The alternative is a random
        second text (next sentence prediction) or the two texts swapped (sentence order).

        Args:
            first: string [B].
            second: string [B].

        Returns:
            A dict of probability (float32 [B]).
        """
        first_ids, second_ids = self._tokenize(first), self._tokenize(second)

        # Pairs that are too long lose tokens at their ends. The longer text is cut first, so that
        # each keeps at least half of the room if it is that long.
        room = self.sequence_length - 3
        first_length, second_length = first_ids.row_lengths(), second_ids.row_lengths()
        first_kept = tf.minimum(first_length, tf.maximum(room - second_length, room - room // 2))
        second_kept = tf.minimum(second_length, room - first_kept)
        inputs = self._pack(_heads(first_ids, first_kept), _heads(second_ids, second_kept))

        # The model wants mask positions; one of them for each pair costs the least.
        no_masks = tf.zeros([tf.shape(first_kept)[0], 1], tf.int32)
        logits = self._predict(inputs | {"mask_positions": no_masks})["nsp"]
        return {"probability": tf.nn.softmax(logits)[:, 0]}

    @property
    def signatures(self) -> dict[str, Any]:
        """The functions that a SavedModel of this offers, by their names there."""
        functions = {
            "serving_default": self.embed,
            "embed_ids": self.embed_ids,
            "fill_mask": self.fill_mask,
            "next_sentence": self.next_sentence,
        }
        return {name: function for name, function in functions.items() if function is not None}

    # A function of its own, so that a SavedModel has it once and not in every signature.
    @tf.function(input_signature=[_TEXTS])
    def _tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return self._tokenizer(
            tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        )

    def _pack(
        self, first: tf.RaggedTensor, second: tf.RaggedTensor | None = None
    ) -> dict[str, tf.Tensor]:
        """The model's inputs for ragged ids (int32 [B, None]): [CLS] first [SEP], cut to S, or
        [CLS] first [SEP] second [SEP], which must be short enough; padded to the longest."""
        num_texts = first.nrows()

        def column(token_id: int) -> tf.RaggedTensor:
            return _RaggedTensor.from_tensor(tf.fill([num_texts, 1], token_id))

        cls, sep = column(self._vocabulary.cls_id), column(self._vocabulary.sep_id)
        if second is None:
            parts = [cls, first[:, : self.sequence_length - 2], sep]
            segment_ids = tf.zeros_like(tf.concat(parts, axis=1))
        else:
            parts = [cls, first, sep, second, sep]
            segment_ids = tf.concat(
                [*map(tf.zeros_like, parts[:3]), *map(tf.ones_like, parts[3:])], axis=1
            )
        token_ids = tf.concat(parts, axis=1)
        # A batch without a text is as wide as an empty text.
        width = tf.reduce_max(tf.concat([token_ids.row_lengths(), [2]], axis=0))
        shape = tf.stack([token_ids.nrows(), width])
        return {
            "token_ids": token_ids.to_tensor(self._vocabulary.pad_id, shape=shape),
            "segment_ids": segment_ids.to_tensor(shape=shape),
            "padding_mask": tf.ones_like(token_ids).to_tensor(shape=shape),
        }


def _heads(rows: tf.RaggedTensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """The first lengths[i] values of each row i."""
    return tf.ragged.boolean_mask(rows, tf.ragged.range(rows.row_lengths()) < lengths[:, None])
