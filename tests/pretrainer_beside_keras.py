"""Trains the same small model as a Pretrainer and as a plain keras.Model, or on one device and on
two, in a process with the backend that KERAS_BACKEND names; the tests look at what it prints.

    python tests/pretrainer_beside_keras.py

The last line is JSON: for each case what came of it, a number (the largest difference between the
two in losses and weights), or the message it was refused with."""

import functools
import json
import os
import sys
import time

import keras
import numpy as np

from kbert.step.objective import pretraining_objective
from kbert.step.pretrainer import Pretrainer

ROWS, SLOTS, CLASSES = 6, 3, 11


def batch(rows=ROWS):
    """(x, y, sample_weight) for `model`."""
    draw = np.random.default_rng(0)
    x = {
        "slots": draw.standard_normal((rows, SLOTS, CLASSES)).astype("float32"),
        "rows": draw.standard_normal((rows, 2)).astype("float32"),
    }
    y = {"mlm": draw.integers(0, CLASSES, (rows, SLOTS)), "nsp": draw.integers(0, 2, rows)}
    weights = {"mlm": draw.integers(0, 2, (rows, SLOTS)), "nsp": np.ones(rows)}
    return x, y, {name: values.astype("float32") for name, values in weights.items()}


def model(kind=Pretrainer, **options):
    """A linear model with the outputs mlm and nsp; the options are of its dense layers."""
    inputs = {
        "slots": keras.Input((None, CLASSES), name="slots"),
        "rows": keras.Input((2,), name="rows"),
    }

    def dense(name, values):
        start = keras.initializers.RandomNormal(seed=1)
        units = values.shape[-1]
        return keras.layers.Dense(units, kernel_initializer=start, name=name, **options)(values)

    outputs = {"mlm": dense("mlm", inputs["slots"]), "nsp": dense("nsp", inputs["rows"])}
    return kind(inputs, outputs)


def ours(rows=ROWS, **options):
    made = model()
    made.compile(**pretraining_objective(steps=10, warmup_steps=0, learning_rate=0.1), **options)
    return made


def plain_losses():
    return {
        name: keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        for name in ("mlm", "nsp")
    }


def difference(one, other):
    return max(
        float(np.abs(np.asarray(a, "float64") - np.asarray(b, "float64")).max())
        for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    )


def logs(x, y, weights=None, made=None):
    return (ours() if made is None else made).train_on_batch(x, y, weights, return_dict=True)


def column_labels():
    x, y, weights = batch()
    columns = [values | {"nsp": values["nsp"][:, None]} for values in (y, weights)]
    expected = logs(x, y, weights)
    return max(
        difference(expected, logs(x, columns[0], weights)),
        difference(expected, logs(x, *columns)),
    )


def labels_of_another_shape():
    x, y, weights = batch()
    return logs(x, y | {"mlm": y["mlm"][:, 0]}, weights)


def weights_of_another_shape():
    x, y, weights = batch()
    return logs(x, y, weights | {"mlm": weights["nsp"]})


def no_weights():
    x, y, weights = batch()
    ones = {name: np.ones_like(values) for name, values in weights.items()}
    expected = logs(x, y, ones)
    return max(
        difference(expected, logs(x, y)),
        difference(expected, logs(x, y, {"mlm": None, "nsp": ones["nsp"]})),
    )


def weights_of_lists_and_of_one_output():
    draw = np.random.default_rng(0)
    x = [draw.standard_normal((ROWS, 2)).astype("float32") for _ in range(2)]
    y = [draw.integers(0, 2, ROWS) for _ in range(2)]
    ones = np.ones(ROWS, "float32")

    def losses(kind, outputs, weights):
        start = keras.initializers.RandomNormal(seed=1)
        inputs = [keras.Input((2,)) for _ in range(outputs)]
        dense = [keras.layers.Dense(2, kernel_initializer=start)(values) for values in inputs]
        made = kind(inputs, dense) if outputs > 1 else kind(inputs[0], dense[0])
        made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        data = (x, y) if outputs > 1 else (x[0], y[0])
        return [made.train_on_batch(*data, weights) for _ in range(2)]

    return max(
        difference(losses(Pretrainer, outputs, given), losses(keras.Model, outputs, given))
        for outputs, weights in ((2, (None, ones, [ones, ones])), (1, (None, ones)))
        for given in weights
    )


def beside_plain(optimizer, **options):
    """Three updates without weights, as a Pretrainer and as a keras.Model."""
    x, y, _ = batch()
    outcomes = []
    for kind in (Pretrainer, keras.Model):
        made = model(kind, **options)
        # Without XLA, which on TensorFlow takes most of the time of all optimizers.
        made.compile(optimizer(), plain_losses(), jit_compile=False)
        losses = [float(made.train_on_batch(x, y)[0]) for _ in range(3)]
        outcomes.append((losses, [variable.numpy() for variable in made.trainable_variables]))
    return difference(*outcomes)


def optimizers():
    """Makers of every optimizer of Keras, by name."""

    def several():
        one = keras.optimizers.SGD()
        return keras.optimizers.MultiOptimizer(lambda variable: one)

    def plain(kind):
        return lambda: kind(0.05, weight_decay=0.1)

    base = keras.optimizers.Optimizer
    kinds = [kind for kind in vars(keras.optimizers).values() if isinstance(kind, type)]
    makers = {
        kind.__name__: plain(kind) for kind in kinds if issubclass(kind, base) and kind is not base
    }
    return makers | {
        "LossScaleOptimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
        "MultiOptimizer": several,
    }


def regularizer_and_constraint():
    return beside_plain(
        lambda: keras.optimizers.SGD(0.5),
        kernel_regularizer=keras.regularizers.L2(0.1),
        kernel_constraint=keras.constraints.MaxNorm(0.05),
    )


def a_sum_as_loss():
    losses = plain_losses() | {"nsp": keras.losses.MeanSquaredError(reduction="sum")}
    model().compile("sgd", losses)


def another_name():
    x, y, _ = batch()
    return logs({"slots": x["slots"], "other": x["rows"]}, y)


def a_name_too_many():
    x, _, _ = batch()
    return ours().predict_on_batch(x | {"sloth": x["rows"]})


def half_precision():
    model(dtype="float16").compile("sgd", plain_losses())


def on_two_devices(rows, **options):
    """An epoch in batches of 4 on one device and on two: the difference between their weights,
    metrics and reported losses."""
    import tensorflow as tf

    outcomes = []
    for strategy in (None, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
        with strategy.scope() if strategy else tf.init_scope():
            made = ours(**options)
        dataset = tf.data.Dataset.from_tensor_slices(batch(rows)).batch(4)
        history = made.fit(dataset, shuffle=False, verbose=0).history
        exact = [history[name][0] for name in ("mlm_cross_entropy", "nsp_cross_entropy", "loss")]
        outcomes.append((exact, [variable.numpy() for variable in made.trainable_variables]))
    return difference(*outcomes)


CASES = (
    column_labels,
    labels_of_another_shape,
    weights_of_another_shape,
    no_weights,
    weights_of_lists_and_of_one_output,
    regularizer_and_constraint,
    a_sum_as_loss,
    another_name,
    a_name_too_many,
    half_precision,
)


def main():
    cases = {case.__name__: case for case in CASES}
    for name, make in optimizers().items():
        cases[f"optimizer {name}"] = functools.partial(beside_plain, make)
    if keras.backend.backend() == "tensorflow":
        for rows in (8, 7, 5):
            cases[f"two devices, {rows} rows"] = functools.partial(on_two_devices, rows)
        cases["two devices, eagerly"] = functools.partial(on_two_devices, 7, run_eagerly=True)
    outcomes = {}
    for name, case in cases.items():
        began = time.monotonic()
        try:
            outcomes[name] = case()
        except ValueError as error:  # an InputError is one too
            outcomes[name] = str(error).strip()
        print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    print(json.dumps(outcomes, default=str))


if __name__ == "__main__":
    if os.environ.get("KERAS_BACKEND") == "tensorflow":
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
    main()
