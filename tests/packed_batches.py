"""Unpacked batches packed into rows, plainly: what the tests of packed training compare with."""

import numpy as np

from tfrecords.batch import BatchSpec


def packed_into_rows(batch, pack, sequence_length, max_predictions):
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
    pairs = "nsp" if "nsp" in y else "none"
    rows, places = [], []
    for pair, length in enumerate(x["padding_mask"].sum(axis=1)):
        in_use = np.flatnonzero(sample_weight["mlm"][pair])
        for row in rows:
            if (
                len(row["nsp"]) < pack
                and len(row["token_ids"]) + length <= sequence_length
                and len(row["mlm"]) + len(in_use) <= max_predictions
            ):
                break
        else:
            row = {name: [] for name in NAMES}
            rows.append(row)
        start, slots = len(row["token_ids"]), len(row["mlm"]) + np.arange(len(in_use))
        places.append((rows.index(row), len(row["nsp"]), slots))
        row["token_ids"] += x["token_ids"][pair, :length].tolist()
        row["segment_ids"] += x["segment_ids"][pair, :length].tolist()
        row["pair_numbers"] += [len(row["nsp"]) + 1] * length
        row["positions"] += range(length)
        row["mask_positions"] += (start + x["mask_positions"][pair, in_use]).tolist()
        row["cls_positions"].append(start)
        row["mlm"] += y["mlm"][pair, in_use].tolist()
        row["nsp"].append(int(y["nsp"][pair]) if "nsp" in y else 0)
    spec = BatchSpec(
        sequence_length=sequence_length, max_predictions=max_predictions, pairs=pairs, pack=pack
    )
    sizes = {"S": sequence_length, "P": max_predictions, "K": pack}
    values = {}
    for part, features in (("x", spec.x), ("y", spec.y)):
        for name, feature in features.items():
            size = sizes[feature.axes[1]]
            lists = [row[name] for row in rows]
            values[part, name] = [one + [0] * (size - len(one)) for one in lists]
            if part == "y":
                values["sample_weight", name] = [
                    [1] * len(one) + [0] * (size - len(one)) for one in lists
                ]
    return spec.arrays(values, len(rows)), places


NAMES = (
    "token_ids",
    "segment_ids",
    "pair_numbers",
    "positions",
    "mask_positions",
    "cls_positions",
    "mlm",
    "nsp",
)
