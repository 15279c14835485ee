"""The candidates of `benchmarks.training`: each trains the same model on the same batches.

Each is a function of the arguments and the batches, which it takes in turn, that returns a
Training. None imports more than it needs, since the memory of its process counts."""

from __future__ import annotations

import argparse
import itertools
import pathlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.batches import Arrays
from kbert.config import BertConfig, PretrainingConfig

if TYPE_CHECKING:
    import keras
    import numpy as np

OURS = "kbert"
LEARNING_RATE = 1e-4
NOT_MASKED = -100
"""The label that `transformers` leaves out of its loss."""


class Training(NamedTuple):
    """A candidate that is ready to train."""

    train: Callable[[int], float]
    """Trains for a number of steps, from the first batch on, and returns the mean loss."""
    peak_memory: Callable[[], int]
    """The most bytes of memory in use so far."""


def bert_of(arguments: argparse.Namespace) -> BertConfig:
    return BertConfig.of_size(
        arguments.size,
        vocabulary_size=arguments.vocabulary_size,
        attention_dropout=arguments.attention_dropout,
    )


def policy_of(arguments: argparse.Namespace) -> str:
    """The dtype policy of Keras."""
    return PretrainingConfig(precision=arguments.precision).dtype_policy


def process_peak() -> int:
    """The most bytes that this process has had in memory."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def kbert(arguments: argparse.Namespace, batches: list[Arrays]) -> Training:
    """The model and the step of `kbert pretrain`."""
    import kbert

    model = kbert.pretraining_model(
        bert_of(arguments), dtype=policy_of(arguments), pack=arguments.pack
    )
    model.compile(
        **kbert.pretraining_objective(learning_rate=LEARNING_RATE, steps=100_000, warmup_steps=0)
    )
    return keras_training(model, batches)


def keras_hub(arguments: argparse.Namespace, batches: list[Arrays], jit_compile: bool) -> Training:
    """KerasHub's encoder and masked language modelling head, with kbert's losses and metrics."""
    import keras
    import keras_hub

    import kbert

    if arguments.attention_dropout != 0.1:
        sys.exit(
            "keras_hub has no separate dropout for attention: leave it out of --candidates, or "
            "leave out --attention-dropout."
        )
    bert = bert_of(arguments)
    keras.config.set_dtype_policy(policy_of(arguments))
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=bert.vocabulary_size,
        num_layers=bert.num_layers,
        num_heads=bert.num_heads,
        hidden_dim=bert.hidden_size,
        intermediate_dim=bert.intermediate_size,
        dropout=bert.dropout,
        max_sequence_length=bert.max_positions,
    )
    mask_positions = keras.Input((None,), dtype="int32", name="mask_positions")
    mlm = keras_hub.layers.MaskedLMHead(
        token_embedding=backbone.token_embedding,
        intermediate_activation=lambda x: keras.activations.gelu(x, approximate=True),
        layer_norm_epsilon=bert.layer_norm_epsilon,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=bert.initializer_range),
        name="mlm",
    )(backbone.output["sequence_output"], mask_positions)
    nsp = keras.layers.Dense(2, name="nsp")(backbone.output["pooled_output"])
    model = keras.Model(
        backbone.input | {"mask_positions": mask_positions}, {"mlm": mlm, "nsp": nsp}
    )
    objective = kbert.pretraining_objective(learning_rate=LEARNING_RATE, steps=100_000)
    optimizer = keras.optimizers.AdamW(
        LEARNING_RATE, weight_decay=0.01, epsilon=1e-6, global_clipnorm=1.0
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(**(objective | {"optimizer": optimizer}), jit_compile=jit_compile)
    return keras_training(model, batches)


def keras_training(model: keras.Model, batches: list[Arrays]) -> Training:
    """Training with `fit`."""
    import keras

    from kbert.speed.machine import peak_memory
    from tfrecords.batch import BatchSpec

    is_packed = "pair_numbers" in batches[0]
    spec = BatchSpec(pack=batches[0]["nsp"].shape[-1] if is_packed else 1)
    parts = [
        (
            {name: batch[name] for name in spec.x},
            {name: batch[name] for name in spec.y},
            {name: batch[f"{name}_weight"] for name in spec.sample_weight},
        )
        for batch in batches
    ]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        options = tf.data.Options()
        # Its thread delays the end of `fit`, by up to the time that `fit` took (TensorFlow 2.21).
        options.autotune.enabled = False
        stacked = tf.nest.map_structure(lambda *values: tf.stack(values), *parts)
        endless = tf.data.Dataset.from_tensor_slices(stacked).repeat().with_options(options)

    def train(steps: int) -> float:
        # On JAX `fit` takes a generator, and no other iterator.
        is_tensorflow = keras.backend.backend() == "tensorflow"
        data = endless if is_tensorflow else (part for part in itertools.cycle(parts))
        history = model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0).history
        return history["loss"][0]

    return Training(train, peak_memory)


def transformers(arguments: argparse.Namespace, batches: list[Arrays], compiled: bool) -> Training:
    """The model of `transformers` as it is, in a plain PyTorch loop."""
    import torch
    from transformers import BertConfig as PeerConfig
    from transformers import BertForPreTraining

    bert = bert_of(arguments)
    peer = BertForPreTraining(
        PeerConfig(
            vocab_size=bert.vocabulary_size,
            num_hidden_layers=bert.num_layers,
            hidden_size=bert.hidden_size,
            num_attention_heads=bert.num_heads,
            intermediate_size=bert.intermediate_size,
            hidden_dropout_prob=bert.dropout,
            attention_probs_dropout_prob=float(bert.attention_dropout or 0.0),
        )
    )
    # As for the others: no weight decay on biases and normalisation, gradients clipped to 1.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # transformers decorates `to`, which hides its arguments from the type checker.
    peer = peer.to(device).train()  # pyright: ignore[reportArgumentType]
    decayed = [weight for weight in peer.parameters() if weight.ndim > 1]
    others = [weight for weight in peer.parameters() if weight.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        eps=1e-6,
        fused=True,
    )

    # The same batches, in the form of `transformers`.
    def in_its_form(batch: Arrays) -> dict[str, torch.Tensor]:
        inputs = {
            "input_ids": batch["token_ids"],
            "token_type_ids": batch["segment_ids"],
            "attention_mask": batch["padding_mask"],
            "labels": labels_at_all_positions(batch),
            "next_sentence_label": batch["nsp"],
        }
        return {
            name: torch.tensor(values, dtype=torch.int64, device=device)
            for name, values in inputs.items()
        }

    inputs = [in_its_form(batch) for batch in batches]
    model = torch.compile(peer) if compiled else peer
    precision = torch.autocast(device, torch.bfloat16, enabled=arguments.precision == "bfloat16")

    def train(steps: int) -> float:
        losses = []
        for step in range(steps):
            optimizer.zero_grad()
            with precision:
                loss = model(**inputs[step % len(inputs)]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()  # waits for all steps

    return Training(train, torch.cuda.max_memory_allocated if device == "cuda" else process_peak)


def labels_at_all_positions(batch: Arrays) -> np.ndarray:
    """The labels as `transformers` takes them, int32 [B, S]: the original token at every position
    to predict, and NOT_MASKED elsewhere."""
    import numpy as np

    labels = np.full_like(batch["token_ids"], NOT_MASKED)
    rows, slots = np.nonzero(batch["mlm_weight"])
    labels[rows, batch["mask_positions"][rows, slots]] = batch["mlm"][rows, slots]
    return labels


CANDIDATES: dict[str, Callable[[argparse.Namespace, list[Arrays]], Training]] = {
    OURS: kbert,
    "kbert on JAX": kbert,
    "keras_hub, XLA": lambda arguments, batches: keras_hub(arguments, batches, jit_compile=True),
    "keras_hub, no XLA": lambda arguments, batches: keras_hub(
        arguments, batches, jit_compile=False
    ),
    "transformers": lambda arguments, batches: transformers(arguments, batches, compiled=False),
    "transformers, compiled": lambda arguments, batches: transformers(
        arguments, batches, compiled=True
    ),
}
