"""BERT of `transformers` beside a kbert model: the same shape, the same weights, the same
batches."""

import numpy as np
import torch
import transformers

HUGGING_FACE_GELU = {True: "gelu", False: "gelu_pytorch_tanh"}


def from_transformers(state, num_layers):
    """Copies of the weights of a BertForPreTraining (its state_dict), by the paths of a kbert
    model."""
    state = {name: value.numpy().copy() for name, value in state.items()}

    def dense(path, name):
        return {f"{path}/kernel": state[f"{name}.weight"].T, f"{path}/bias": state[f"{name}.bias"]}

    def norm(path, name):
        return {f"{path}/gamma": state[f"{name}.weight"], f"{path}/beta": state[f"{name}.bias"]}

    weights = {
        "token_embedding/embeddings": state["bert.embeddings.word_embeddings.weight"],
        "embeddings/position_embeddings": state["bert.embeddings.position_embeddings.weight"],
        "embeddings/segment_embeddings": state["bert.embeddings.token_type_embeddings.weight"],
        "mlm/bias": state["cls.predictions.bias"],
        **norm("embeddings/layer_norm", "bert.embeddings.LayerNorm"),
        **dense("pooler/dense", "bert.pooler.dense"),
        **dense("mlm_transform/dense", "cls.predictions.transform.dense"),
        **norm("mlm_transform/layer_norm", "cls.predictions.transform.LayerNorm"),
        **dense("nsp", "cls.seq_relationship"),
    }
    for index in range(num_layers):
        ours, theirs = f"layer_{index}", f"bert.encoder.layer.{index}"
        thirds = [
            dense(part, f"{theirs}.attention.self.{part}") for part in ("query", "key", "value")
        ]
        for kind in ("kernel", "bias"):
            parts = [
                value for third in thirds for path, value in third.items() if path.endswith(kind)
            ]
            weights[f"{ours}/qkv/{kind}"] = np.concatenate(parts, axis=-1)
        weights |= dense(f"{ours}/attention_output", f"{theirs}.attention.output.dense")
        weights |= norm(f"{ours}/attention_norm", f"{theirs}.attention.output.LayerNorm")
        weights |= dense(f"{ours}/intermediate", f"{theirs}.intermediate.dense")
        weights |= dense(f"{ours}/output", f"{theirs}.output.dense")
        weights |= norm(f"{ours}/output_norm", f"{theirs}.output.LayerNorm")
    return weights


def assign(model, weights):
    """Gives every trainable variable of a model its value; none is left over on either side."""
    variables = {variable.path: variable for variable in model.trainable_variables}
    assert variables.keys() == weights.keys()
    for path, variable in variables.items():
        assert variable.shape == weights[path].shape, path
        variable.assign(weights[path])


def transformers_model(config):
    """A BertForPreTraining of the same shape with its own initial weights, without dropout."""
    torch.manual_seed(3)
    model = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=config.vocabulary_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            hidden_act=HUGGING_FACE_GELU[config.exact_gelu],
        )
    )
    return model.eval()


def randomize_transformers(model):
    """Moves every weight off its initial value, so that no default is left that could hide a
    fault."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(
                0.3 * torch.randn(parameter.shape) + (1.0 if "LayerNorm.weight" in name else 0.0)
            )
    return model


def transformers_outputs(model, x, **labels):
    """What the model makes of the x of a batch; with labels, also the loss."""
    tensors = {name: torch.tensor(value, dtype=torch.long) for name, value in x.items()}
    return model(
        input_ids=tensors["token_ids"],
        token_type_ids=tensors["segment_ids"],
        attention_mask=tensors["padding_mask"],
        **{name: torch.tensor(value, dtype=torch.long) for name, value in labels.items()},
    )


def labels_of(x, y, sample_weight):
    """The labels of a batch as the model of transformers takes them: -100 where no token is to be
    predicted."""
    labels = np.full(x["token_ids"].shape, -100)
    for row, (positions, weights) in enumerate(
        zip(x["mask_positions"], sample_weight["mlm"], strict=True)
    ):
        labels[row, positions[weights == 1]] = y["mlm"][row, weights == 1]
    return {"labels": labels, "next_sentence_label": y["nsp"]}
