"""The model half of kbert: BERT in Keras 3, pretrained on records of masked sentence pairs."""

import importlib

_HOMES = {
    "BertConfig": "kbert.config",
    "PretrainingConfig": "kbert.config",
    "Predictor": "kbert.prediction",
    "Pretrained": "kbert.pretrained",
    "Pretrainer": "kbert.training",
    "TrainingError": "kbert.callbacks",
    "baselines": "kbert.evaluation",
    "benchmark": "kbert.benchmarking",
    "encoder_model": "kbert.model",
    "encoder_of": "kbert.model",
    "evaluate": "kbert.evaluation",
    "export_saved_model": "kbert.formats",
    "load": "kbert.formats",
    "load_predictor": "kbert.prediction",
    "load_run": "kbert.runs",
    "pretrain": "kbert.pretraining",
    "pretraining_model": "kbert.model",
    "pretraining_objective": "kbert.objective",
    "results_table": "kbert.evaluation",
    "save": "kbert.formats",
    "training_plan": "kbert.plan",
    "with_released_head": "kbert.export.keras_hub",
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    """Imports what is asked for and no more: the import of kbert itself starts neither Keras nor TensorFlow."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kbert' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return __all__
