"""How good a model is on held-out records, beside what can be had without a model."""

import dataclasses
import math

import keras
import numpy as np

import tfrecords
from kbert.config import PretrainingConfig
from kbert.objectives import NSP, pairs_of_outputs
from kbert.run.directory import Run, load_run
from kbert.run.distribution import batches_for
from kbert.step.objective import pretraining_objective
from tfrecords import InputError
from tfrecords.schema import Manifest

_BASELINE_BATCH = 1024
_BASELINE_RECORDS = 200_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baselines:
    """What is reached without a model, computed from the records themselves."""

    unigram_loss: float
    """Cross-entropy (nats per token) of the held-out masked tokens under the frequencies of the
    training split's masked tokens, each count raised by one."""
    unigram_accuracy: float
    """The share of held-out masked tokens that are the training split's most frequent one."""
    majority_loss: float | None
    """Cross-entropy (nats) of the held-out next sentence labels under the frequencies of the
    training split's; None, as the next, for records of single segments, which have no such
    labels."""
    majority_accuracy: float | None
    """The share of held-out next sentence labels that are the training split's most frequent
    one."""


def baselines(records, split="validation"):
    """Computes the Baselines of a split; the frequencies come from at most the first 200,000
    records of the training split.

    Args:
        records: A directory of records, or a Manifest.
        split: The split they are measured on.
    """
    manifest = tfrecords.manifest_of(records)
    if manifest.vocabulary_size is None:
        raise InputError(
            "Baselines: expected records with a manifest, which tells the size of the vocabulary. "
            f"Received: files without one in {manifest.directory}; make records with 'kbert "
            "records'."
        )
    tokens, labels = _label_counts(manifest, "train", limit=_BASELINE_RECORDS)
    held_out_tokens, held_out_labels = _label_counts(manifest, split)
    has_labels = manifest.pairs in NSP.titles
    return Baselines(
        unigram_loss=_cross_entropy(held_out_tokens, tokens + 1),
        unigram_accuracy=float(held_out_tokens[tokens.argmax()] / max(1, held_out_tokens.sum())),
        majority_loss=_cross_entropy(held_out_labels, labels + 1) if has_labels else None,
        majority_accuracy=float(held_out_labels[labels.argmax()] / held_out_labels.sum())
        if has_labels
        else None,
    )


def _label_counts(manifest, split, limit=None):
    """Counts the masked tokens (float64 [V]) and the next sentence labels (float64 [2], zeros if
    there are none) of a split, or of about its first `limit` records."""
    tokens, labels = np.zeros(manifest.vocabulary_size), np.zeros(2)
    batches = tfrecords.read(manifest, split, batch_size=_BASELINE_BATCH, shuffle=False)
    for _, y, sample_weight in batches.take(
        limit // _BASELINE_BATCH if limit else -1
    ).as_numpy_iterator():
        tokens += np.bincount(y["mlm"].ravel(), sample_weight["mlm"].ravel(), minlength=len(tokens))
        if "nsp" in y:
            labels += np.bincount(y["nsp"], sample_weight["nsp"], minlength=2)
    return tokens, labels


def _cross_entropy(observed, frequencies):
    """The mean of -log(probability) over `observed` counts, with probabilities in proportion to
    `frequencies`; in nats."""
    return float(
        -(observed * np.log(frequencies / frequencies.sum())).sum() / max(1, observed.sum())
    )


def evaluate(
    model, records, *, split="validation", batch_size=PretrainingConfig.batch_size, verbose=0
):
    """Measures a pretraining model on a split of records, every record once.

    Args:
        model: A pretraining model, compiled with `pretraining_objective` (it is compiled so here if
            it is not compiled); or a Run or its directory, whose newest checkpoint is measured, on
            records with the vocabulary and the pairs of the run alone.
        records: A directory of records, or a Manifest.
        split: The split to measure on.
        batch_size: Sequences at once; no influence on the results but by rounding.
        verbose: As for `keras.Model.evaluate`.

    Returns:
        A dict: pairs (the kind of pairs of the records), and as floats mlm_loss (nats per masked
        token), mlm_perplexity, mlm_accuracy, nsp_loss (nats), nsp_accuracy and the fields of
        Baselines. Records of single segments have no nsp_loss, nsp_accuracy, majority_loss and
        majority_accuracy.

    Raises:
        InputError: There is no such split, the records do not fit the model, or, where a run is
            measured, they are damaged.
    """
    if isinstance(model, keras.Model):
        manifest = tfrecords.manifest_of(records)
    else:
        # Of a run more is known than of a model, and damaged records are found before the work.
        run = model if isinstance(model, Run) else load_run(model)
        manifest = records if isinstance(records, Manifest) else tfrecords.load_manifest(records)
        _check_records_of_run(run, manifest)
        manifest.verify()
        model = run.load_model()
    if not manifest.num_records(split):
        raise InputError(
            f"Expected a split {split!r} in {manifest.directory}. Received: records without it; "
            "make them with a --validation-fraction, or measure on another split."
        )
    check_length(manifest, model.get_layer("embeddings").max_positions)
    has_pairs = pairs_of_outputs(model.output) != "none"
    if has_pairs != (manifest.pairs in NSP.titles):
        raise InputError(
            f"Expected records of {'sentence pairs' if has_pairs else 'single segments'}, as "
            "the model was built for. "
            f"Received: {manifest.directory}, made with pairs {manifest.pairs!r}."
        )
    if not model.compiled:
        model.compile(**pretraining_objective(steps=1, pairs=manifest.pairs))
    logs = model.evaluate(
        evaluation_batches(model, manifest, split, batch_size),
        steps=-(-manifest.num_records(split) // batch_size),
        return_dict=True,
        verbose=verbose,
    )
    results = {
        "pairs": manifest.pairs,
        "mlm_loss": logs["mlm_cross_entropy"],
        "mlm_perplexity": perplexity(logs["mlm_cross_entropy"]),
        "mlm_accuracy": logs["mlm_accuracy"],
    }
    if has_pairs:
        results |= {"nsp_loss": logs["nsp_cross_entropy"], "nsp_accuracy": logs["nsp_accuracy"]}
    reference = dataclasses.asdict(baselines(manifest, split))
    return results | {name: value for name, value in reference.items() if value is not None}


def _check_records_of_run(run, manifest):
    """Raises InputError if records are not of the kind that a run was trained on."""
    if manifest.vocabulary_sha256 != run.vocabulary.sha256:
        raise InputError(
            f"Expected records with the vocabulary of the run, {run.vocabulary.sha256[:12]}. "
            f"Received: {manifest.directory}, written with "
            f"{(manifest.vocabulary_sha256 or 'an unknown one')[:12]}."
        )
    if manifest.pairs != run.pairs:
        raise InputError(
            f"Expected records with the pairs of the run, {run.pairs!r}. Received: "
            f"{manifest.directory}, made with {manifest.pairs!r}."
        )


def evaluation_batches(model, manifest, split, batch_size, steps=None):
    """The batches of a split for the model's devices, every record once; or its first `steps`
    batches, the same every time."""

    def make(input_context):
        batches = tfrecords.read(
            manifest, split, batch_size=batch_size, shuffle=False, input_context=input_context
        )
        if steps is None:
            return batches
        pieces = (
            1
            if input_context is None
            else input_context.num_replicas_in_sync // input_context.num_input_pipelines
        )
        return batches.take(steps * pieces)

    return batches_for(model, make)


def check_length(manifest, max_positions):
    """Raises InputError if the records are longer than the positions of a model."""
    if manifest.sequence_length > max_positions:
        raise InputError(
            f"Expected records of at most {max_positions} tokens, the positions of the model. "
            f"Received: {manifest.sequence_length} in {manifest.directory}."
        )


def perplexity(loss):
    """exp(loss), infinite where that is more than a float holds."""
    return math.exp(loss) if loss < 700 else math.inf


def results_rows(results):
    """The results of `evaluate` in words: rows of what it is, the model's value, the baseline's,
    and which baseline that is."""
    rows = [
        (
            "masked tokens: loss (nats)",
            f"{results['mlm_loss']:.3f}",
            f"{results['unigram_loss']:.3f}",
            "unigram",
        ),
        (
            "masked tokens: perplexity",
            f"{results['mlm_perplexity']:,.1f}",
            f"{perplexity(results['unigram_loss']):,.1f}",
            "unigram",
        ),
        (
            "masked tokens: accuracy",
            f"{results['mlm_accuracy']:.1%}",
            f"{results['unigram_accuracy']:.1%}",
            "most frequent token",
        ),
    ]
    if task := NSP.titles.get(results["pairs"]):
        rows += [
            (
                f"{task}: loss (nats)",
                f"{results['nsp_loss']:.3f}",
                f"{results['majority_loss']:.3f}",
                "label frequencies",
            ),
            (
                f"{task}: accuracy",
                f"{results['nsp_accuracy']:.1%}",
                f"{results['majority_accuracy']:.1%}",
                "majority label",
            ),
        ]
    return rows


def results_table(results):
    """Writes the results of `evaluate` as a table beside the baselines."""
    lines = [f"  {'':<28}{'model':>9}   without a model"]
    lines += [
        f"  {what:<28}{model:>9}   {baseline}  {name}"
        for what, model, baseline, name in results_rows(results)
    ]
    return "\n".join(lines)
