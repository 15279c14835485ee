"""Queries, keys and values are one variable here, and three in every other format."""

import numpy as np

from kbert.pretrained import weight_shapes

_PARTS = ("query", "key", "value")


def split_qkv(weights):
    """The weights of a Pretrained with three arrays, such as layer_0/query/kernel, in the place of each layer_0/qkv/kernel."""
    split = {}
    for path, value in weights.items():
        if "/qkv/" in path:
            split.update(zip(_thirds(path), np.split(value, 3, axis=-1), strict=True))
        else:
            split[path] = value
    return split


def join_qkv(weights):
    """The inverse of `split_qkv`; of three that are not all there, none is kept."""
    joined = {}
    for path, value in weights.items():
        parent, _, part = path.rpartition("/")[0].rpartition("/")
        if part not in _PARTS:
            joined[path] = value
            continue
        whole = f"{parent}/qkv/{path.rpartition('/')[2]}"
        thirds = _thirds(whole)
        if whole not in joined and all(third in weights for third in thirds):
            joined[whole] = np.concatenate([weights[third] for third in thirds], axis=-1)
    return joined


def split_shapes(bert):
    """The shapes of all weights of a pretraining model of this shape, by the paths that `split_qkv` gives them."""
    shapes = {}
    for path, shape in weight_shapes(bert).items():
        if "/qkv/" in path:
            shapes.update(dict.fromkeys(_thirds(path), (*shape[:-1], shape[-1] // 3)))
        else:
            shapes[path] = shape
    return shapes


def _thirds(path):
    return [path.replace("/qkv/", f"/{part}/") for part in _PARTS]
