"""The README.md beside an exported model: how to use it, what it is, and how it was trained."""

from __future__ import annotations

from kbert.formats.pretrained import Pretrained
from kbert.objectives import objectives_of


def model_card(pretrained: Pretrained, usage: str, front_matter: str = "") -> str:
    """Writes a model card in Markdown.

    Args:
        pretrained: The Pretrained that is exported.
        usage: The section on how to use it, with its heading; DIRECTORY stands for the place of the
            model.
        front_matter: Metadata in YAML, between lines of "---", that some sites read.
    """
    bert = pretrained.bert
    num_weights = sum(value.size for value in pretrained.weights.values())
    tasks = " and ".join(
        objective.descriptions[pretrained.pairs]
        for objective in objectives_of(pretrained.pairs, pretrained.layers)
    )
    shape = (
        f"BERT with {bert.num_layers} layers of {bert.hidden_size} units, {bert.num_heads} "
        f"attention heads, a vocabulary of {bert.vocabulary_size:,} "
        f"{pretrained.normalization.description} tokens and "
        f"{num_weights:,} weights.\n"
        f"It was trained on inputs of up to {pretrained.sequence_length} tokens, to predict "
        f"{tasks}.\n"
    )
    sections = [f"# A BERT model pretrained with kbert\n\n{shape}", usage]
    if pretrained.training:
        sections.append(f"## How it was trained\n\n{pretrained.training}")
    return front_matter + "\n".join(section.strip("\n") + "\n" for section in sections)
