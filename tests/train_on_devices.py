"""Trains on records by one of the ways to share the work out, as a process of its own; the tests
compare what it leaves.

    python tests/train_on_devices.py RECORDS OUTPUT.npz '{"strategy": "mirrored", "accumulate": 2,
    ...}'

OUTPUT.npz gets the mean loss so far after every step, what an evaluation says at the end, and all
weights before and after."""

import json
import os
import sys


def main(records, output, options):
    backend, devices = options.get("backend", "tensorflow"), options.get("devices", 1)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    os.environ |= {"KERAS_BACKEND": backend, "XLA_FLAGS": flags}
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import keras
    import numpy as np
    import tensorflow as tf

    if backend == "tensorflow" and devices > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * devices
        )

    import kbert
    import tfrecords
    from kbert.config import PretrainingConfig
    from kbert.pretraining import train_batches
    from kbert.run.distribution import batches_for, devices_of
    from kbert.run.evaluation import evaluation_batches

    there = devices_of(options.get("strategy", "one"))
    manifest = tfrecords.load_manifest(records)
    pretraining = PretrainingConfig(
        steps=options.get("steps", 50), batch_size=options.get("batch_size", 8), seed=3
    )
    shape = {
        "num_layers": options.get("num_layers", 2),
        "hidden_size": 26,
        "num_heads": 2,
        "intermediate_size": 37,
        "max_positions": 29,
    }
    bert = kbert.BertConfig(
        vocabulary_size=manifest.vocabulary_size, dropout=options.get("dropout", 0.0), **shape
    )
    with there.scope():
        model = kbert.pretraining_model(bert, seed=3, dtype=options.get("dtype", "float32"))
        objective = kbert.pretraining_objective(
            learning_rate=1e-3,
            steps=100,
            warmup_steps=5,
            optimizer=options.get("optimizer", "adamw"),
        )
        objective["optimizer"].global_clipnorm = options.get("clip", 0.1)
        model.compile(
            **objective,
            accumulate=options.get("accumulate", 1),
            jit_compile=options.get("jit_compile", "auto"),
        )
        if "loss_scale" in options:
            model.loss_scale.variables[0].assign(options["loss_scale"])

    losses = []

    class Losses(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.append(float(logs["loss"]))

    initial = {
        f"initial/{variable.path}": variable.numpy() for variable in model.trainable_variables
    }
    history = model.fit(
        batches_for(model, lambda context: train_batches(manifest, pretraining, 0, context)),
        validation_data=evaluation_batches(model, manifest, "validation", pretraining.batch_size),
        steps_per_epoch=pretraining.steps,
        shuffle=False,
        verbose=0,
        callbacks=[Losses()],
    ).history
    if there.is_chief:
        logs = {f"logs/{name}": np.array(values) for name, values in history.items()}
        weights = {variable.path: variable.numpy() for variable in model.trainable_variables}
        np.savez(output, losses=losses, replicas=there.num_replicas, **logs, **weights, **initial)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
