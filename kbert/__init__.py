"""The model half of kbert: BERT in Keras 3, pretrained on records of masked sentence pairs."""

import importlib

_HOMES = {
    "BertConfig": "kbert.config",
    "PretrainingConfig": "kbert.config",
    "Predictor": "kbert.prediction",
    "Pretrained": "kbert.formats.pretrained",
    "Pretrainer": "kbert.step.pretrainer",
    "TrainingError": "kbert.run.errors",
    "baselines": "kbert.run.evaluation",
    "benchmark": "kbert.speed.benchmark",
    "encoder_model": "kbert.model.bert",
    "encoder_of": "kbert.model.bert",
    "evaluate": "kbert.run.evaluation",
    "load": "kbert.formats.load_and_save",
    "load_predictor": "kbert.prediction",
    "load_run": "kbert.run.directory",
    "pretrain": "kbert.pretraining",
    "pretraining_model": "kbert.model.bert",
    "pretraining_objective": "kbert.step.objective",
    "results_table": "kbert.run.evaluation",
    "save": "kbert.formats.load_and_save",
    "training_plan": "kbert.speed.plan",
    "with_released_head": "kbert.formats.keras_hub",
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    """Imports what is asked for and no more: the import of kbert itself starts neither Keras nor
    TensorFlow."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kbert' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return __all__
