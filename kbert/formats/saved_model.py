"""The SavedModel: a TextModel that loads with tensorflow and tensorflow_text alone."""

from __future__ import annotations

import pathlib
import tempfile

from kbert.config import TOP_K
from kbert.formats.notes import NOTES, read_notes
from kbert.formats.pretrained import Pretrained
from kbert.run.tensors import read_checkpoint
from tfrecords import InputError, Vocabulary

NAME = "saved-model"
OPTIONS = ("top_k",)
FRONT_MATTER = ""
GRAPH = "saved_model.pb"
_VARIABLES = "variables/variables"
_VOCABULARY = "vocab.txt"
_PREFIX, _SUFFIX = "weights/", "/.ATTRIBUTES/VARIABLE_VALUE"
"""What surrounds the path of a weight in the SavedModel's checkpoint, where "/" within a name is
written ".S"."""


def recognises(path: pathlib.Path) -> bool:
    """Tells whether a directory holds a SavedModel."""
    return (path / GRAPH).is_file()


def write(pretrained: Pretrained, directory: pathlib.Path, *, top_k: int = TOP_K) -> None:
    """Writes a model with its tokenizer as a SavedModel.

    It has the signatures serving_default (texts to embeddings), fill_mask, embed_ids and, if the
    model was trained on pairs, next_sentence, and the vocabulary as an asset. It holds the weights
    once, and nothing of an optimizer.

    Args:
        pretrained: The model.
        directory: The directory to make.
        top_k: The number of words that fill_mask proposes for each [MASK].

    Raises:
        InputError: top_k is less than 1, or Keras runs on another backend than TensorFlow.
    """
    import tensorflow as tf

    from kbert.formats.text_model import TextModel  # loads tensorflow_text; reading does without

    text_model = TextModel(pretrained, top_k=top_k)
    with tempfile.TemporaryDirectory() as place:
        pretrained.vocabulary.save(pathlib.Path(place) / _VOCABULARY)
        text_model.vocabulary_file = tf.saved_model.Asset(f"{place}/{_VOCABULARY}")
        tf.saved_model.save(text_model, str(directory), signatures=text_model.signatures)
    # What `load_predictor` would refuse is not written; the tests find it where a layer is changed.
    if others := _other_operations(directory):
        raise RuntimeError(
            f"Expected a graph of the operations in {__name__}._OPERATIONS. Received: one with "
            f"{', '.join(sorted(others))}, of a new layer or another version of TensorFlow; add "
            "those there that compute and do nothing else."
        )


def read(path: pathlib.Path) -> Pretrained:
    """Reads the weights of a SavedModel that `write` wrote; its graph is not run.

    Raises:
        InputError: Another tool wrote it, or it is damaged.
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


# The graph, which `load_predictor` runs.

_OPERATIONS = """
Abs AddV2 All Any Assert BatchMatMulV2 BatchMatMulV3 BiasAdd BroadcastTo Cast ConcatV2 Const Cumsum
DenseBincount Einsum Equal Erf Erfc Exp ExpandDims FastWordpieceTokenizeWithOffsets Fill GatherNd
GatherV2 Greater GreaterEqual Identity IdentityN If Less LessEqual Log LogicalAnd LogicalNot
LogicalOr MatMul Max Maximum Mean Min Minimum Mul Neg NoOp NormalizeUTF8 NotEqual OneHot OnesLike
Pack Pad PadV2 PartitionedCall Pow Prod RaggedGather RaggedRange RaggedTensorToTensor Range Rank
ReadVariableOp RealDiv Reshape Rsqrt Select SelectV2 Shape Sigmoid Size Slice Softmax Split SplitV
Sqrt Square SquaredDifference Squeeze StatefulPartitionedCall StatelessIf StaticRegexFullMatch
StaticRegexReplace StopGradient StridedSlice StringJoin StringLength StringLower StringSplitV2 Sub
Sum Tanh Tile TopKV2 Transpose UnicodeTranscode Unpack UnsortedSegmentSum Where ZerosLike
"""
"""Operations that compute and do nothing else: those of a TextModel's functions with TensorFlow
2.20, and their nearest relatives, which another version may put in their place."""


def check_operations(path: pathlib.Path) -> None:
    """Makes sure that loading a SavedModel and calling its functions can do nothing but compute.

    A SavedModel is a program, and TensorFlow has operations that read and write any file, for
    example WriteFile.

    Raises:
        InputError: The graph is damaged, in the format of TensorFlow 1, or has an operation that is
            not among those of `kbert export`.
    """
    if others := _other_operations(path):
        raise InputError(
            f"Expected a SavedModel by 'kbert export' at {path}. Received: one with the operation "
            f"{min(others)}, which could do more than compute; it is not run. With a top_k, its "
            "weights are read without it."
        )


def _other_operations(path: pathlib.Path) -> set[str]:
    """The operations of a SavedModel that are not among _OPERATIONS.

    Only functions that can be called are looked at, with those that they call in turn: the graph
    also has functions that save and restore its checkpoint, which nothing calls.

    Raises:
        InputError: The graph is damaged, or in the format of TensorFlow 1.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved = saved_model_pb2.SavedModel.FromString((path / GRAPH).read_bytes())
    except (OSError, DecodeError) as error:
        raise InputError(
            f"Expected a SavedModel at {path}. Received: one that cannot be loaded ({error})."
        ) from None

    # TensorFlow runs the whole graph of a SavedModel without Python objects, or with several
    # graphs: tensorflow/python/saved_model/load.py, load_partial, TensorFlow 2.20.
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].HasField("object_graph_def"):
        raise InputError(
            f"Expected a SavedModel by 'kbert export' at {path}. Received: one of TensorFlow 1."
        )
    (graph,) = saved.meta_graphs
    functions = {function.signature.name: function for function in graph.graph_def.library.function}

    # Follow the calls from the functions that Python objects offer.
    allowed = frozenset(_OPERATIONS.split())
    waiting, seen, others = list(graph.object_graph_def.concrete_functions), set(), set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in functions[name].node_def:
            if node.op not in allowed and node.op not in functions:
                others.add(node.op)
            # A function of the graph takes precedence over an operation of the same name.
            waiting.append(node.op)
            for attribute in node.attr.values():
                waiting += [called.name for called in (attribute.func, *attribute.list.func)]
    return others


# The model card.


def usage(pretrained: Pretrained) -> str:
    """The section of the model card on how to use it; for a model without next sentence prediction
    its lines are left out."""
    has_pairs = pretrained.pairs != "none"
    pooler = ", through the dense layer of next sentence prediction" if has_pairs else ""
    text = _USAGE.replace("{sequence_length}", str(pretrained.sequence_length)).replace(
        "{pooler}", pooler
    )
    return "".join(
        line for line in text.splitlines(keepends=True) if has_pairs or "next_sentence" not in line
    )


_USAGE = """## How to use it

A TensorFlow SavedModel with its tokenizer in the graph. It takes plain texts; longer ones are
cut to {sequence_length} tokens.

```python
import tensorflow as tf
import tensorflow_text  # registers the operations of the tokenizer

model = tf.saved_model.load("DIRECTORY")
embed = model.signatures["serving_default"]
fill_mask = model.signatures["fill_mask"]
next_sentence = model.signatures["next_sentence"]

embed(texts=tf.constant(["One text.", "Another."]))["pooled_output"]
fill_mask(texts=tf.constant(["Return the [MASK] of the list."]))["tokens"]
next_sentence(first=tf.constant(["Is it empty?"]), second=tf.constant(["No."]))["probability"]
```

A single short text on a CPU is answered faster with `TF_ENABLE_ONEDNN_OPTS=0` in the environment;
batches and long texts are faster without it.

`saved_model_cli show --dir DIRECTORY --all` lists the signatures. Their inputs and outputs, for B
texts of at most n tokens with at most M masks, a hidden size of H, and K words for each mask:

- `serving_default`: `texts` (string [B]) to `pooled_output` [B, H], `sequence_output` [B, n, H],
  `token_ids` and `padding_mask` [B, n].
- `fill_mask`: `texts` (string [B]) with the literal `[MASK]` to `tokens`, `ids` and `probabilities`
  [B, M, K], the most probable first, and `num_masks` [B].
- `next_sentence`: `first` and `second` (string [B]) to the `probability` [B] of label 0.
- `embed_ids`: `token_ids`, `segment_ids` and `padding_mask` (int32 [B, n]) to `pooled_output` and
  `sequence_output`.

`sequence_output` has a vector for every token; `pooled_output` is that of `[CLS]`{pooler}.
"""
