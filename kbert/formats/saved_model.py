"""The SavedModel: a TextModel that loads with tensorflow and tensorflow_text alone."""

import pathlib
import tempfile

import tensorflow as tf

from kbert.formats.pretrained import NOTES, Pretrained, read_notes
from kbert.tensors import read_checkpoint
from tfrecords import InputError, Vocabulary

GRAPH = "saved_model.pb"
_VARIABLES = "variables/variables"
_VOCABULARY = "vocab.txt"
_PREFIX, _SUFFIX = "weights/", "/.ATTRIBUTES/VARIABLE_VALUE"
"""What surrounds the path of a weight in the SavedModel's checkpoint, where "/" within a name is
written ".S"."""


def write(pretrained, directory, *, top_k=5):
    """Writes a model with its tokenizer as a SavedModel; `top_k` is the number of words for each
    [MASK].

    It has the signatures serving_default (texts to embeddings), fill_mask, embed_ids and, if the
    model was trained on pairs, next_sentence, and the vocabulary as an asset. It holds the weights
    once, and nothing of an optimizer."""
    from kbert.model.text_model import (
        TextModel,
    )  # brings tensorflow_text, which reading does without

    text_model = TextModel(pretrained, top_k=top_k)
    with tempfile.TemporaryDirectory() as place:
        pretrained.vocabulary.save(pathlib.Path(place) / _VOCABULARY)
        text_model.vocabulary_file = tf.saved_model.Asset(f"{place}/{_VOCABULARY}")
        tf.saved_model.save(text_model, str(directory), signatures=text_model.signatures)


def read(path):
    """Reads the weights of a SavedModel that `write` wrote, as a Pretrained; its graph is not run.

    Raises:
        InputError: It is another one, or damaged.
    """
    notes = read_notes(path)
    if not notes:
        raise InputError(
            f"Expected a SavedModel by 'kbert export' at {path}. Received: one without {NOTES}."
        )
    vocabulary = Vocabulary.load(path / "assets" / _VOCABULARY)
    tensors = read_checkpoint(
        path / _VARIABLES, lambda name: name.startswith(_PREFIX) and name.endswith(_SUFFIX)
    )
    weights = {
        name.removeprefix(_PREFIX).removesuffix(_SUFFIX).replace(".S", "/"): value
        for name, value in tensors.items()
    }
    return Pretrained(**notes, weights=weights, vocabulary=vocabulary, source=str(path))


def usage(pretrained):
    """The section of the model card on how to use it; without next sentence prediction the lines on
    it are left out."""
    pooler = (
        ", through the dense layer that next sentence prediction trained"
        if pretrained.pairs != "none"
        else ""
    )
    text = _USAGE.replace("{sequence_length}", str(pretrained.sequence_length)).replace(
        "{pooler}", pooler
    )
    return "".join(
        line
        for line in text.splitlines(keepends=True)
        if pretrained.pairs != "none" or "next_sentence" not in line
    )


_USAGE = """## How to use it

A TensorFlow SavedModel with its tokenizer in the graph. It takes plain texts; longer ones are cut to {sequence_length} tokens.

```python
import tensorflow as tf
import tensorflow_text  # registers the operations of the tokenizer

model = tf.saved_model.load("DIRECTORY")
embed = model.signatures["serving_default"]
fill_mask = model.signatures["fill_mask"]
next_sentence = model.signatures["next_sentence"]

embed(texts=tf.constant(["One text.", "Another."]))["pooled_output"]
fill_mask(texts=tf.constant(["Return the [MASK] of the list."]))["tokens"]
next_sentence(first=tf.constant(["Is it empty?"]), second=tf.constant(["No, it is not."]))["probability"]
```

One short text on a CPU is answered faster with `TF_ENABLE_ONEDNN_OPTS=0` in the environment, batches and long texts without it.

`saved_model_cli show --dir DIRECTORY --all` lists the signatures. What they take and give; B texts of at most n tokens with at
most M masks, H the width of the model, K the number of words for a mask:

- `serving_default`: `texts` (string [B]) to `pooled_output` [B, H], `sequence_output` [B, n, H], `token_ids` and
  `padding_mask` [B, n].
- `fill_mask`: `texts` (string [B]) with the literal `[MASK]` to `tokens`, `ids` and `probabilities` [B, M, K], the likeliest
  first, and `num_masks` [B].
- `next_sentence`: `first` and `second` (string [B]) to the `probability` [B] that the second follows the first.
- `embed_ids`: `token_ids`, `segment_ids` and `padding_mask` (int32 [B, n]) to `pooled_output` and `sequence_output`.

`sequence_output` has a vector for every token, `pooled_output` the first, that of `[CLS]`{pooler}.
"""
