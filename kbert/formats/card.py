"""The README.md that lies beside an exported model: how to use it, what it is, and how it was
trained."""

import numpy as np


def model_card(pretrained, usage, front_matter=""):
    """Writes a model card in Markdown.

    Args:
        pretrained: The Pretrained that is exported.
        usage: The section on how to use it, with its heading; DIRECTORY stands for where the model
            is.
        front_matter: Metadata in YAML, between lines of "---", that some sites read.
    """
    bert = pretrained.bert
    num_weights = sum(int(np.prod(value.shape)) for value in pretrained.weights.values())
    shape = (
        f"BERT with {bert.num_layers} layers of {bert.hidden_size}, {bert.num_heads} attention "
        "heads, a vocabulary of "
        f"{bert.vocabulary_size:,} {'cased' if pretrained.cased else 'uncased'} pieces and "
        f"{num_weights:,} weights.\n"
        f"It was trained on inputs of up to {pretrained.sequence_length} tokens, to predict masked "
        "words"
        f"{_PAIRS[pretrained.pairs]}.\n"
    )
    sections = [f"# A BERT model pretrained with kbert\n\n{shape}", usage]
    if pretrained.training:
        sections.append(f"## How it was trained\n\n{pretrained.training}")
    return front_matter + "\n".join(section.strip("\n") + "\n" for section in sections)


_PAIRS = {
    "nsp": " and next sentences\n(label 0: the second text follows the first, 1: it is random)",
    "sop": " and sentence order\n(label 0: the two texts are in order, 1: they are swapped)",
    "none": "",
}
