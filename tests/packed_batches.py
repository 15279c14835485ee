"""Unpacked batches packed into rows, plainly, and updates on either; the tests of packed training
compare them.

    python tests/packed_batches.py OUTPUT.npz '{"pack": 3, "devices": 2, "backend": "jax", ...}'

does what `updates` does in a process of its own."""

import json
import os
import sys

import numpy as np

from tfrecords.batch import BatchSpec

S, P = 29, 7
"""Of the packed rows."""

_LISTS = {"token_ids", "segment_ids", "pair_numbers", "positions", "mask_positions", "mlm"}


def packed_into_rows(batch, pack, sequence_length=S, max_predictions=P):
    """The same pairs as (x, y, sample_weight) of packed rows, in order, each in the first row that
    has room for it; and where each pair went.

    Args:
        batch: NumPy arrays as of unpacked records; without "nsp" in y they are single segments.
        pack: K.
        sequence_length: S of the rows, at least that of the longest pair.
        max_predictions: P of the rows.

    Returns:
        The batch, and a list of (row, number of the pair in it from 0, slots of its masks).
    """
    x, y, sample_weight = batch
    rows, places = [], []
    for pair, length in enumerate(x["padding_mask"].sum(axis=1)):
        in_use = np.flatnonzero(sample_weight["mlm"][pair])

        with_room = [
            row
            for row in rows
            if len(row["cls_positions"]) < pack
            and len(row["token_ids"]) + length <= sequence_length
            and len(row["mlm"]) + len(in_use) <= max_predictions
        ]
        if not with_room:
            with_room = [{name: [] for name in (*_LISTS, "cls_positions", "nsp")}]
            rows += with_room
        row = with_room[0]
        start, number = len(row["token_ids"]), len(row["cls_positions"])
        slots = len(row["mlm"]) + np.arange(len(in_use))
        places.append((next(i for i, one in enumerate(rows) if one is row), number, slots))
        for name in ("token_ids", "segment_ids"):
            row[name] += x[name][pair, :length].tolist()
        row["pair_numbers"] += [number + 1] * length
        row["positions"] += range(length)
        row["mask_positions"] += (start + x["mask_positions"][pair, in_use]).tolist()
        row["mlm"] += y["mlm"][pair, in_use].tolist()
        row["cls_positions"].append(start)
        row["nsp"].append(int(y["nsp"][pair]) if "nsp" in y else 0)
    spec = BatchSpec(
        sequence_length=sequence_length,
        max_predictions=max_predictions,
        pairs="nsp" if "nsp" in y else "none",
        pack=pack,
    )
    sizes = {"S": sequence_length, "P": max_predictions, "K": pack}
    values = {}
    for feature in spec.features:
        lists = [row[feature.name] for row in rows]
        if feature.part == "sample_weight":
            lists = [[1] * len(one) for one in lists]
        size = sizes[feature.axes[1]]
        values[feature.part, feature.name] = [one + [0] * (size - len(one)) for one in lists]
    return spec.arrays(values, len(rows)), places


def pairs_to_pack(seed=1):
    """A batch of 12 pairs that six rows of up to three hold."""
    from model_fixtures import random_batch

    return random_batch(seed, batch_size=12)


def updates(
    pack=1, strategy="one", accumulate=1, recompute=False, steps=2, dtype="float32", seed=3
):
    """The logs of some updates on `pairs_to_pack`, packed or not, and of an evaluation, and the
    weights at the end, in one dict of arrays by name; those of the chief.

    With plain gradient descent and a rate of 1, an update is the gradient."""
    import keras
    import tensorflow as tf
    from model_fixtures import randomize, tiny_config

    from kbert.model.bert import pretraining_model
    from kbert.run.distribution import batches_for, devices_of
    from kbert.step.objective import pretraining_objective

    devices = devices_of(strategy)
    batch = pairs_to_pack()
    if pack > 1:
        batch, _ = packed_into_rows(batch, pack)
    rows = len(batch[0]["token_ids"])
    with devices.scope():
        model = pretraining_model(
            tiny_config(dropout=0.0), seed=seed, dtype=dtype, recompute=recompute, pack=pack
        )
        randomize(model.trainable_variables, seed=seed, scale=0.1)
        objective = pretraining_objective(steps=10) | {"optimizer": keras.optimizers.SGD(1.0)}
        # On JAX the step is compiled always.
        model.compile(**objective, accumulate=accumulate, jit_compile=_backend() == "jax")

    def make(context):
        pipelines = 1 if context is None else context.num_input_pipelines
        share = rows // pipelines
        start = share * (0 if context is None else context.input_pipeline_id)
        own = keras.tree.map_structure(lambda one: one[start : start + share], batch)
        parts = 1 if context is None else context.num_replicas_in_sync // pipelines
        return tf.data.Dataset.from_tensor_slices(own).batch(share // parts, drop_remainder=True)

    options = {"steps_per_epoch": 1, "epochs": steps, "shuffle": False, "verbose": 0}
    batches = batches_for(model, lambda context: make(context).repeat())
    logs = model.fit(batches, **options).history
    measured = model.evaluate(batches_for(model, make), return_dict=True, verbose=0)
    logs |= {f"val_{name}": value for name, value in measured.items()}
    arrays = {f"logs/{name}": np.array(values) for name, values in logs.items()}
    arrays |= {variable.path: np.array(variable) for variable in model.trainable_variables}
    return (arrays | {"replicas": np.array(devices.num_replicas)}) if devices.is_chief else {}


def _backend():
    import keras

    return keras.backend.backend()


def main(output, options):
    devices = options.pop("devices", 1)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    os.environ |= {
        "KERAS_BACKEND": options.pop("backend", "tensorflow"),
        "CUDA_VISIBLE_DEVICES": "-1",
        "XLA_FLAGS": flags,
    }
    import tensorflow as tf

    if devices > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        logical = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(cpu, logical)
    np.savez(output, **updates(**options))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
