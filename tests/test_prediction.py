"""Answers from a run and from a SavedModel of it."""

import dataclasses
import gc

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import RUN_SETTINGS, random_model, tiny_config
from tensorflow.core.protobuf import saved_model_pb2

from kbert.formats.load_and_save import load, save
from kbert.formats.pretrained import Pretrained
from kbert.formats.text_model import TextModel
from kbert.prediction import Predictor, Word, load_predictor, predictor_of
from kbert.run.checkpoints import save_checkpoint
from kbert.run.directory import Run, load_run
from tfrecords import InputError, Normalization

pytest_plugins = ["model_fixtures"]


@pytest.fixture(scope="module")
def saved_model(tiny_run, tmp_path_factory):
    run = load_run(tiny_run.directory)
    output = tmp_path_factory.mktemp("saved_model") / "bert"
    return save(
        Pretrained.of_model(run.load_model(), run.vocabulary, sequence_length=23, cased=False),
        output,
    )


@pytest.fixture(scope="module")
def predictors(tiny_run, saved_model):
    return [load_predictor(tiny_run.directory), load_predictor(str(saved_model))]


def test_a_run_and_its_saved_model_give_the_same_words(predictors, tiny_vocabulary):
    for text, num_masks in (("ba [MASK] be", 1), ("[MASK]", 1), ("[MASK][MASK] ba é [MASK]", 3)):
        first, second = (predictor.fill_mask(text) for predictor in predictors)
        assert len(first) == len(second) == num_masks
        for one, other in zip(first, second, strict=True):
            assert len(one) == 5
            assert all(isinstance(word, Word) and word.token in tiny_vocabulary.ids for word in one)
            assert [word.token for word in one] == [word.token for word in other]
            probabilities = [word.probability for word in one]
            assert probabilities == sorted(probabilities, reverse=True)
            assert probabilities == pytest.approx([word.probability for word in other], abs=1e-5)
            assert 0 < sum(probabilities) < 1


def test_a_run_and_its_saved_model_give_the_same_next_sentence(predictors):
    for pair in (("ba be", "du"), ("", ""), ("ba " * 100, "du " * 100), ("é", "東京")):
        first, second = (predictor.next_sentence(*pair) for predictor in predictors)
        assert isinstance(first, float)
        assert 0 < first < 1
        assert first == pytest.approx(second, abs=1e-5)


def test_a_model_of_single_segments_fills_masks_alone(tiny_vocabulary, tmp_path):
    run = Run(
        directory=tmp_path / "run",
        bert=tiny_config(num_layers=1),
        pretraining=RUN_SETTINGS,
        sequence_length=23,
        normalization=Normalization(cased=False),
        pairs="none",
        records_sha256="ab" * 32,
    )
    run.claim()
    tiny_vocabulary.save(run.directory / "vocab.txt")
    model = random_model(num_layers=1, pairs="none")
    save_checkpoint(run.checkpoints, model, 7)
    pretrained = Pretrained.of_model(model, tiny_vocabulary, sequence_length=23, cased=False)
    save(pretrained, tmp_path / "bert")
    of_run, of_saved_model = load_predictor(run.directory), load_predictor(tmp_path / "bert")
    for one, other in zip(
        of_run.fill_mask("ba [MASK] be")[0],
        of_saved_model.fill_mask("ba [MASK] be")[0],
        strict=True,
    ):
        assert one.token == other.token
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
    for predictor in (of_run, of_saved_model):
        with pytest.raises(
            InputError,
            match=r"^Expected a model that was trained on sentence pairs\. Received: .*segments\.$",
        ):
            predictor.next_sentence("ba be", "du")


def test_the_answers_are_those_of_the_text_model(predictors, tiny_run):
    text_model = TextModel(load(tiny_run.directory))
    answer = text_model.fill_mask(tf.constant(["ba [MASK] be"]))
    words = predictors[0].fill_mask("ba [MASK] be")[0]
    assert [word.token.encode() for word in words] == answer["tokens"][0, 0].numpy().tolist()
    np.testing.assert_allclose(
        [word.probability for word in words], answer["probabilities"][0, 0], atol=1e-6
    )
    answer = text_model.next_sentence(tf.constant(["ba be"]), tf.constant(["du"]))["probability"]
    assert predictors[0].next_sentence("ba be", "du") == pytest.approx(float(answer[0]), abs=1e-6)


@pytest.mark.parametrize("text", ["ba be", "", "[mask]", "[MASK"])
def test_a_text_without_a_mask_is_refused(predictors, text):
    with pytest.raises(InputError, match=r"Expected a text with \[MASK\] in it\. Received: '"):
        predictors[0].fill_mask(text)


def test_a_mask_beyond_the_length_is_refused(predictors):
    for predictor in predictors:
        with pytest.raises(InputError, match="only in the part cut off"):
            predictor.fill_mask("ba " * 100 + "[MASK]")
        assert len(predictor.fill_mask("[MASK] " + "ba " * 100 + "[MASK]")) == 1


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_what_is_neither_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        InputError,
        match=(
            r"Expected a run by 'kbert pretrain' or a BERT in one of the formats .* at "
            rf".*{name}\. Received: (neither|no such directory)"
        ),
    ):
        load_predictor(tmp_path / name)


def test_a_damaged_saved_model_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\x00garbage")
    with pytest.raises(
        InputError, match=r"Expected a SavedModel at .*\. Received: one that cannot be loaded"
    ) as caught:
        load_predictor(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_saved_model_of_something_else_is_refused(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    with pytest.raises(
        InputError,
        match=r"Expected a SavedModel by 'kbert export' .* Received: one without fill_mask",
    ):
        load_predictor(tmp_path / "other")


class FileWriter(tf.Module):
    """Answers like a TextModel, and writes what it was asked into a file: at once, in a function
    that is called, or in one branch of a condition."""

    def __init__(self, path, way):
        super().__init__()
        self.path, self.way = str(path), way

    @tf.function
    def write(self, texts):
        tf.io.write_file(self.path, texts[0])
        return tf.size(texts)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def fill_mask(self, texts):
        if self.way == "at once":
            tf.io.write_file(self.path, texts[0])
        elif self.way == "called":
            self.write(texts)
        else:
            tf.cond(tf.size(texts) > 0, lambda: self.write(texts), lambda: 0)
        return {"ids": tf.zeros([1, 1, 1], tf.int32)}


@pytest.mark.parametrize("way", ["at once", "called", "in a branch"])
def test_a_saved_model_that_writes_files_is_not_run(tmp_path, way):
    module = FileWriter(tmp_path / "written", way)
    tf.saved_model.save(module, str(tmp_path / "bert"), signatures={"fill_mask": module.fill_mask})
    with pytest.raises(
        InputError,
        match=r"^Expected a SavedModel by 'kbert export' at .* operation WriteFile, .* not run\.",
    ):
        load_predictor(tmp_path / "bert")
    assert not (tmp_path / "written").exists()


def test_a_function_in_disguise_is_followed(tmp_path):
    """A function of the graph may have the name of a harmless operation, and is then called in its
    place."""
    module = FileWriter(tmp_path / "written", "called")
    tf.saved_model.save(module, str(tmp_path / "bert"), signatures={"fill_mask": module.fill_mask})
    path = tmp_path / "bert" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (graph,) = saved.meta_graphs
    library = graph.graph_def.library.function
    called = {node.attr["f"].func.name for function in library for node in function.node_def}
    (writer,) = [
        function
        for function in library
        if function.signature.name in called
        and any(node.op == "WriteFile" for node in function.node_def)
    ]
    for function in library:
        for node in function.node_def:
            if node.attr["f"].func.name == writer.signature.name:
                node.op = "Identity"
                node.attr["f"].func.name = ""
    writer.signature.name = "Identity"
    path.write_bytes(saved.SerializeToString())
    with pytest.raises(InputError, match="operation WriteFile"):
        load_predictor(tmp_path / "bert")


def test_a_saved_model_of_tensorflow_1_is_refused(saved_model, tmp_path):
    """Without Python objects TensorFlow runs what the graph says on loading."""
    saved = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    saved.meta_graphs[0].ClearField("object_graph_def")
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(InputError, match=r"Received: one of TensorFlow 1\."):
        load_predictor(tmp_path)


def test_texts_of_a_stream_are_answered_as_they_come(predictors):
    asked = []

    def texts():
        for text in ("ba [MASK] be", "", "no mask", "[MASK]"):
            asked.append(text)
            yield text

    for predictor in predictors:
        asked.clear()
        answers = predictor.fill_masks(texts())
        assert next(answers) == ("ba [MASK] be", predictor.fill_mask("ba [MASK] be"))
        assert asked == ["ba [MASK] be"]
        rest = [(text, len(words)) for text, words in answers]
        assert rest == [("", 0), ("no mask", 0), ("[MASK]", 1)]


def test_vectors_of_a_stream_are_those_of_each_text(predictors):
    texts = [f"{'ba be ' * (number % 5)}du" for number in range(67)]
    vectors = predictors[0].embed(iter(texts))
    assert vectors.shape == (67, 26)
    for number in (0, 31, 32, 66):
        np.testing.assert_allclose(
            vectors[number], predictors[0].embed([texts[number]])[0], atol=1e-5
        )


def test_a_run_without_a_checkpoint_is_refused(tiny_run, tmp_path):
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).write_bytes((tiny_run.directory / name).read_bytes())
    with pytest.raises(InputError, match=r"Expected a checkpoint in .*\. Received: none yet"):
        load_predictor(tmp_path)


def test_vectors_of_no_texts_and_of_what_is_no_text(predictors):
    for predictor in predictors:
        assert predictor.embed([]).shape == (0, 26)
        np.testing.assert_allclose(
            predictor.embed(["ba \udcff"]), predictor.embed(["ba"]), atol=1e-6
        )
        with pytest.raises(
            InputError, match=r"Expected a pooling among mean, cls, pooler\. Received: 'max'"
        ):
            predictor.embed(["ba"], "max")


def test_a_pooler_that_is_not_there_is_not_asked(tiny_run):
    loaded = load(tiny_run.directory)
    weights = {
        path: value for path, value in loaded.weights.items() if not path.startswith("pooler/")
    }
    with pytest.warns(UserWarning, match="is initialised at random"):
        predictor = predictor_of(dataclasses.replace(loaded, weights=weights))
    assert predictor.embed(["ba"], "cls").shape == (1, 26)
    with pytest.raises(
        InputError,
        match=r"^Expected a model with a trained pooler\. Received: one without it\.$",
    ):
        predictor.embed(["ba"], "pooler")


def test_a_predictor_keeps_its_source_alive(tiny_run):
    predictor = load_predictor(tiny_run.directory)
    assert isinstance(predictor, Predictor)
    gc.collect()
    assert predictor.fill_mask("[MASK]")
