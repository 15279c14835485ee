"""Checkpoints: exact, whole, verified, and nothing of another model's."""

import hashlib
import json
import shutil
import warnings

import numpy as np
import pytest
import safetensors.numpy
from model_fixtures import assert_equal_values, random_batch, randomize, tiny_config, values_of

from kbert.model.bert import pretraining_model
from kbert.run.checkpoints import list_checkpoints, restore_checkpoint, save_checkpoint
from kbert.step.objective import pretraining_objective
from tfrecords import InputError


def new_model(seed=0, **changes):
    model = pretraining_model(tiny_config(**({"num_layers": 1} | changes)), seed=seed)
    model.compile(**pretraining_objective(learning_rate=0.01, steps=50))
    model.optimizer.build(model.trainable_variables)
    return model


def state_of(model):
    return values_of([*model.variables, *model.optimizer.variables])


def random_state(model, seed):
    """Gives every variable of the model and the optimizer, counters included, another value."""
    randomize([*model.variables, *model.optimizer.variables], seed=seed)
    for number, variable in enumerate(model.non_trainable_variables):
        variable.assign(1000 * seed + number)
    model.optimizer.iterations.assign(seed)


@pytest.fixture
def saved(tmp_path):
    """(directory, model, states by step) with checkpoints of steps 3, 5 and 7."""
    model = new_model()
    states = {}
    for step in (3, 5, 7):
        random_state(model, step)
        states[step] = state_of(model)
        save_checkpoint(tmp_path / "checkpoints", model, step)
    return tmp_path / "checkpoints", model, states


def steps_of(directory):
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(directory)]


def flip_bit(path, offset, bit):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


def test_restores_every_variable_bit_for_bit(saved):
    directory, _, states = saved
    model = new_model(seed=1)
    assert restore_checkpoint(directory, model) == 7
    assert_equal_values(state_of(model), states[7])
    assert int(model.optimizer.iterations.numpy()) == 7
    assert [int(variable.numpy()) for variable in model.non_trainable_variables] == [
        7000,
        7001,
        7002,
        7003,
    ]


def test_every_variable_has_an_entry_of_its_own(saved):
    directory, model, _ = saved
    values = safetensors.numpy.load_file(directory / "step-000000007" / "weights.safetensors")
    assert len(values) == len(model.variables) + len(model.optimizer.variables)


def test_a_model_that_is_not_compiled_gets_the_weights(saved):
    directory, _, states = saved
    model = pretraining_model(tiny_config(num_layers=1), seed=1)
    assert restore_checkpoint(directory, model) == 7
    assert_equal_values(
        values_of(model.variables), {v.path: states[7][v.path] for v in model.variables}
    )


@pytest.mark.usefixtures("eager_steps")
def test_continuing_from_a_checkpoint_equals_never_stopping(tmp_path):
    batches = [random_batch(seed) for seed in range(5)]

    def train(model, batches):
        for x, y, sample_weight in batches:
            model.train_on_batch(x, y, sample_weight)

    whole = new_model(dropout=0.3)
    train(whole, batches[:2])
    save_checkpoint(tmp_path / "checkpoints", whole, 2)
    train(whole, batches[2:])

    continued = new_model(seed=0, dropout=0.3)
    assert restore_checkpoint(tmp_path / "checkpoints", continued) == 2
    assert int(continued.optimizer.iterations.numpy()) == 2
    train(continued, batches[2:])
    assert_equal_values(state_of(continued), state_of(whole))


def test_there_may_be_no_checkpoint(tmp_path):
    model = new_model()
    before = state_of(model)
    assert restore_checkpoint(tmp_path / "nowhere", model) is None
    assert_equal_values(state_of(model), before)


@pytest.mark.parametrize(("keep", "kept"), [(1, [11]), (2, [7, 11]), (9, [3, 5, 7, 11])])
def test_keeps_the_newest(saved, keep, kept):
    directory, model, _ = saved
    save_checkpoint(directory, model, 11, keep=keep)
    assert steps_of(directory) == kept


def test_a_good_checkpoint_is_not_overwritten(saved):
    directory, model, states = saved
    random_state(model, 13)
    save_checkpoint(directory, model, 7)
    restore_checkpoint(directory, model)
    assert_equal_values(state_of(model), states[7])


def truncate_weights(path):
    file = path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES = {
    "weights truncated": truncate_weights,
    "weights empty": lambda path: (path / "weights.safetensors").write_bytes(b""),
    "weights missing": lambda path: (path / "weights.safetensors").unlink(),
    "bit of the header": lambda path: flip_bit(path / "weights.safetensors", 20, 3),
    "first bit": lambda path: flip_bit(path / "weights.safetensors", 0, 0),
    "last bit": lambda path: flip_bit(path / "weights.safetensors", -1, 7),
    "state missing": lambda path: (path / "state.json").unlink(),
    "state truncated": lambda path: (path / "state.json").write_text('{"step": 7,'),
    "state empty": lambda path: (path / "state.json").write_text("{}"),
    "state of another kind": lambda path: (path / "state.json").write_text("[7]"),
    "state without a step": lambda path: rewrite_state(path, lambda state: state.pop("step")),
    "state of another step": lambda path: rewrite_state(path, lambda state: state.update(step=5)),
    "empty directory": lambda path: [file.unlink() for file in path.iterdir()],
}


def rewrite_state(path, change):
    state = json.loads((path / "state.json").read_text())
    change(state)
    (path / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(saved, damage):
    directory, model, states = saved
    damage(directory / "step-000000007")
    with pytest.warns(UserWarning, match=r"step-000000007 is damaged and passed over: .*"):
        assert restore_checkpoint(directory, model) == 5
    assert_equal_values(state_of(model), states[5])


def test_any_flipped_bit_of_the_state_is_noticed_or_harmless(saved):
    directory, model, _ = saved
    file = directory / "step-000000007" / "state.json"
    content = file.read_bytes()
    for offset in range(len(content)):
        flip_bit(file, offset, offset % 7)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step = restore_checkpoint(directory, model)
        assert step == (5 if caught else 7), file.read_bytes()
        assert len(caught) <= 1
        file.write_bytes(content)


def test_of_several_damaged_ones_each_is_named(saved):
    directory, model, states = saved
    truncate_weights(directory / "step-000000007")
    truncate_weights(directory / "step-000000005")
    with pytest.warns(UserWarning) as caught:
        assert restore_checkpoint(directory, model) == 3
    assert [
        name in str(warning.message)
        for warning, name in zip(caught, ("7 is damaged", "5 is damaged"), strict=True)
    ]
    assert_equal_values(state_of(model), states[3])


@pytest.mark.filterwarnings("ignore:The checkpoint:UserWarning")
def test_when_all_are_damaged_it_says_so(saved):
    directory, model, _ = saved
    for path in list_checkpoints(directory):
        truncate_weights(path)
    before = state_of(model)
    with pytest.raises(
        InputError,
        match=r"Expected an intact checkpoint in .*\. Received: 3, all of them damaged\.",
    ):
        restore_checkpoint(directory, model)
    assert_equal_values(state_of(model), before)


@pytest.mark.filterwarnings("ignore:The checkpoint:UserWarning")
@pytest.mark.parametrize("keep", [1, 3])
def test_training_again_past_a_damaged_checkpoint_replaces_it(saved, keep):
    directory, model, _ = saved
    truncate_weights(directory / "step-000000007")
    assert restore_checkpoint(directory, model) == 5
    for step in (6, 7):
        random_state(model, 10 + step)
        save_checkpoint(directory, model, step, keep=keep)
        expected = state_of(model)
        random_state(model, 1)
        assert restore_checkpoint(directory, model) == step
        assert_equal_values(state_of(model), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert restore_checkpoint(directory, model) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary_size": 59}, r"model/mlm/bias: shape \(53,\) there, \(59,\) here"),
        ({"num_layers": 2}, r"model/layer_1/\S+: shape absent there, \(.*\) here"),
        (
            {"intermediate_size": 41},
            r"model/layer_0/intermediate/bias: shape \(37,\) there, \(41,\) here",
        ),
        (
            {"max_positions": 31},
            r"model/embeddings/position_embeddings: shape \(29, 26\) there, \(31, 26\) here",
        ),
    ],
)
def test_another_models_checkpoint_is_refused_and_nothing_is_loaded(saved, changes, message):
    directory, _, _ = saved
    for model in (
        new_model(**changes),
        pretraining_model(tiny_config(**({"num_layers": 1} | changes))),
    ):
        before = values_of(model.variables)
        with pytest.raises(
            InputError, match=rf"^Expected a checkpoint of this model .* differs first in {message}"
        ):
            restore_checkpoint(directory, model)
        assert_equal_values(values_of(model.variables), before)


def test_a_larger_models_checkpoint_is_refused(tmp_path):
    save_checkpoint(tmp_path / "checkpoints", new_model(num_layers=2), 3)
    model = new_model()
    before = state_of(model)
    with pytest.raises(InputError, match=r"layer_1/\S+: shape \(.*\) there, absent here"):
        restore_checkpoint(tmp_path / "checkpoints", model)
    assert_equal_values(state_of(model), before)


def test_what_a_killed_save_left_is_ignored_and_cleaned(saved):
    directory, model, _ = saved
    shutil.copytree(directory / "step-000000007", directory / "step-000000011.partial")
    truncate_weights(directory / "step-000000011.partial")
    assert steps_of(directory) == [3, 5, 7]
    assert restore_checkpoint(directory, model) == 7
    save_checkpoint(directory, model, 11)
    assert sorted(path.name for path in directory.iterdir()) == [
        f"step-{step:09d}" for step in (5, 7, 11)
    ]
    assert restore_checkpoint(directory, model) == 11


def test_a_save_that_fails_leaves_the_checkpoints_as_they_were(saved, monkeypatch):
    directory, model, states = saved

    def fail(*_, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(directory, model, 11)
    assert steps_of(directory) == [3, 5, 7]
    assert restore_checkpoint(directory, model) == 7
    assert_equal_values(state_of(model), states[7])


def test_checkpoints_are_safetensors_and_json_alone(saved):
    directory, _, _ = saved
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) == 6
    assert {path.name for path in files} == {"weights.safetensors", "state.json"}
    (directory / "other").touch()
    for path in files:
        assert path.stat().st_mode == (directory / "other").stat().st_mode
        content = path.read_bytes()
        if path.suffix == ".json":
            assert set(json.loads(content)) == {"step", "weights_sha256"}
        else:
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            assert all(
                set(entry) == {"dtype", "shape", "data_offsets"} for entry in header.values()
            )


def test_the_hash_is_that_of_the_weights(saved):
    directory, _, _ = saved
    for path in list_checkpoints(directory):
        state = json.loads((path / "state.json").read_text())
        assert (
            state["weights_sha256"]
            == hashlib.sha256((path / "weights.safetensors").read_bytes()).hexdigest()
        )
        assert state["step"] == int(path.name[-9:])


def test_scalars_and_integers_keep_their_types(saved):
    directory, _, _ = saved
    values = safetensors.numpy.load_file(directory / "step-000000007" / "weights.safetensors")
    counters = [value for name, value in values.items() if name.endswith("/counter")]
    assert [(value.shape, value.dtype) for value in counters] == [((), np.int32)] * 4
