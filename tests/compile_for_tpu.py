"""Compiles training steps for TPUs in a process of its own, and prints a line of JSON for each; the
tests check what it prints.

    python tests/compile_for_tpu.py plan '[{"size": "tiny", "topology": "v5e:2x2", ...}, ...]'
    python tests/compile_for_tpu.py host '["debug.print", ...]'
    python tests/compile_for_tpu.py tensorflow '[{"accumulate": 2, "precision": "bfloat16"}, ...]'
"""

import json
import os
import sys

VOCABULARY_SIZE = 1009
FIELDS = ("batch_size", "optimizer", "precision")
"""Options that are fields of PretrainingConfig; the others belong to `training_plan` or to the
model's size."""


def bert_and_pretraining(options):
    import kbert

    size, dropout = options.pop("size", "tiny"), options.pop("dropout", 0.1)
    bert = kbert.BertConfig.of_size(
        size, vocabulary_size=options.pop("vocabulary_size", VOCABULARY_SIZE), dropout=dropout
    )
    return bert, kbert.PretrainingConfig(
        **{name: options.pop(name) for name in FIELDS if name in options}
    )


def plan(options):
    """The figures of a plan."""
    from kbert.speed.plan import plan_table, training_plan

    bert, pretraining = bert_and_pretraining(options)
    found = training_plan(bert, pretraining, options.pop("topology"), **options)
    names = (
        "chips",
        "argument_bytes",
        "temporary_bytes",
        "memory_bytes",
        "flops",
        "bytes_accessed",
        "model_flops",
    )
    return {name: getattr(found, name) for name in names} | {"table": plan_table(found, steps=1000)}


def host(way):
    """The message for a step that waits for the host."""
    import jax

    import kbert
    from kbert.speed.tpu_compiler import (
        batch_shapes,
        compiled_step,
        topology_devices,
        without_values,
    )
    from kbert.step.objective import compile_model
    from tfrecords import InputError
    from tfrecords.batch import BatchSpec

    class Talkative(kbert.Pretrainer):
        def train_step(self, state, data):
            logs, state = super().train_step(state, data)
            if way == "debug.print":
                jax.debug.print("{x}", x=logs["loss"])
            elif way == "io_callback":
                jax.experimental.io_callback(print, None, logs["loss"])
            else:
                logs["loss"] = jax.pure_callback(
                    float, jax.ShapeDtypeStruct((), "float32"), logs["loss"]
                )
            return logs, state

    bert, pretraining = bert_and_pretraining({"batch_size": 8})

    def new_model():
        model = kbert.pretraining_model(bert)
        model.__class__ = Talkative
        compile_model(model, pretraining)
        return model

    chips = topology_devices("v5e:2x2")
    shapes = batch_shapes(BatchSpec(sequence_length=16, max_predictions=3), 8)
    try:
        compiled_step(without_values(new_model, shapes), shapes, chips)
    except InputError as error:
        return str(error)
    return None


def tensorflow(options):
    """The bytes that each compiled part of TensorFlow's step needs on one chip."""
    import keras
    import tensorflow as tf

    import kbert
    from kbert.step.objective import compile_model
    from kbert.step.tensorflow_step import _shares
    from tfrecords.batch import BatchSpec

    accumulate, batch, length, slots = options.pop("accumulate", 1), 8, 128, 20
    bert, pretraining = bert_and_pretraining(options)
    pack = options.pop("pack", 1)
    model = kbert.pretraining_model(bert, dtype=pretraining.dtype_policy, pack=pack)
    compile_model(model, pretraining, accumulate)
    spec = BatchSpec(sequence_length=length, max_predictions=slots, pack=pack)
    x, y, weight = spec.build(lambda feature, shape: tf.ones(shape, feature.dtype), batch)
    model._symbolic_build(
        data_batch=keras.tree.map_structure(
            lambda one: keras.KerasTensor(one.shape, one.dtype), (x, y, weight)
        )
    )
    replica = tf.distribute.get_replica_context()
    weights, examples, rows = _shares(x, weight, replica)
    whole = (x, y, weight, weights, examples)
    metrics = model._metric_values()
    gradients = [tf.zeros(variable.shape, variable.dtype) for variable in model.trainable_variables]
    parts = {
        "gradients": (
            model._gradients,
            (whole, rows, model.optimizer.iterations.value, metrics, []),
        ),
        "update": (model._update, (gradients, [])),
        "measure": (model._measure, (whole[:4], rows, metrics)),
        # What a TPUStrategy of one core compiles: the same functions, as one.
        "train_step": (
            tf.function(model.train_step, jit_compile=True, autograph=False),
            ((x, y, weight),),
        ),
    }
    return {
        name: compiled_bytes(
            function.experimental_get_compiler_ir(*arguments)(stage="hlo_serialized")
        )
        for name, (function, arguments) in parts.items()
        if name in options.get("parts", parts)
    }


def compiled_bytes(hlo):
    """Compiles a serialized XLA program for one chip; the bytes that it needs there.

    JAX has no public way from HLO to a compiled program of another platform: `ir`, `_jax` and
    `make_ir_context` are private names of jaxlib 0.10."""
    import numpy as np
    from jax._src.interpreters.mlir import make_ir_context
    from jax.experimental import topologies
    from jaxlib import _jax, xla_client
    from jaxlib.mlir import ir

    from kbert.speed.tpu_compiler import check_needs_no_host

    module = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(hlo), context=make_ir_context())
    copies = []

    def collect(operation):
        if operation.name == "mhlo.copy":
            copies.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(collect)
    for copy in copies:  # the identity, which StableHLO has no name for
        copy.results[0].replace_all_uses_with(copy.operands[0])
        copy.erase()
    chip = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[0]
    options = xla_client.CompileOptions()
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([[chip.id]]))
    compiled = chip.client.compile(module, _jax.DeviceList((chip,)), options)
    (program,) = compiled.hlo_modules()
    check_needs_no_host(program.to_string())
    memory = compiled.get_compiled_memory_stats()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes


if __name__ == "__main__":
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    os.environ |= {
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow" if sys.argv[1] == "tensorflow" else "jax",
    }
    work = {"plan": plan, "host": host, "tensorflow": tensorflow}[sys.argv[1]]
    for one in json.loads(sys.argv[2]):
        print(json.dumps(work(one)), flush=True)
