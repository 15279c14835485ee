"""The training step: the same on one device and on many, in one part and in several, compiled or
not, on both backends."""

import ast
import json
import os
import pathlib
import socket
import subprocess
import sys

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import ROOT, random_batch, randomize, tiny_config, values_of

from kbert.model.bert import pretraining_model
from kbert.step.micro_batches import split_batch
from kbert.step.objective import balanced_weights, pretraining_objective, weight_sums
from kbert.step.optimizers import BertAdamW
from kbert.step.pretrainer import Pretrainer
from kbert.step.tensorflow_step import _local_updates

pytest_plugins = ["model_fixtures"]

LEARNING_RATE = 0.005
"""At which the rounding of small gradients, which Adam divides by their own size, stays below the
tolerance on every processor: at 0.01 an eager step was 1.1e-5 off on one."""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Trainings:
    """Runs train_on_devices.py, each set of options once."""

    def __init__(self, records, directory):
        self._records = records
        self._directory = directory
        self._done = {}

    def __call__(self, **options):
        key = json.dumps(options, sort_keys=True)
        if key not in self._done:
            output = self._directory / f"{len(self._done)}.npz"
            command = [ROOT / "tests" / "train_on_devices.py", self._records, output, key]
            if options.get("strategy") == "multi-worker":
                self._train_together(command)
            else:
                done = forked.run(*command, backend=options.get("backend", "tensorflow"))
                assert done.returncode == 0, done.stderr[-3000:]
            with np.load(output) as values:
                self._done[key] = dict(values)
        return self._done[key]

    @staticmethod
    def _train_together(command):
        workers = [f"localhost:{port}" for port in free_ports(2)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        processes = []
        for index in range(2):
            cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            processes.append(
                subprocess.Popen(
                    [sys.executable, *map(str, command)],
                    env=environment | {"TF_CONFIG": json.dumps(cluster)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        said = [process.communicate(timeout=300)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], said[0][-3000:]


@pytest.fixture(scope="module")
def train(tiny_records, tmp_path_factory):
    return Trainings(tiny_records, tmp_path_factory.mktemp("trainings"))


def assert_same_training(one, other, atol=1e-5):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if name.startswith("initial/"):
            np.testing.assert_array_equal(other[name], value, err_msg=name)
        elif name != "replicas" and not name.startswith("logs/"):
            np.testing.assert_allclose(other[name], value, atol=atol, err_msg=name)
    for name in (
        "loss",
        "mlm_cross_entropy",
        "mlm_accuracy",
        "nsp_cross_entropy",
        "val_loss",
        "val_mlm_cross_entropy",
    ):
        np.testing.assert_allclose(
            other[f"logs/{name}"], one[f"logs/{name}"], atol=atol, err_msg=name
        )


@pytest.mark.long
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 4},
        {"strategy": "mirrored", "devices": 2},
        {"strategy": "mirrored", "devices": 2, "accumulate": 2},
        {"strategy": "multi-worker", "accumulate": 2},
    ],
    ids=["accumulation", "mirrored", "mirrored-accumulation", "multi-worker-accumulation"],
)
def test_fifty_steps_are_the_same_however_they_are_shared_out(train, options, dropout):
    one = train(dropout=dropout)
    assert len(one["losses"]) == 50
    assert one["losses"][-1] < one["losses"][0] - 0.3
    other = train(dropout=dropout, **options)
    assert other["replicas"] == (1 if "strategy" not in options else 2)
    assert_same_training(one, other)


SOME_STEPS = {"dropout": 0.3, "jit_compile": False, "steps": 10, "num_layers": 1}


@pytest.mark.long
def test_some_steps_are_the_same_without_xla_too(train):
    other = train(**SOME_STEPS, strategy="mirrored", devices=2, accumulate=2)
    assert other["replicas"] == 2
    assert_same_training(train(**SOME_STEPS), other)


@pytest.mark.long
def test_clipping_and_dropout_have_a_part_in_those_fifty_steps(train):
    one, unclipped, dropped = train(dropout=0.0), train(dropout=0.0, clip=100.0), train(dropout=0.3)
    for other in (unclipped, dropped):
        assert np.abs(one["losses"] - other["losses"]).max() > 1e-3


@pytest.mark.long
def test_lamb_is_shared_out_too(train):
    assert_same_training(
        train(optimizer="lamb", steps=10),
        train(optimizer="lamb", steps=10, strategy="mirrored", devices=2, accumulate=2),
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "mirrored", "devices": 2, "accumulate": 2},
        {"backend": "jax"},
        {"backend": "jax", "strategy": "mirrored", "devices": 2},
    ],
    ids=str,
)
def test_float16_skips_the_same_updates_however_they_are_shared_out(train, options):
    """Its first scale is too large, so that it skips some."""
    half = {"dropout": 0.3, "dtype": "mixed_float16", "loss_scale": 2.0**24}
    one, other = train(**half), train(**half, **options)
    assert 0 < one["logs/skipped_updates"][-1] < 15
    for name in ("loss_scale", "skipped_updates"):
        np.testing.assert_array_equal(other[f"logs/{name}"], one[f"logs/{name}"])
    np.testing.assert_allclose(other["losses"], one["losses"], atol=0.01)


@pytest.mark.long
def test_jax_trains_as_tensorflow_does_without_xla(train):
    one = train(**SOME_STEPS)
    other = train(**(SOME_STEPS | {"backend": "jax", "jit_compile": "auto"}))
    assert_same_training(one, other, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    "options", [{}, {"devices": 2, "strategy": "mirrored"}, {"accumulate": 2}], ids=str
)
def test_jax_trains_as_tensorflow_does(train, options):
    one = train(dropout=0.3)
    other = train(dropout=0.3, backend="jax", **options)
    assert other["replicas"] == (2 if options.get("devices") else 1)
    assert_same_training(one, other, atol=1e-4)


def compiled_model(
    accumulate=1,
    jit_compile=False,
    run_eagerly=False,
    dropout=0.3,
    recompute=False,
    num_layers=2,
):
    bert = tiny_config(num_layers=num_layers, dropout=dropout)
    model = pretraining_model(bert, seed=7, recompute=recompute)
    randomize(model.trainable_variables, seed=3, scale=0.1)
    model.compile(
        **pretraining_objective(learning_rate=LEARNING_RATE, steps=10, warmup_steps=0),
        accumulate=accumulate,
        jit_compile=jit_compile,
        run_eagerly=run_eagerly,
    )
    return model


def three_steps(model):
    """The logs of three updates, and the weights after them."""
    batches = [random_batch(seed, batch_size=6) for seed in range(3)]
    logs = [model.train_on_batch(*batch, return_dict=True) for batch in batches]
    return logs, values_of(model.trainable_variables)


@pytest.fixture(scope="module")
def three_steps_by_xla():
    return three_steps(compiled_model(jit_compile=True))


@pytest.mark.parametrize(
    "options",
    [
        {"jit_compile": False},
        pytest.param({"run_eagerly": True}, marks=pytest.mark.long),
        {"accumulate": 3, "run_eagerly": True},
        pytest.param({"recompute": True, "jit_compile": True}, marks=pytest.mark.long),
        pytest.param(
            {"recompute": True, "jit_compile": True, "accumulate": 2}, marks=pytest.mark.long
        ),
        {"recompute": True, "jit_compile": False},
    ],
    ids=str,
)
def test_a_step_is_the_same_without_xla_eagerly_and_with_activations_worked_out_twice(
    three_steps_by_xla, options
):
    logs, weights = three_steps(compiled_model(**options))
    for one, other in zip(three_steps_by_xla[0], logs, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    for path, value in three_steps_by_xla[1].items():
        np.testing.assert_allclose(weights[path], value, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_the_norm_of_large_gradients_is_exact(jit_compile):
    draw = np.random.default_rng(3)
    gradients = [draw.standard_normal(shape, np.float32) for shape in ((30_522, 256), (1_003,), ())]
    norm = np.sqrt(sum(np.square(one, dtype=np.float64).sum() for one in gradients))
    optimizer = BertAdamW(1e-3, global_clipnorm=0.5)
    with _local_updates(optimizer):
        clip = tf.function(optimizer._clip_gradients, jit_compile=jit_compile)
        clipped = clip(list(map(tf.constant, gradients)))
    for one, other in zip(clipped, gradients, strict=True):
        np.testing.assert_allclose(one, other * (0.5 / norm), rtol=3e-6)


@pytest.mark.usefixtures("eager_steps")
def test_the_gradient_is_that_of_the_sums_over_the_whole_batch():
    # Against TensorFlow's own tape over the losses written out, without anything of Keras' trainer.
    x, y, weight = random_batch(batch_size=6)
    model = compiled_model(accumulate=2, dropout=0.0)
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        mlm = tf.nn.sparse_softmax_cross_entropy_with_logits(y["mlm"], logits["mlm"])
        nsp = tf.nn.sparse_softmax_cross_entropy_with_logits(y["nsp"], logits["nsp"])
        loss = tf.reduce_sum(mlm * weight["mlm"]) / weight["mlm"].sum() + tf.reduce_mean(nsp)
    variables = model.trainable_variables
    gradients = [tf.convert_to_tensor(one).numpy() for one in tape.gradient(loss, variables)]
    norm = np.sqrt(sum((one.astype(np.float64) ** 2).sum() for one in gradients))
    expected = {}
    for variable, gradient in zip(variables, gradients, strict=True):
        gradient = np.float64(gradient) / max(1.0, norm)
        update = 0.1 * gradient / (np.sqrt(0.001 * gradient**2) + 1e-6)
        decay = 0.0 if variable.name in ("bias", "gamma", "beta") else 0.01
        value = np.float64(variable.numpy())
        expected[variable.path] = value - LEARNING_RATE * (update + decay * value)
    logs = model.train_on_batch(x, y, weight, return_dict=True)
    assert logs["loss"] == pytest.approx(float(loss), abs=1e-5)
    for variable in variables:
        np.testing.assert_allclose(
            variable.numpy(), expected[variable.path], atol=2e-4, err_msg=variable.path
        )


@pytest.mark.long
def test_activations_that_are_worked_out_twice_are_not_kept():
    # XLA would find the same computation twice and keep its result, if it were not told otherwise.
    def matrix_products(recompute):
        model = pretraining_model(tiny_config(num_layers=2, dropout=0.3), recompute=recompute)
        model.compile(**pretraining_objective(steps=10))
        x, y, weight = random_batch()
        model.train_on_batch(x, y, weight)  # builds the metrics
        examples = np.arange(5, dtype=np.int32)
        arguments = keras.tree.map_structure(
            tf.constant, ((x, y, weight, weight, examples), 5.0, 0)
        )
        by_xla = tf.function(model._gradients_of_batch, jit_compile=True, autograph=False)
        hlo = by_xla.experimental_get_compiler_ir(*arguments, model._metric_values(), [])(
            "optimized_hlo"
        )
        return hlo.count(" dot(")

    # Each of the products in a block that go forward is there once more: six, and seven in the
    # last, whose queries are of fewer rows than its keys and values.
    assert matrix_products(True) == matrix_products(False) + 6 + 7


@pytest.mark.usefixtures("eager_steps")
def test_a_batch_without_a_masked_token_has_no_loss_of_them():
    x, y, weight = random_batch()
    model = compiled_model()
    logs = model.train_on_batch(
        x, y, weight | {"mlm": np.zeros_like(weight["mlm"])}, return_dict=True
    )
    assert logs["mlm_loss"] == 0.0
    assert np.isfinite(logs["loss"])
    assert all(np.isfinite(variable.numpy()).all() for variable in model.trainable_variables)


def test_balanced_weights_are_of_the_whole_batch():
    weight = {
        "mlm": np.array([[1, 1, 0], [1, 0, 0]], np.float32),
        "nsp": np.array([1, 1], np.float32),
    }
    alone = balanced_weights(weight)
    np.testing.assert_array_equal(alone["mlm"], [[2, 2, 0], [2, 0, 0]])
    np.testing.assert_array_equal(alone["nsp"], [1, 1])
    # Another replica has six masked tokens where this one has three: 12 slots of weight 9.
    sums = weight_sums(weight)
    np.testing.assert_array_equal(sums, [3, 2])
    shared = balanced_weights(weight, sums + np.array([6, 2], np.float32), replicas=2)
    np.testing.assert_allclose(shared["mlm"], np.array([[1, 1, 0], [1, 0, 0]]) * 12 / 9, rtol=1e-6)
    np.testing.assert_array_equal(shared["nsp"], [1, 1])
    assert balanced_weights(None) is None
    # As lists, as one array for all outputs, and with outputs that have none.
    listed = balanced_weights([weight["mlm"], None])
    np.testing.assert_array_equal(listed[0], alone["mlm"])
    assert listed[1] is None
    np.testing.assert_array_equal(balanced_weights(weight["mlm"]), alone["mlm"])


def test_micro_batches_take_turns_in_the_rows():
    batch = {"x": tf.reshape(tf.range(12), [6, 2]), "y": None}
    parts = split_batch(batch, 3)
    np.testing.assert_array_equal(
        parts["x"], [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]
    )
    assert parts["y"] is None


def test_a_batch_that_micro_batches_cannot_share_is_refused(refused):
    with refused(
        r"Expected a batch that 4 micro-batches share evenly\. Received: 6 rows on a device; take "
        r"8\."
    ):
        split_batch(np.zeros((6, 2)), 4)
    model = compiled_model(accumulate=4)
    with refused("share evenly"):
        model.train_on_batch(*random_batch(batch_size=6))


@pytest.mark.parametrize(
    "options",
    [{"gradient_accumulation_steps": 2}, {"use_ema": True}, {"loss_scale_factor": 2.0}],
    ids=lambda one: next(iter(one)),
)
def test_what_differs_between_devices_is_refused(options, refused):
    model = pretraining_model(tiny_config(num_layers=1))
    with refused(f"Expected an optimizer without {next(iter(options))}"):
        model.compile(optimizer=keras.optimizers.Adam(**options), loss={"mlm": None, "nsp": None})
    with refused("Expected at least 1 micro-batch"):
        model.compile(accumulate=0)


def test_any_optimizer_and_loss_of_keras_will_do():
    x, y, weight = random_batch()
    model = pretraining_model(tiny_config(num_layers=1))
    plain = {
        name: keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        for name in ("mlm", "nsp")
    }
    model.compile(
        optimizer=keras.optimizers.Adam(0.01, clipnorm=1.0),
        loss=plain,
        loss_weights={"mlm": 1.0, "nsp": 0.5},
    )
    losses = [model.train_on_batch(x, y, weight, return_dict=True)["loss"] for _ in range(20)]
    assert losses[-1] < losses[0] - 1
    model.compile(optimizer="sgd", loss=plain)
    assert np.isfinite(model.train_on_batch(x, y)).all()  # without weights


@pytest.mark.usefixtures("eager_steps")
@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # of Keras, with NumPy 2
def test_a_pretrainer_is_saved_and_loaded_as_any_keras_model(tmp_path):
    model = compiled_model(dropout=0.0)
    batch = random_batch()
    model.train_on_batch(*batch)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, Pretrainer)
    for name, value in model.predict_on_batch(batch[0]).items():
        np.testing.assert_array_equal(loaded.predict_on_batch(batch[0])[name], value)
    assert loaded.train_on_batch(*batch) == pytest.approx(model.train_on_batch(*batch), abs=1e-6)


@pytest.mark.long
def test_steps_per_execution_makes_no_difference():
    batches = [random_batch(seed, batch_size=6) for seed in range(4)]
    dataset = tf.data.Dataset.from_tensors(batches[0])
    for batch in batches[1:]:
        dataset = dataset.concatenate(tf.data.Dataset.from_tensors(batch))
    one, several = compiled_model(num_layers=1), compiled_model(num_layers=1)
    several.steps_per_execution = 2
    for model in (one, several):
        model.fit(dataset, verbose=0, shuffle=False)
    for path, value in values_of(one.trainable_variables).items():
        np.testing.assert_allclose(
            values_of(several.trainable_variables)[path], value, atol=1e-6, err_msg=path
        )


@pytest.fixture(scope="module", params=["tensorflow", "jax"])
def beside_keras(request):
    """What pretrainer_beside_keras.py says of each of its cases, on one backend."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "pretrainer_beside_keras.py")],
        env=os.environ
        | {
            "KERAS_BACKEND": request.param,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_what_keras_takes_gives_what_keras_gives(beside_keras):
    refused = {
        "labels_of_another_shape": "Expected labels of shape (6, 3), one for each row of the "
        "logits (6, 3, 11). Received: (6,).",
        "weights_of_another_shape": "Expected weights of shape (6, 3), one for each row of the "
        "logits (6, 3, 11). Received: (6,).",
        "a_sum_as_loss": "Expected losses with reduction='sum_over_batch_size', means over the "
        "batch. Received: MeanSquaredError with reduction='sum'.",
        "another_name": "Expected the inputs rows, slots. Received: other, slots.",
        "a_name_too_many": "Expected the inputs rows, slots. Received: rows, sloth, slots.",
    }
    assert {name: beside_keras.pop(name) for name in refused} == refused
    for name, what in {
        "half_precision": "Expected layers with float32 weights. Received: float16",
        "optimizer LossScaleOptimizer": "Expected an optimizer without inner_optimizer",
        "optimizer MultiOptimizer": "Expected one optimizer for all variables",
        "two devices, eagerly": "Expected run_eagerly=False on several devices",
    }.items():
        # The cases of two devices are TensorFlow's alone.
        assert beside_keras.pop(name, what if "devices" in name else "").startswith(what)
    schedule_free = beside_keras.pop("optimizer ScheduleFreeAdamW")
    if isinstance(schedule_free, str):  # on TensorFlow
        assert schedule_free.startswith("Expected another optimizer than ScheduleFreeAdamW")
    else:
        assert schedule_free == pytest.approx(0.0, abs=1e-5)
    assert {"column_labels", "no_weights", "regularizer_and_constraint"} <= beside_keras.keys()
    assert {"optimizer Adam", "optimizer Nadam", "optimizer Muon"} <= beside_keras.keys()
    assert beside_keras == pytest.approx(dict.fromkeys(beside_keras, 0.0), abs=1e-5)


KERAS_INTERNALS = {
    "backend/jax/trainer.py": {
        "JAXTrainer": {
            "compute_loss_and_updates",
            "train_step",
            "test_step",
            "_get_jax_state",
            "_update_metrics_variables",
        }
    },
    "backend/tensorflow/trainer.py": {
        "TensorFlowTrainer": {
            "train_step",
            "test_step",
            "_make_function",
            "_maybe_symbolic_build",
        },
        "TFEpochIterator": {"_distributed_dataset"},
        "": {"reduce_per_replica"},
    },
    "trainers/trainer.py": {
        "Trainer": {
            "compute_loss",
            "compute_metrics",
            "get_metrics_result",
            "_loss_tracker",
            "_symbolic_build",
        }
    },
    "layers/layer.py": {"Layer": {"_get_regularization_losses"}},
    "models/functional.py": {"Functional": {"_standardize_inputs"}},
    "optimizers/base_optimizer.py": {
        "BaseOptimizer": {
            "stateless_apply",
            "_apply_weight_decay",
            "_backend_apply_gradients",
            "_clip_gradients",
            "_backend_update_step",
            "_get_variable_index",
        }
    },
    "backend/tensorflow/optimizer.py": {
        "TFOptimizer": {"_apply_weight_decay", "_backend_update_step"}
    },
    "optimizers/adam.py": {"Adam": {"_momentums", "_velocities"}},
}
"""What kbert overrides or uses of Keras beyond what Keras documents, by file, class and name."""

HUB_INTERNALS = {"_intermediate_dense", "_intermediate_layer_norm"}
"""The same of KerasHub's MaskedLMHead."""

TENSORFLOW_INTERNALS = {"_value_specs"}
"""The same of TensorFlow's specification of what replicas get."""


def moved(what):
    pytest.fail(f"Keras moved {what}; see CONTRIBUTING.md, recipe 6", pytrace=False)


def names_in(file, kind):
    """The names that a class in a file of Keras defines, as methods or attributes of self; of the
    module for ""."""
    path = pathlib.Path(keras.__file__).parent / "src" / file
    if not path.is_file():
        moved(f"the file keras/src/{file}")
    tree = ast.parse(path.read_text())
    if kind:
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        if kind not in classes:
            moved(f"the class {kind} of keras/src/{file}")
        tree = classes[kind]
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return names | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


@pytest.mark.parametrize("file", KERAS_INTERNALS)
def test_keras_still_has_what_is_overridden_or_used_here(file):
    # Where Keras changes one of these, this says so: read the file, and what uses it in kbert.
    for kind, names in KERAS_INTERNALS[file].items():
        if gone := sorted(names - names_in(file, kind)):
            moved(f"{', '.join(gone)} of {kind or 'the file'} in keras/src/{file}")


@pytest.mark.parametrize(
    ("file", "kind", "what"),
    [
        ("trainers/no_such.py", "Trainer", "the file keras/src/trainers/no_such.py"),
        ("trainers/trainer.py", "Coach", "the class Coach of keras/src/trainers/trainer.py"),
    ],
)
def test_what_keras_moved_is_named(file, kind, what):
    with pytest.raises(pytest.fail.Exception, match=rf"^Keras moved {what}; see CONTRIBUTING\.md"):
        names_in(file, kind)


def test_keras_hub_and_tensorflow_still_have_what_is_used_here():
    import keras_hub
    from tensorflow.python.distribute import values

    head = keras_hub.layers.MaskedLMHead(vocabulary_size=7)
    head.build((None, 5, 4))
    assert all(hasattr(head, name) for name in HUB_INTERNALS)
    assert "_value_specs" in values.PerReplicaSpec.__slots__


def test_every_internal_that_is_used_is_in_those_lists():
    used, own, imported = set(), set(), set()
    for path in (ROOT / "kbert").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                used.add(node.attr)
            elif isinstance(node, ast.Attribute):
                own.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.ImportFrom) and ".src." in f"{node.module}.":
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Constant) and node.value in TENSORFLOW_INTERNALS:
                used.add(node.value)  # getattr
    private = {name for name in used - own if name[0] == "_" and name[1] != "_"}
    listed = {
        name for kinds in KERAS_INTERNALS.values() for names in kinds.values() for name in names
    }
    assert private <= listed | HUB_INTERNALS | TENSORFLOW_INTERNALS
    assert private >= HUB_INTERNALS | TENSORFLOW_INTERNALS
    assert imported == {
        "keras.src.optimizers.base_optimizer.BaseOptimizer",
        "keras.src.backend.tensorflow.optimizer.TFOptimizer",
    }
