"""Records that are there to packed records: `kbert pack`.

Pairs, masks and labels stay as they are; what changes is which of them share a row. Records by
`kbert records` become what `kbert records --pack` makes of the same text, to the byte. The work is
done shard by shard, a window of pairs at a time; finished shards survive a kill, and the manifest
is written last."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfrecords import schema
from tfrecords.build import unfinished
from tfrecords.build.corpus import full_disk_explained
from tfrecords.build.unpacked import pair_windows
from tfrecords.errors import InputError
from tfrecords.files import (
    claim_directory,
    locked,
    read_json,
    sha256,
    with_defaults,
    write_json,
)
from tfrecords.masking import Masking
from tfrecords.packing import Room, packed_features, row_generator, shuffled_window
from tfrecords.progress import progress_bar
from tfrecords.reader import manifest_of
from tfrecords.schema import Manifest, RecordsConfig, Shard
from tfrecords.writer import write_shard

CONFIGURATION = "config.json"
_TOKENS_PER_BATCH = 1 << 17
_FOREIGN_SEED = 0


def pack_records(
    records: str | os.PathLike | Sequence[str | os.PathLike] | Manifest,
    output: str | os.PathLike,
    pack: int = schema.USUAL_PACK,
    *,
    progress: bool = False,
) -> Manifest:
    """Packs records with static masks: up to `pack` sentence pairs in a row.

    The manifest is written last; a directory with a manifest is complete. Called again on its own
    directory, it continues where it stopped, or returns the manifest that is there. The input is
    only read.

    Args:
        records: A directory with a manifest (made by `kbert records`), a Manifest, or a file,
            pattern or list of files of records in Google's schema by any tool.
        output: The directory to make.
        pack: K, the most pairs in a row.
        progress: Whether to show a progress bar.

    Returns:
        The Manifest. Of records by another tool it has no configuration and no vocabulary, so that
        `read` takes it and `load_manifest` does not.

    Raises:
        InputError: The records are packed already, have no masks yet, or are damaged, or the output
            directory cannot be used.
        OSError: Among others, the disk is full; finished work stays.
    """
    if not 2 <= pack <= schema.MOST_PAIRS:
        raise InputError(f"Expected pack from 2 to {schema.MOST_PAIRS}. Received: {pack}.")
    manifest, output = manifest_of(records), pathlib.Path(output)
    check_packable(manifest)
    with locked(output), full_disk_explained(output):
        claim_directory(output, _identity(manifest, pack), CONFIGURATION, _completed)
        if not (output / schema.MANIFEST).exists():
            _pack(manifest, output, pack, progress)
        # A kill between the manifest and this line leaves it for the next call.
        shutil.rmtree(output / unfinished.NAME, ignore_errors=True)
        return schema.load_any_manifest(output)


def check_packable(manifest: Manifest) -> None:
    """Raises InputError unless the records have masks and are not packed."""
    if manifest.pack > 1:
        raise InputError(
            f"Expected records that are not packed. Received: {manifest.directory}, with up to "
            f"{manifest.pack} pairs in a record."
        )
    if manifest.is_dynamic:
        raise InputError(
            f"Expected records with masks. Received: {manifest.directory}, whose masks are drawn "
            "on reading; make them again from the text with 'kbert records --pack'."
        )


def _identity(manifest: Manifest, pack: int) -> dict[str, Any]:
    """What the packed records depend on."""
    digest = hashlib.sha256()
    for shard in manifest.shards:
        digest.update((shard.sha256 or sha256(manifest.directory / shard.name)).encode())
    config = {} if manifest.config is None else dataclasses.asdict(manifest.config)
    return {
        "kind": "packed records",
        "version": schema.VERSION,
        "input_sha256": digest.hexdigest(),
        **config,
        "pack": pack,
    }


def _completed(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that an earlier call wrote, with those that its release did not know yet."""
    return with_defaults(fields, RecordsConfig) if "sequence_length" in fields else fields


def _pack(manifest: Manifest, output: pathlib.Path, pack: int, progress: bool) -> None:
    spill = unfinished.open_unfinished(output)
    packed = _with_pack(manifest, pack)
    room = Room(
        tokens=packed.sequence_length, predictions=packed.max_predictions, pairs=packed.pack
    )
    shards, tokens = [], 0
    total = sum(shard.records for shard in manifest.shards)
    try:
        with progress_bar("packing", total, " pairs", progress) as bar:
            for number in range(len(manifest.shards)):
                path = spill / f"shard-{number:06d}.json"
                if path.exists():
                    bar.update(manifest.shards[number].records)
                else:
                    new, count = _pack_shard(manifest, number, room, output, bar.update)
                    write_json(path, {"shard": dataclasses.asdict(new), "tokens": count})
                result = read_json(path, "the result of an earlier attempt")
                shards.append(Shard(**result["shard"]))
                tokens += result["tokens"]
    except InputError:
        # Damaged input: free the directory for another attempt.
        unfinished.forget_unfinished(output)
        (output / CONFIGURATION).unlink()
        raise

    # The manifest comes last: it says that everything else is complete.
    if manifest.config is not None:
        manifest.load_vocabulary().save(output / schema.VOCABULARY)
    counts = manifest.counts or {"train": {"tokens": tokens}}
    dataclasses.replace(
        packed,
        directory=output,
        shards=tuple(shards),
        counts={split: _recounted(split, there, shards) for split, there in counts.items()},
    ).save()


def _with_pack(manifest: Manifest, pack: int) -> Manifest:
    """The manifest with another number of pairs in a row, and the slots that go with it."""
    if manifest.config is not None:
        config = dataclasses.replace(manifest.config, pack=pack)
        return dataclasses.replace(manifest, config=config, max_predictions=config.row_predictions)
    shape = RecordsConfig(
        sequence_length=manifest.sequence_length,
        max_predictions=manifest.max_predictions,
        pack=pack,
    )
    return dataclasses.replace(manifest, foreign_pack=pack, max_predictions=shape.row_predictions)


def _recounted(split: str, counts: dict[str, int], shards: Sequence[Shard]) -> dict[str, int]:
    """The counts of a split, or of the corpus, with those of rows."""
    if split == "corpus":
        return counts
    of_split = [shard for shard in shards if shard.split == split]
    rows = {
        "records": sum(shard.records for shard in of_split),
        "pairs": sum(shard.num_pairs for shard in of_split),
    }
    return {name: n for name, n in (counts | rows).items() if name != "packed_records"}


def _pack_shard(
    manifest: Manifest,
    number: int,
    room: Room,
    output: pathlib.Path,
    report: Callable[[int], object],
) -> tuple[Shard, int]:
    """Writes the packed shard of shard `number`, and returns it with its number of tokens."""
    shard, config = manifest.shards[number], manifest.config
    of_split = [one.name for one in manifest.shards if one.split == shard.split]
    index, name = of_split.index(shard.name), shard.name
    if config is None:
        suffix = ".tfrecord.gz" if shard.compression == "gzip" else ".tfrecord"
        name = f"{shard.split}-{index:05d}-of-{len(of_split):05d}{suffix}"
    seed = _FOREIGN_SEED if config is None else config.seed
    generator = row_generator(seed, shard.split, index)
    # Our own rows have slots for the masks that were to be drawn, as when they are made at once:
    # of whole words there may be fewer.
    masking = None if config is None else Masking.of(manifest.load_vocabulary(), config)
    pairs = tokens = 0

    def batches():
        nonlocal pairs, tokens
        for window in pair_windows(manifest, shard, report):
            lengths, predictions = window.tokens.lengths, window.predictions.lengths
            if masking is not None:
                predictions = np.maximum(predictions, masking.num_predictions(lengths))
            rows = shuffled_window(lengths, predictions, room, generator)
            pairs += len(lengths)
            tokens += int(lengths.sum(dtype=np.int64))
            # The pairs of a batch are padded once more, each to S.
            step = max(1, _TOKENS_PER_BATCH * len(rows) // (len(lengths) * room.tokens))
            for start in range(0, len(rows), step):
                places, sizes = rows.some(start, start + step)
                yield packed_features(window.features(places), sizes, room), None

    new = write_shard(output / name, shard.split, batches(), shard.compression)
    return dataclasses.replace(new, pairs=pairs), tokens
