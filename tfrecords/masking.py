"""One masking of token ids as batched, stateless TensorFlow operations: for writing records and for reading them.

Devlin et al. 2019, section 3.1 and appendix A.1; create_masked_lm_predictions of google-research/bert. The masks are a pure
function of (token_ids, lengths, seed).
"""

import dataclasses

import tensorflow as tf

MASK_SHARE = 0.8
RANDOM_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Masking:
    """What to mask.

    Args:
        vocabulary_size: The number of ids that a random replacement is drawn from.
        cls_id: The id of [CLS], which is never masked.
        sep_id: The id of [SEP], which is never masked.
        mask_id: The id of [MASK].
        max_predictions: P, the number of slots for masked tokens in a sequence.
        mask_rate: The share of a sequence's tokens, special ones included, that is masked; from 0 to 1.
    """

    vocabulary_size: int
    cls_id: int
    sep_id: int
    mask_id: int
    max_predictions: int
    mask_rate: float = 0.15

    def num_predictions(self, length):
        """How many tokens are masked in a sequence of `length` tokens, special ones included: at least 1, at most P."""
        return min(self.max_predictions, max(1, round(length * self.mask_rate))) if self.mask_rate > 0 else 0


def mask_tokens(token_ids, lengths, masking, seed):
    """Masks a batch of sequences.

    Each sequence has `masking.num_predictions(length)` of its tokens predicted, drawn without replacement from all but
    [CLS] and [SEP]. Of those, 80 % become [MASK], 10 % a random token and 10 % stay. For one sequence, with 101 = [CLS],
    102 = [SEP], 103 = [MASK]:

        token_ids       101  7  8 102  9  5 102   0        lengths  7
        masked_ids      101  7 103 102  9  5 102   0
        positions         2   0     (P = 2, one in use)
        labels            8   0
        weights         1.0 0.0

    Args:
        token_ids: int32 [B, S], zero-padded, S at least P.
        lengths: int32 [B], the tokens of each sequence that are not padding.
        masking: A Masking.
        seed: int64 [2], the key of the draws.

    Returns:
        A dict of `token_ids` (int32 [B, S], masked), `positions` (int32 [B, P], ascending, then zeros), `labels` (int32
        [B, P], the original ids there, then zeros) and `weights` (float32 [B, P], 1 on slots in use, else 0).
    """
    batch_size, sequence_length = tf.unstack(tf.shape(token_ids))
    num_slots = masking.max_predictions
    keys = draws(seed, [3, batch_size, sequence_length])

    # The n tokens with the largest keys among the candidates are a uniform draw without replacement.
    inside = tf.range(sequence_length) < lengths[:, None]
    candidate = inside & (token_ids != masking.cls_id) & (token_ids != masking.sep_id)
    chosen = tf.math.top_k(tf.where(candidate, keys[0], -1.0), num_slots).indices
    table = tf.constant([masking.num_predictions(length) for length in range(token_ids.shape[1] + 1)], tf.int32)
    num_predictions = tf.minimum(tf.gather(table, lengths), tf.reduce_sum(tf.cast(candidate, tf.int32), axis=1))
    in_use = tf.range(num_slots) < num_predictions[:, None]
    positions = tf.sort(tf.where(in_use, chosen, sequence_length), axis=1)
    positions = tf.where(in_use, positions, 0)
    labels = tf.where(in_use, tf.gather(token_ids, positions, batch_dims=1), 0)

    what = tf.gather(keys[1], positions, batch_dims=1)
    random_ids = tf.cast(tf.gather(keys[2], positions, batch_dims=1) * masking.vocabulary_size, tf.int32)
    replacement = tf.where(what < MASK_SHARE, masking.mask_id, tf.where(what < MASK_SHARE + RANDOM_SHARE, random_ids, labels))
    # A slot out of use points at position 0 and writes back what stands there.
    replacement = tf.where(in_use, replacement, token_ids[:, :1])
    rows = tf.broadcast_to(tf.range(batch_size)[:, None], tf.shape(positions))
    masked_ids = tf.tensor_scatter_nd_update(token_ids, tf.stack([rows, positions], axis=-1), replacement)
    return {
        "token_ids": masked_ids,
        "positions": positions,
        "labels": labels,
        "weights": tf.cast(in_use, tf.float32),
    }


def draws(seed, shape):
    """The uniform draws in [0, 1) behind a masking, float32: one algorithm on every device, equal for equal seeds."""
    return tf.random.stateless_uniform(shape, seed, alg="philox")
