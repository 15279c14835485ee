"""Pairs to rows: which pairs share one, what it holds, and that packed records are the pairs of
those that are not packed."""

import dataclasses
import hashlib

import numpy as np
import pytest

from tfrecords import Manifest, load_manifest, packing, read, schema
from tfrecords.build.shards import ShardMaker
from tfrecords.documents import Documents
from tfrecords.inspection import verify_records
from tfrecords.packing import Room, Rows, in_rows, packed_features, packed_rows, shuffled_rows


def members(rows):
    """The pairs of each row, as lists."""
    return [rows.some(row, row + 1)[0].tolist() for row in range(len(rows))]


def plain_rows(lengths, predictions, room):
    """Best fit, one pair at a time: into the row with the least room that takes it, and of several
    the one that was changed last."""
    rows = []
    order = sorted(range(len(lengths)), key=lambda n: (-lengths[n], -predictions[n], n))
    for clock, pair in enumerate(order):
        wanted = np.array([lengths[pair], predictions[pair], 1])
        fitting = [row for row in rows if (row["left"] >= wanted).all()]
        if not fitting:
            rows.append({"left": np.array([room.tokens, room.predictions, room.pairs]), "has": []})
            fitting = rows[-1:]
        row = min(fitting, key=lambda row: (row["left"][0], -row.get("changed", 0)))
        row["left"] -= wanted
        row["changed"] = clock
        row["has"].append(pair)
    return [row["has"] for row in rows]


def drawn(seed, number, room, clipped=5):
    """Lengths of pairs, many of them of the whole length, and what is to be predicted in each."""
    draw = np.random.default_rng(seed)
    lengths = np.minimum(room.tokens, draw.integers(1, 2 * room.tokens, number))
    return lengths, np.clip(np.rint(0.15 * lengths).astype(int), 1, clipped)


@pytest.mark.parametrize(
    "room",
    [
        Room(tokens=29, predictions=5, pairs=3),
        Room(tokens=29, predictions=5, pairs=64),
        Room(tokens=61, predictions=6, pairs=5),
        Room(tokens=61, predictions=61, pairs=2),
    ],
)
def test_pairs_go_where_they_fit_best(room):
    for seed in range(3):
        lengths, predictions = drawn(seed, 211, room)
        assert members(packed_rows(lengths, predictions, room)) == plain_rows(
            lengths, predictions, room
        )


def test_what_a_pair_has_no_slots_for_goes_into_another_row():
    room = Room(tokens=10, predictions=3, pairs=8)
    rows = packed_rows(np.array([6, 4, 4, 3]), np.array([2, 2, 1, 2]), room)
    assert members(rows) == [[0, 2], [1], [3]]


def test_nothing_makes_no_row():
    room = Room(tokens=7, predictions=3, pairs=2)
    none = np.zeros(0, int)
    rows = shuffled_rows(none, none, room, np.random.default_rng(0))
    assert (len(rows), rows.pairs.tolist(), rows.starts.tolist()) == (0, [], [0])
    assert len(packed_rows(none, none, room)) == 0


@pytest.mark.parametrize("window", [1 << 25, 1009])
def test_every_pair_is_in_one_row_that_has_room_for_it(monkeypatch, window):
    monkeypatch.setattr(packing, "WINDOW_TOKENS", window)
    room = Room(tokens=128, predictions=20, pairs=8)
    lengths, predictions = drawn(1, 5003, room, clipped=20)
    rows = shuffled_rows(lengths, predictions, room, np.random.default_rng(3))
    assert sorted(rows.pairs) == list(range(5003))
    for has in members(rows):
        assert 1 <= len(has) <= 8
        assert lengths[has].sum() <= 128
        assert predictions[has].sum() <= 20
    # Pairs that are put together come from one window.
    number = np.zeros(5003, int)
    for n, (start, stop) in enumerate(packing.windows(lengths)):
        assert lengths[start : stop - 1].sum() < window
        number[start:stop] = n
    assert all(len(set(number[has])) == 1 for has in members(rows))
    if window > lengths.sum():
        assert lengths.sum() > 0.98 * 128 * len(rows)
        assert max(map(len, members(rows))) > 2
    again = shuffled_rows(lengths, predictions, room, np.random.default_rng(3))
    assert members(again) == members(rows)
    other = shuffled_rows(lengths, predictions, room, np.random.default_rng(4))
    assert members(other) != members(rows)


def test_rows_in_another_order():
    rows = Rows(np.array([4, 2, 0, 3, 1]), np.array([0, 2, 3, 5]))
    assert members(rows.in_order(np.array([2, 0, 1]))) == [[3, 1], [4, 2], [0]]
    assert members(Rows.chained([rows, Rows.single(2)])) == [[4, 2], [0], [3, 1], [5], [6]]
    places, sizes = rows.some(1, 7)
    assert (places.tolist(), sizes.tolist()) == ([0, 3, 1], [1, 2])


def test_a_row_in_full():
    pairs = {
        "input_ids": [[2, 7, 4, 3, 9, 3], [2, 4, 3, 11, 3, 0], [2, 5, 3, 6, 3, 0]],
        "input_mask": [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0]],
        "segment_ids": [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 0]],
        "masked_lm_positions": [[2, 4], [1, 0], [0, 0]],
        "masked_lm_ids": [[8, 9], [10, 0], [0, 0]],
        "masked_lm_weights": [[1, 1], [1, 0], [0, 0]],
        "next_sentence_labels": [[0], [1], [1]],
    }
    pairs = {
        name: np.array(values, np.float32 if "weights" in name else np.int32)
        for name, values in pairs.items()
    }
    room = Room(tokens=12, predictions=4, pairs=3)
    rows = packed_features(pairs, np.array([2, 1]), room)
    assert {name: values.tolist() for name, values in rows.items()} == {
        "input_ids": [[2, 7, 4, 3, 9, 3, 2, 4, 3, 11, 3, 0], [2, 5, 3, 6, 3] + [0] * 7],
        "input_mask": [[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0], [1] * 5 + [0] * 7],
        "segment_ids": [[0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1] + [0] * 7],
        "position_ids": [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 4] + [0] * 7],
        "masked_lm_positions": [[2, 4, 7, 0], [0, 0, 0, 0]],
        "masked_lm_ids": [[8, 9, 10, 0], [0, 0, 0, 0]],
        "masked_lm_weights": [[1, 1, 1, 0], [0, 0, 0, 0]],
        "next_sentence_positions": [[0, 6, 0], [0, 0, 0]],
        "next_sentence_weights": [[1, 1, 0], [1, 0, 0]],
        "next_sentence_labels": [[0, 1, 0], [1, 0, 0]],
    }
    assert {rows[name].dtype.name for name in rows if "weights" in name} == {"float32"}
    del pairs["next_sentence_labels"]
    assert packed_features(pairs, np.array([2, 1]), room).keys() == {
        name for name in rows if "next" not in name
    }
    assert in_rows(np.array([5, 7, 11]), np.array([1, 2]), room).tolist() == [[5, 0, 0], [7, 11, 0]]


# Packed records beside those of the same pairs that are not packed.


@pytest.fixture
def made(tmp_path, documents, vocabulary, config):
    """Makes a directory of two shards of training records and one to validate on, with the
    configuration changed, and returns its manifest."""
    one = Documents.of(
        [[[vocabulary.ids[word] for word in words] for words in document] for document in documents]
    )

    def make(place, **changes):
        changed = dataclasses.replace(config, num_shards=2, **changes)
        directory = tmp_path / place
        directory.mkdir()
        vocabulary.save(directory / "vocab.txt")
        maker = ShardMaker(vocabulary, changed)
        found = [
            maker.make(one, split, index, directory)
            for split, index in [("train", 0), ("train", 1), ("validation", 0)]
        ]
        manifest = Manifest(
            directory=directory,
            sequence_length=changed.sequence_length,
            max_predictions=changed.row_predictions,
            vocabulary_size=len(vocabulary),
            vocabulary_sha256=vocabulary.sha256,
            config=changed,
            shards=tuple(shard for shard, _ in found),
            counts={"train": found[0][1], "validation": found[2][1]},
        )
        manifest.save()
        return load_manifest(directory)

    return make


def pairs_of(dataset):
    """The pairs of a dataset, each as (token ids, segments, positions of the masks, labels of the
    masks, label of the pair, 0 without), sorted."""
    found = []
    for x, y, sample_weight in dataset.as_numpy_iterator():
        numbers = x["pair_numbers"] if "pair_numbers" in x else x["padding_mask"]
        labels, weights = y.get("nsp"), sample_weight.get("nsp")
        for row in range(len(numbers)):
            assert (np.diff(numbers[row][numbers[row] > 0]) <= 1).all()
            for number in range(numbers[row].max()):
                (inside,) = np.nonzero(numbers[row] == number + 1)
                used = sample_weight["mlm"][row] > 0
                positions = x["mask_positions"][row] - inside[0]
                used &= (positions >= 0) & (positions < len(inside))
                label = 0
                if labels is not None:
                    label, weight = (values[row].ravel()[number] for values in (labels, weights))
                    assert weight == 1
                if "positions" in x:
                    assert x["positions"][row, inside].tolist() == list(range(len(inside)))
                    assert labels is None or x["cls_positions"][row, number] == inside[0]
                values = x["token_ids"][row, inside], x["segment_ids"][row, inside]
                masks = positions[used], y["mlm"][row][used]
                found.append((*(tuple(one.tolist()) for one in (*values, *masks)), int(label)))
            if weights is not None and weights.ndim == 2:
                assert weights[row].sum() == numbers[row].max()
                assert np.count_nonzero(labels[row]) <= weights[row].sum()
    return sorted(found)


@pytest.mark.parametrize(
    ("pairs", "masking", "unit", "compression"),
    [
        ("nsp", "static", "token", "none"),
        ("sop", "static", "word", "gzip"),
        ("none", "static", "ngram", "none"),
        ("nsp", "dynamic", "word", "gzip"),
        ("sop", "dynamic", "token", "none"),
        ("none", "dynamic", "token", "none"),
    ],
)
def test_packed_records_are_the_same_pairs_with_the_same_masks(
    made, pairs, masking, unit, compression
):
    how = {"pairs": pairs, "masking": masking, "mask_unit": unit, "compression": compression}
    single, packed = made("single", **how), made("packed", pack=3, **how)
    for split in schema.SPLITS:
        of_both = [
            pairs_of(read(manifest, split, batch_size=7, shuffle=False, seed=5))
            for manifest in (single, packed)
        ]
        assert of_both[0] == of_both[1]
        assert packed.num_records(split) < single.num_records(split) == len(of_both[0])
        assert sum(shard.pairs for shard in packed.shards if shard.split == split) == len(
            of_both[0]
        )
    verify_records(packed)
    assert single.counts["train"]["packed_records"] <= packed.counts["train"]["records"]
    assert packed.counts["train"]["records"] < packed.counts["train"]["pairs"]
    same = ("pairs", "tokens", "positive_labels", "truncated", "masked_tokens")
    assert all(single.counts["train"][name] == packed.counts["train"][name] for name in same)
    assert packed.shards[0].name == single.shards[0].name


def test_masks_drawn_on_reading_are_other_ones_for_every_epoch_and_pair(made):
    manifest = made("packed", pack=3, masking="dynamic", pairs="none", duplicates=1)
    steps = manifest.num_records("train") // 3
    both = list(read(manifest, batch_size=3, epochs=2, seed=5).as_numpy_iterator())
    epochs = [both[:steps], both[steps:]]
    for one, other in zip(
        read(manifest, batch_size=3, epochs=2, seed=5, start_step=steps + 1).as_numpy_iterator(),
        epochs[1][1:],
        strict=True,
    ):
        np.testing.assert_equal(one, other)

    # Two shards have the same documents here, so most pairs come twice in an epoch.
    masks = {}
    for number, epoch in enumerate(epochs):
        for x, y, weight in epoch:
            for row in range(3):
                for n in range(x["pair_numbers"][row].max()):
                    inside = x["pair_numbers"][row] == n + 1
                    used = (weight["mlm"][row] > 0) & inside[x["mask_positions"][row]]
                    text = x["token_ids"][row].copy()
                    text[x["mask_positions"][row][used]] = y["mlm"][row][used]
                    key = tuple(text[inside].tolist())
                    found = x["mask_positions"][row][used] - inside.argmax()
                    masks.setdefault(key, []).append((number, *found.tolist()))
    long = [found for key, found in masks.items() if len(key) > 20 and len(found) > 2]
    assert len(long) > 5
    assert sum(len({one[1:] for one in found}) > 1 for found in long) > 0.9 * len(long)


def test_a_row_may_have_more_slots_than_a_pair(config):
    few = dataclasses.replace(config, sequence_length=512, max_predictions=20)
    assert few.row_predictions == 20
    for pack, slots in [(2, 40), (3, 60), (8, 77), (64, 77)]:
        assert dataclasses.replace(few, pack=pack).row_predictions == slots
    assert dataclasses.replace(few, max_predictions=80, pack=8).row_predictions == 80
    assert dataclasses.replace(few, mask_rate=0.0, pack=8).row_predictions == 20


@pytest.mark.parametrize(
    ("masking", "digest"), [("static", "e6349bddbd20f546"), ("dynamic", "08eaad9ca8c1b7b4")]
)
def test_packed_records_keep_their_bytes(made, masking, digest):
    """What releases write from the same text has to stay the same."""
    manifest = made("packed", pack=3, masking=masking)
    content = hashlib.sha256()
    for shard in manifest.shards:
        content.update((manifest.directory / shard.name).read_bytes())
    assert content.hexdigest()[:16] == digest
