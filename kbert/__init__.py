"""The model half of kbert: BERT in Keras 3, pretrained on records of masked sentence pairs.

Editors and type checkers read the names from __init__.pyi beside this file."""

import importlib

_HOMES = {
    "BertConfig": "kbert.config",
    "PretrainingConfig": "kbert.config",
    "Predictor": "kbert.prediction",
    "Pretrained": "kbert.formats.pretrained",
    "Pretrainer": "kbert.step.pretrainer",
    "TrainingError": "kbert.run.errors",
    "baselines": "kbert.run.baseline",
    "benchmark": "kbert.speed.benchmark",
    "encoder_model": "kbert.model.bert",
    "encoder_of": "kbert.model.bert",
    "evaluate": "kbert.run.evaluation",
    "load": "kbert.formats.load_and_save",
    "load_predictor": "kbert.prediction",
    "load_run": "kbert.run.directory",
    "packed_as": "kbert.model.bert",
    "pretrain": "kbert.pretraining",
    "pretraining_model": "kbert.model.bert",
    "pretraining_objective": "kbert.step.objective",
    "results_table": "kbert.run.evaluation",
    "save": "kbert.formats.load_and_save",
    "training_plan": "kbert.speed.plan",
    "with_released_head": "kbert.formats.keras_hub",
}
"""The module that each public name is defined in."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Imports only what is asked for: importing kbert itself loads neither Keras nor
    TensorFlow."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kbert' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
