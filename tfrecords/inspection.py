"""What is in a directory of records, in words: counts, warnings and decoded examples."""

from tfrecords.reader import read
from tfrecords.schema import load_manifest


def inspect(directory, num_examples=3):
    """Describes records as text: shapes, counts per split, warnings where a count looks wrong, and decoded examples.

    In an example, `[MASK→word]` stands for a masked piece and its label, `[other→word]` for one that was replaced, and
    `[word=]` for one that is predicted but left as it is.

    Args:
        directory: A directory of records with a manifest.
        num_examples: How many records of the first split are decoded.

    Returns:
        The description.

    Raises:
        InputError: The directory holds no finished records.
    """
    manifest = load_manifest(directory)
    lines = [
        f"{manifest.directory}: records of S = {manifest.sequence_length} tokens with P = {manifest.max_predictions} slots "
        f"for masked tokens, {manifest.vocabulary_size:,} pieces of vocabulary ({manifest.vocabulary_sha256[:12]})",
        "corpus: " + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in manifest.counts["corpus"].items()),
    ]
    for split, counts in manifest.counts.items():
        if split != "corpus":
            lines.append(f"{split}: {_split_line(manifest, split, counts)}")
    lines += [f"warning: {warning}" for warning in _warnings(manifest)]
    if num_examples:
        lines += ["", "[MASK→x]: x is masked; [y→x]: x is replaced by y; [x=]: x is predicted but left; …: a word is cut here"]
    vocabulary = manifest.load_vocabulary()
    split = manifest.shards[0].split
    for number, example in enumerate(_examples(manifest, split, num_examples)):
        lines += ["", f"{split} record {number}: " + decode(*example, vocabulary)]
    return "\n".join(lines)


def _split_line(manifest, split, counts):
    records = counts["records"]
    shards = [shard for shard in manifest.shards if shard.split == split]
    return (
        f"{records:,} records in {len(shards)} files ({sum(shard.bytes for shard in shards) / 1e6:,.1f} MB) from "
        f"{counts['documents']:,} documents; {counts['random_next'] / records:.1%} random next sentences, "
        f"{1 - counts['tokens'] / (records * manifest.sequence_length):.1%} padding, "
        f"{counts['masked_tokens'] / records:.1f} masked tokens per record, "
        f"{counts['truncated_pairs'] / records:.1%} cut to length (BERT fills pairs up and cuts them)"
    )


def _warnings(manifest):
    corpus = manifest.counts["corpus"]
    if corpus["unknown_tokens"] > 0.01 * corpus["tokens"]:
        yield (
            f"{corpus['unknown_tokens'] / corpus['tokens']:.1%} of the tokens are [UNK]; "
            "is the vocabulary made from text like this, and cased as it should be?"
        )
    for split, counts in manifest.counts.items():
        if split == "corpus":
            continue
        if counts["random_next"] > 0.7 * counts["records"]:
            yield (
                f"{counts['random_next'] / counts['records']:.0%} of the {split} pairs are random, where about 50 % is usual; "
                "documents of one or two sentences make such records: do empty lines part documents, and line ends sentences?"
            )
        if counts["tokens"] < 0.5 * counts["records"] * manifest.sequence_length:
            yield f"more than half of the {split} split is padding; a shorter --sequence-length would save time."


def _examples(manifest, split, count):
    """Yields (token_ids, labels, positions, weights, nsp label) of the first records of a split, as NumPy arrays."""
    count = min(count, manifest.num_records(split))
    for x, y, sample_weight in read(manifest, split, batch_size=1, shuffle=False).take(count).as_numpy_iterator():
        length = int(x["padding_mask"][0].sum())
        yield x["token_ids"][0, :length], y["mlm"][0], x["mask_positions"][0], sample_weight["mlm"][0], int(y["nsp"][0])


def decode(token_ids, labels, positions, weights, next_sentence_label, vocabulary):
    """Writes one record as readable text; … stands for the lost beginning of a word that was cut.

    Args:
        token_ids: int [n], without padding.
        labels: int [P].
        positions: int [P].
        weights: float [P].
        next_sentence_label: 0 = B follows A, 1 = random.
        vocabulary: A Vocabulary.
    """
    pieces = [vocabulary.tokens[index] for index in token_ids]
    for position, label, weight in zip(positions, labels, weights, strict=True):
        if weight:
            original = vocabulary.tokens[label]
            joint, word = ("##", original[2:]) if original.startswith("##") else ("", original)
            shown = pieces[position].strip("[]").removeprefix("##")
            pieces[position] = f"{joint}[{word}=]" if pieces[position] == original else f"{joint}[{shown}→{word}]"
    kind = "B is random (1)" if next_sentence_label else "B follows A (0)"
    text = " ".join(pieces).replace("[CLS] ##", "[CLS] …").replace("[SEP] ##", "[SEP] …").replace(" ##", "")
    return f"{kind}\n  " + text.replace(" [SEP] ", " [SEP]\n  ", 1)
