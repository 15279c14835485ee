"""The SavedModel: in a process that cannot import kbert it gives what Python gave, whatever the
text."""

import collections
import concurrent.futures
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import random_model
from tensorflow.core.protobuf import saved_model_pb2

from kbert.formats import saved_model
from kbert.formats.load_and_save import save
from kbert.formats.pretrained import Pretrained
from kbert.formats.text_model import TextModel
from kbert.model.bert import encoder_of
from kbert.step.objective import pretraining_objective
from tfrecords import InputError, Vocabulary

pytest_plugins = ["model_fixtures"]

S = 19
K = 3
TEXTS = {
    "plain": ["ba be bi", "[MASK] du fa"],
    "empty string": [""],
    "empty among others": ["", "ba [MASK]", ""],
    "empty batch": [],
    "one megabyte": ["ba be " * 170_000 + "[MASK]"],
    "one word of a megabyte": ["b" * 1_000_000],
    "non-ASCII": ["bá 東京 Ωba [MASK] ばé\u0301", "\u200b\ufeffba\u00a0be"],
    "invalid UTF-8": [b"\xff\xfeba \xc3 be [MASK] \x80", b"\xed\xa0\x80"],
    "NUL and line ends": ["ba\x00be\r\n[MASK]\u2028du"],
    "thousands of masks": ["[MASK]" * 5000, "[MASK] ba"],
    "not quite a mask": ["[mask] [MASK [CLS] [SEP] [ MASK]"],
    "masks at both ends": ["[MASK] ba [MASK]", "[MASK][MASK]"],
    "as long as it may be": ["ba " * (S - 2), "ba " * (S - 1)],
}
PAIRS = {
    "plain": [("ba be", "du fa fe"), ("be", "ba")],
    "empty": [("", ""), ("ba", ""), ("", "ba")],
    "empty batch": [],
    "long": [("ba be " * 1000, "du"), ("du", "ba be " * 1000), ("ba be " * 1000, "du fa " * 1000)],
    "one megabyte": [("ba " * 330_000, "du " * 330_000)],
    "invalid UTF-8": [(b"\xffba", b"\xc3\x28")],
}

FRESH_PROCESS = """
import sys
sys.modules.update(dict.fromkeys(["kbert", "tfrecords"]))  # an import of them would fail
import numpy as np
import tensorflow as tf
import tensorflow_text

model = tf.saved_model.load(sys.argv[1])
assert set(model.signatures) == {"serving_default", "embed_ids", "fill_mask", "next_sentence"}
inputs = np.load(sys.argv[2], allow_pickle=True)
answers = {}
for name in inputs.files:
    signature, _, _ = name.partition("/")
    kind = tf.int32 if signature == "embed_ids" else tf.string
    arguments = {key: tf.constant(value, kind) for key, value in inputs[name].item().items()}
    for key, value in model.signatures[signature](**arguments).items():
        answers[f"{name}/{key}"] = value.numpy()
np.savez(sys.argv[3], **answers)
"""


@pytest.fixture(scope="module")
def model():
    model = random_model(max_positions=S)
    model.compile(**pretraining_objective(steps=1))
    model.optimizer.build(model.trainable_variables)  # what must not be exported
    return model


def text_model_of(model, vocabulary, top_k=K, cased=None):
    return TextModel(
        Pretrained.of_model(model, vocabulary, sequence_length=S, cased=cased), top_k=top_k
    )


@pytest.fixture(scope="module")
def text_model(model, tiny_vocabulary):
    return text_model_of(model, tiny_vocabulary)


@pytest.fixture(scope="module")
def exported(model, tiny_vocabulary, tmp_path_factory):
    pretrained = Pretrained.of_model(model, tiny_vocabulary, sequence_length=S)
    return save(pretrained, tmp_path_factory.mktemp("exported") / "bert", top_k=K)


def requests():
    """The arguments of every call, by "signature/name of the case"."""
    calls = {}
    for name, texts in TEXTS.items():
        texts = [text.encode() if isinstance(text, str) else text for text in texts]
        calls[f"fill_mask/{name}"] = calls[f"serving_default/{name}"] = {"texts": texts}
    for name, pairs in PAIRS.items():
        sides = [
            [text.encode() if isinstance(text, str) else text for text in side]
            for side in zip(*pairs, strict=True)
        ]
        calls[f"next_sentence/{name}"] = dict(
            zip(("first", "second"), sides or ([], []), strict=True)
        )
    ids = [[2, 7, 9, 3, 0], [2, 8, 3, 11, 3]]
    calls["embed_ids/plain"] = {
        "token_ids": ids,
        "segment_ids": [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]],
        "padding_mask": [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
    }
    return calls


def answer(text_model, name, arguments):
    kind = tf.int32 if name.startswith("embed_ids") else tf.string
    function = {"serving_default": "embed"}.get(name.partition("/")[0], name.partition("/")[0])
    return getattr(text_model, function)(
        **{key: tf.constant(value, kind) for key, value in arguments.items()}
    )


@pytest.fixture(scope="module")
def fresh_answers(exported, tmp_path_factory):
    """The answers of a process that can import tensorflow and tensorflow_text alone, by
    "signature/case/name"."""
    place = tmp_path_factory.mktemp("elsewhere")
    np.savez(
        place / "requests.npz",
        **{name: np.array(arguments, dtype=object) for name, arguments in requests().items()},
    )
    (place / "script.py").write_text(FRESH_PROCESS)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "script.py", str(exported), "requests.npz", "answers.npz"]
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(place / "answers.npz", allow_pickle=True) as answers:
        return dict(answers)


def test_a_fresh_process_gives_what_python_gave(fresh_answers, text_model):
    compared = 0
    for name, arguments in requests().items():
        for key, expected in answer(text_model, name, arguments).items():
            actual, expected = fresh_answers[f"{name}/{key}"], expected.numpy()
            assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), f"{name}/{key}"
            if expected.dtype == np.float32:
                np.testing.assert_allclose(actual, expected, atol=1e-5, err_msg=f"{name}/{key}")
            else:
                np.testing.assert_array_equal(actual, expected, err_msg=f"{name}/{key}")
            compared += 1
    assert compared == len(fresh_answers) == 8 * len(TEXTS) + len(PAIRS) + 2


def test_every_answer_is_a_number(fresh_answers):
    for name, value in fresh_answers.items():
        if value.dtype == np.float32:
            assert np.isfinite(value).all(), name
        if name.endswith(("/probability", "/probabilities")):
            assert ((value >= 0) & (value <= 1)).all(), name


@pytest.mark.parametrize(
    ("case", "num_texts", "num_tokens", "num_masks"),
    [
        ("plain", 2, 7, [0, 1]),
        ("empty string", 1, 2, [0]),
        ("empty among others", 3, 6, [0, 1, 0]),
        ("empty batch", 0, 2, []),
        ("one megabyte", 1, S, [0]),
        ("one word of a megabyte", 1, 3, [0]),
        ("thousands of masks", 2, S, [S - 2, 1]),
        ("not quite a mask", 1, 16, [0]),
        ("masks at both ends", 2, 9, [2, 2]),
        ("as long as it may be", 2, S, [0, 0]),
    ],
)
def test_shapes_of_the_answers(fresh_answers, case, num_texts, num_tokens, num_masks):
    def shape(name):
        return fresh_answers[name.replace("/", f"/{case}/")].shape

    assert shape("serving_default/pooled_output") == (num_texts, 26)
    assert shape("serving_default/sequence_output") == (num_texts, num_tokens, 26)
    assert (
        shape("serving_default/token_ids")
        == shape("serving_default/padding_mask")
        == (num_texts, num_tokens)
    )
    slots = (num_texts, max([1, *num_masks]), K)
    assert (
        shape("fill_mask/ids")
        == shape("fill_mask/tokens")
        == shape("fill_mask/probabilities")
        == slots
    )
    np.testing.assert_array_equal(fresh_answers[f"fill_mask/{case}/num_masks"], num_masks)


def test_ids_in_full(fresh_answers, tiny_vocabulary):
    cls, sep, unk, ba, be, bi = (
        tiny_vocabulary.ids[token] for token in ("[CLS]", "[SEP]", "[UNK]", "ba", "be", "bi")
    )
    for case, first in {
        "plain": [cls, ba, be, bi, sep],
        "empty string": [cls, sep],
        "empty among others": [cls, sep],
        "one megabyte": [cls, *([ba, be] * S)[: S - 2], sep],
        "one word of a megabyte": [cls, unk, sep],
    }.items():
        in_use = fresh_answers[f"serving_default/{case}/padding_mask"][0] == 1
        assert fresh_answers[f"serving_default/{case}/token_ids"][0][in_use].tolist() == first, case


def by_hand(model, rows, positions, segments=None):
    """The outputs of the model for lists of ids, padded with 0 by hand."""
    width = max(map(len, rows))
    pad = [[0] * (width - len(row)) for row in rows]
    segments = segments or [[0] * len(row) for row in rows]
    return model(
        {
            "token_ids": np.array(
                [row + more for row, more in zip(rows, pad, strict=True)], np.int32
            ),
            "segment_ids": np.array(
                [row + more for row, more in zip(segments, pad, strict=True)], np.int32
            ),
            "padding_mask": np.array(
                [[1] * len(row) + more for row, more in zip(rows, pad, strict=True)], np.int32
            ),
            "mask_positions": np.array(positions, np.int32),
        }
    )


def softmax(logits):
    exponentials = np.exp(np.float64(logits))
    return exponentials / exponentials.sum(-1, keepdims=True)


def test_fill_mask_equals_a_computation_by_hand(text_model, model, tiny_vocabulary):
    ids = tiny_vocabulary.ids
    cls, sep, mask = (ids[token] for token in ("[CLS]", "[SEP]", "[MASK]"))
    rows = [
        [cls, ids["ba"], mask, ids["be"], mask, sep],
        [cls, mask, ids["du"], sep],
        [cls, ids["fa"], sep],
    ]
    answer = text_model.fill_mask(tf.constant(["ba [MASK] be [MASK]", "[MASK]DU", "fa"]))
    probabilities = softmax(by_hand(model, rows, [[2, 4], [1, 0], [0, 0]])["mlm"])
    best = np.argsort(-probabilities, axis=-1)[:, :, :K]
    in_use = np.array([[True, True], [True, False], [False, False]])
    np.testing.assert_array_equal(answer["num_masks"], [2, 1, 0])
    np.testing.assert_array_equal(answer["ids"].numpy()[in_use], best[in_use])
    np.testing.assert_allclose(
        answer["probabilities"].numpy()[in_use],
        np.take_along_axis(probabilities, best, -1)[in_use],
        atol=1e-5,
    )
    tokens = np.array(tiny_vocabulary.tokens, object)[best]
    assert [[t.decode() for t in row] for row in answer["tokens"].numpy()[in_use]] == tokens[
        in_use
    ].tolist()
    assert (answer["ids"].numpy()[~in_use] == 0).all()
    assert (answer["tokens"].numpy()[~in_use] == b"").all()
    assert (answer["probabilities"].numpy()[~in_use] == 0).all()


def test_embeddings_equal_a_computation_by_hand(text_model, model, tiny_vocabulary):
    ids = tiny_vocabulary.ids
    row = [ids["[CLS]"], ids["ba"], ids["du"], ids["[SEP]"]]
    answer = text_model.embed(tf.constant(["ba du", "ba du be fa"]))
    inputs = {
        "token_ids": np.array([row]),
        "segment_ids": np.zeros((1, 4), int),
        "padding_mask": np.ones((1, 4), int),
    }
    expected = encoder_of(model)(inputs)
    np.testing.assert_allclose(answer["pooled_output"][:1], expected["pooled_output"], atol=1e-5)
    np.testing.assert_allclose(
        answer["sequence_output"][:1, :4], expected["sequence_output"], atol=1e-5
    )


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ((3, 4), (3, 4)),
        ((8, 8), (8, 8)),
        ((100, 100), (8, 8)),
        ((100, 3), (13, 3)),
        ((3, 100), (3, 13)),
        ((9, 8), (8, 8)),
        ((8, 9), (8, 8)),
        ((7, 100), (7, 9)),
        ((100, 7), (9, 7)),
        ((100, 0), (16, 0)),
        ((0, 100), (0, 16)),
    ],
)
def test_next_sentence_cuts_the_longer_text_at_its_end(
    text_model, model, tiny_vocabulary, lengths, kept
):
    words = tiny_vocabulary.tokens[5:]
    first = [words[n % 48] for n in range(lengths[0])]
    second = [words[(7 * n + 3) % 48] for n in range(lengths[1])]
    assert sum(kept) + 3 <= S
    a, b = (
        [tiny_vocabulary.ids[word] for word in text[:n]]
        for text, n in zip((first, second), kept, strict=True)
    )
    row = [tiny_vocabulary.cls_id, *a, tiny_vocabulary.sep_id, *b, tiny_vocabulary.sep_id]
    segments = [0] * (len(a) + 2) + [1] * (len(b) + 1)
    expected = softmax(by_hand(model, [row], [[0]], [segments])["nsp"])[
        0, 0
    ]  # class 0: B follows A
    actual = text_model.next_sentence(
        tf.constant([" ".join(first)]), tf.constant([" ".join(second)])
    )["probability"]
    np.testing.assert_allclose(actual, [expected], atol=1e-5)


def test_next_sentence_of_a_batch_is_that_of_each_pair(text_model):
    pairs = [("ba be", "du"), ("du " * 50, "fa"), ("", "ba " * 50), ("fa", "fe")]
    together = text_model.next_sentence(*map(tf.constant, map(list, zip(*pairs, strict=True))))[
        "probability"
    ]
    alone = [
        float(text_model.next_sentence(tf.constant([a]), tf.constant([b]))["probability"][0])
        for a, b in pairs
    ]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert len({round(value, 3) for value in alone}) == 4  # the model does tell them apart


def test_one_copy_of_the_weights_and_no_optimizer(exported, model):
    reader = tf.train.load_checkpoint(str(exported / "variables" / "variables"))
    sizes = {
        name: int(np.prod(shape)) * reader.get_variable_to_dtype_map()[name].size
        for name, shape in reader.get_variable_to_shape_map().items()
        if not name.startswith("_CHECKPOINTABLE")
        and name != "save_counter/.ATTRIBUTES/VARIABLE_VALUE"
    }
    weights = 4 * sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert sum(sizes.values()) == pytest.approx(weights, rel=0.1)
    assert len(sizes) == len(model.trainable_variables)
    assert not [
        name
        for name in sizes
        if any(word in name for word in ("optimizer", "momentum", "velocity"))
    ]


def test_the_vocabulary_and_a_card_lie_beside_it(exported, tiny_vocabulary):
    assert (exported / "assets" / "vocab.txt").read_text() == tiny_vocabulary.text
    card = (exported / "README.md").read_text()
    assert f"cut to {S} tokens" in card
    assert "[B, M, K]" in card
    assert card.count("next_sentence") == 4
    assert "that of `[CLS]`, through the dense layer of next sentence prediction.\n" in card
    assert sorted(path.name for path in exported.parent.iterdir()) == [
        "bert"
    ]  # nothing partial is left


def test_without_next_sentence_its_signature_is_left_out(tiny_vocabulary, tmp_path):
    model = random_model(num_layers=1, pairs="none", max_positions=S)
    text_model = text_model_of(model, tiny_vocabulary)
    assert text_model.next_sentence is None
    pretrained = Pretrained.of_model(model, tiny_vocabulary, sequence_length=S)
    output = save(pretrained, tmp_path / "bert", top_k=K)
    saved = tf.saved_model.load(str(output))
    assert set(saved.signatures) == {"serving_default", "embed_ids", "fill_mask"}
    texts = tf.constant(["ba be bi", "[MASK] du fa"])
    for name, function in {
        "serving_default": text_model.embed,
        "fill_mask": text_model.fill_mask,
    }.items():
        answers = saved.signatures[name](texts=texts)
        for key, expected in function(texts).items():
            if expected.dtype == tf.float32:
                np.testing.assert_allclose(answers[key], expected, atol=1e-5)
            else:
                np.testing.assert_array_equal(answers[key], expected)
    embedded = saved.signatures["serving_default"](texts=texts)
    np.testing.assert_array_equal(embedded["pooled_output"], embedded["sequence_output"][:, 0])
    variables = tf.train.list_variables(str(output / "variables" / "variables"))
    assert len([name for name, _ in variables if name.startswith("weights/")]) == len(
        model.trainable_variables
    )
    card = (output / "README.md").read_text()
    assert "next_sentence" not in card
    assert "that of `[CLS]`.\n" in card


def test_a_directory_with_something_in_it_is_refused_and_untouched(
    model, tiny_vocabulary, tmp_path
):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(
        InputError,
        match=r"Expected an empty or new directory\. Received: .*already holds thesis\.tex",
    ):
        save(Pretrained.of_model(model, tiny_vocabulary), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_what_a_killed_export_left_is_replaced(model, tiny_vocabulary, tmp_path):
    leftover = tmp_path / "bert.0badcafe.partial"
    (leftover / "assets.extra").mkdir(parents=True)
    (leftover / "saved_model.pb").write_bytes(b"half a model")
    (leftover / "stray").write_text("x")
    output = save(Pretrained.of_model(model, tiny_vocabulary), tmp_path / "bert")
    saved = tf.saved_model.load(str(output))
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]
    assert not (tmp_path / "bert" / "stray").exists()
    # Without a length it takes as many tokens as the model has positions.
    assert saved.signatures["serving_default"](texts=tf.constant(["ba " * 100]))[
        "token_ids"
    ].shape == (1, S)


def test_a_vocabulary_of_another_size_is_refused(model, tiny_vocabulary, tmp_path):
    for tokens in (tiny_vocabulary.tokens[:-1], (*tiny_vocabulary.tokens, "zu")):
        with pytest.raises(
            InputError, match=rf"53.*Received: .*{len(tokens)}|{len(tokens)}.*Received: .*53"
        ):
            pretrained = Pretrained.of_model(model, Vocabulary(tokens), sequence_length=S)
            save(pretrained, tmp_path / "bert")
        assert not (tmp_path / "bert").exists()


@pytest.mark.parametrize("sequence_length", [S + 1, 2])
def test_a_length_that_the_model_cannot_take_is_refused(
    model, tiny_vocabulary, tmp_path, sequence_length
):
    with pytest.raises(InputError, match=rf"(?s){S}.*{sequence_length}"):
        pretrained = Pretrained.of_model(model, tiny_vocabulary, sequence_length=sequence_length)
        save(pretrained, tmp_path / "bert")
    assert not (tmp_path / "bert").exists()


def test_top_k_is_at_most_the_vocabulary(model, tiny_vocabulary):
    text_model = text_model_of(model, tiny_vocabulary, top_k=1000)
    answer = text_model.fill_mask(tf.constant(["ba [MASK]"]))
    assert answer["ids"].shape == (1, 1, 53)
    np.testing.assert_allclose(np.sum(answer["probabilities"]), 1.0, atol=1e-5)
    assert sorted(answer["ids"][0, 0].numpy()) == list(range(53))


def test_case_is_kept_where_it_is_asked_for(model, tiny_vocabulary):
    for cased, token in ((False, "ba"), (True, "[UNK]"), (None, "ba")):
        text_model = text_model_of(model, tiny_vocabulary, cased=cased)
        assert (
            text_model.embed(tf.constant(["Ba"]))["token_ids"][0, 1] == tiny_vocabulary.ids[token]
        )


def operations(directory):
    """How often each operation stands in the graph of a SavedModel and in its functions."""
    saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    (graph,) = (meta_graph.graph_def for meta_graph in saved.meta_graphs)
    nodes = [
        *graph.node,
        *(node for function in graph.library.function for node in function.node_def),
    ]
    return collections.Counter(node.op for node in nodes)


def test_no_operation_that_the_serving_image_lacks(exported):
    """TensorFlow Serving's image carries tensorflow-text 2.12, which has these two and lacks
    RoundRobinTrim, for one."""
    counts = operations(exported)
    assert {name for name in counts if not hasattr(tf.raw_ops, name)} == {
        "FastWordpieceTokenizeWithOffsets",
        "NormalizeUTF8",
    }
    # Every part is there once: the tokenizer, and each of the signatures.
    assert (
        counts["FastWordpieceTokenizeWithOffsets"]
        == counts["NormalizeUTF8"]
        == counts["StringSplitV2"]
        == 1
    )


def test_a_graph_that_the_predictor_would_refuse_is_not_written(
    model, tiny_vocabulary, tmp_path, monkeypatch
):
    pretrained = Pretrained.of_model(model, tiny_vocabulary, sequence_length=S)
    fewer = saved_model._OPERATIONS.replace(" Softmax ", " ")
    assert fewer != saved_model._OPERATIONS
    monkeypatch.setattr(saved_model, "_OPERATIONS", fewer)
    with pytest.raises(RuntimeError, match=r"Received: one with Softmax, of a new layer"):
        save(pretrained, tmp_path / "bert")
    assert not list(tmp_path.iterdir())


def test_a_thousand_calls_from_eight_threads(exported, text_model):
    saved = tf.saved_model.load(str(exported))
    texts = [f"{'ba be ' * (number % 11)}[MASK] {'du ' * (number % 7)}" for number in range(77)]
    expected = [
        text_model.fill_mask(tf.constant([text]))["probabilities"].numpy() for text in texts
    ]

    def call(number):
        answer = saved.signatures["fill_mask"](texts=tf.constant([texts[number % 77]]))
        np.testing.assert_allclose(answer["probabilities"], expected[number % 77], atol=1e-5)
        return int(answer["num_masks"][0])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(call, range(1000)))
    assert len(counts) == 1000
    assert set(counts) == {0, 1}  # some are cut off


def test_another_backend_is_refused(model, tiny_vocabulary, tmp_path, monkeypatch):
    pretrained = Pretrained.of_model(model, tiny_vocabulary, sequence_length=S)
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(
        InputError,
        match=r"Expected Keras on TensorFlow, .* Received: jax; set KERAS_BACKEND=tensorflow",
    ):
        save(pretrained, tmp_path / "bert")
    assert not list(tmp_path.iterdir())
