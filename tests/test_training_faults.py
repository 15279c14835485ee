"""What goes wrong around a run that is being trained: each is said in one line, and nothing that
was written is lost."""

import dataclasses
import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from click.testing import CliRunner
from model_fixtures import (
    ROOT,
    RUN_SETTINGS,
    assert_equal_values,
    run_config,
    tiny_config,
    values_of,
)

import kbert.run.saving
from kbert.cli import main
from kbert.config import PretrainingConfig
from kbert.pretraining import pretrain
from kbert.run.checkpoints import list_checkpoints
from kbert.run.directory import load_run
from kbert.run.distribution import check_shares
from kbert.run.errors import TrainingError, damaged_shards_named
from kbert.run.pace import Pace
from kbert.run.stops import StopOnSignal
from tfrecords import InputError, load_manifest
from tfrecords.vocabulary import SPECIAL_TOKENS

pytest_plugins = ["model_fixtures"]

SHORT = PretrainingConfig(steps=6, batch_size=8, evaluate_every=3, checkpoint_every=2, seed=5)


def content(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# Checkpoints.


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_a_run_whose_newest_checkpoints_are_damaged_goes_back(tiny_run, tiny_records, tmp_path):
    # Every kind of damage to one checkpoint is in test_checkpoints.py.
    directory = tmp_path / "run"
    shutil.copytree(tiny_run.directory, directory)
    *_, truncated, flipped = list_checkpoints(directory / "checkpoints")
    (truncated / "weights.safetensors").write_bytes(
        (truncated / "weights.safetensors").read_bytes()[:-9]
    )
    flip(flipped / "weights.safetensors")
    with pytest.warns(UserWarning) as caught:
        model, results = pretrain(
            tiny_records, directory, bert=run_config(), pretraining=RUN_SETTINGS, verbose=0
        )
    named = [str(warning.message).split(" is damaged and passed over: ")[0] for warning in caught]
    assert named == [f"The checkpoint {flipped}", f"The checkpoint {truncated}"]
    assert_equal_values(values_of([*model.variables, *model.optimizer.variables]), tiny_run.weights)
    assert results == tiny_run.results
    whole = list_checkpoints(tiny_run.directory / "checkpoints")[-1]
    assert (flipped / "weights.safetensors").read_bytes() == (
        whole / "weights.safetensors"
    ).read_bytes()


def test_a_disk_that_is_really_full_costs_a_warning(tiny_records, tmp_path, monkeypatch):
    # From step 3 to 4 no file may be longer than 100 bytes: no checkpoint, no history, no picture.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ended = Pace.on_train_batch_end

    def on_train_batch_end(pace, batch, logs=None):
        ended(pace, batch, logs)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 if 3 <= pace.step < 5 else soft, hard))

    monkeypatch.setattr("kbert.run.pace.Pace.on_train_batch_end", on_train_batch_end)
    settings = dataclasses.replace(SHORT, checkpoint_every=1, keep_checkpoints=9)
    try:
        with pytest.warns(UserWarning) as caught:
            model, _ = pretrain(
                tiny_records, tmp_path / "run", bert=run_config(), pretraining=settings, verbose=0
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = [str(warning.message) for warning in caught]
    assert [one.split(" could be")[0] for one in said] == [
        *(
            "Step 3: no checkpoint",
            "Step 3: no history",
            "Step 3: no checkpoint",
            "Step 4: no checkpoint",
        )
    ]
    assert all(one.endswith("training goes on.") and "ile too large" in one for one in said)
    assert [row["step"] for row in load_run(tmp_path / "run").history.rows()] == [6]
    assert int(model.optimizer.iterations.numpy()) == 6
    kept = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.name[-1] for path in kept] == ["1", "2", "5", "6"]
    assert not list((tmp_path / "run").rglob("*.partial"))


# Signals, beyond what test_training_kills.py does with processes.


@pytest.fixture
def handlers():
    """Puts handlers in place that raise, as those of Python and of the command line do."""

    def end(number, frame):
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    yield end
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait(handlers, second):
    saved = []
    with pytest.raises(SystemExit) as caught, StopOnSignal(lambda: saved.append(1)):
        signal.raise_signal(signal.SIGTERM)  # waits for the end of a step
        signal.raise_signal(second)
    assert (caught.value.code, saved) == (128 + second, [])
    assert signal.getsignal(signal.SIGTERM) is handlers


def test_a_signal_after_the_last_batch_is_not_forgotten(handlers):
    saved = []
    with pytest.raises(KeyboardInterrupt), StopOnSignal(lambda: saved.append(1)) as stop:
        stop.on_train_batch_end(0)
        signal.raise_signal(signal.SIGINT)
    assert saved == [1]


def test_signals_are_left_alone_outside_of_the_main_thread(handlers):
    seen = []

    def enter():
        with StopOnSignal(lambda: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [handlers]


# Losses.


def test_a_loss_that_is_not_a_number_ends_the_command(tiny_records, tmp_path, monkeypatch):
    monkeypatch.setattr("kbert.pretraining.resolve_bert", lambda *_, **__: run_config())
    options = (
        "--steps=9",
        "--warmup-steps=9",
        "--learning-rate=1e30",
        "--checkpoint-every=1",
        "--batch-size=8",
    )
    words = [
        "pretrain",
        str(tiny_records),
        f"--output={tmp_path / 'run'}",
        *options,
        "--evaluate-every=9",
    ]
    seen = []
    for _ in range(2):  # again, it comes to the same end
        done = CliRunner().invoke(main, words)
        (kept,) = list_checkpoints(tmp_path / "run" / "checkpoints")[-1:]
        assert done.exit_code == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(
            f"Error: Step {int(kept.name[-9:]) + 1}: expected a finite loss. Received: "
        )
        assert f"the last good checkpoint is {kept}" in line
        values = safetensors.numpy.load_file(kept / "weights.safetensors")
        assert all(np.isfinite(value).all() for value in values.values())
        seen.append(content(tmp_path / "run"))
    assert seen[0] == seen[1]


# Patience.


@pytest.mark.long
def test_patience_stops_early_and_resumes_with_the_same_count(tiny_records, tmp_path, monkeypatch):
    # Without a learning rate no evaluation is better than the first: the third in a row is the
    # last.
    settings = dataclasses.replace(
        SHORT, steps=40, learning_rate=0.0, evaluate_every=4, checkpoint_every=3, patience=3
    )

    def run(name):
        return pretrain(
            tiny_records, tmp_path / name, bert=run_config(), pretraining=settings, verbose=0
        )

    def history(name):
        return [(row["step"], row["val_loss"]) for row in load_run(tmp_path / name).history.rows()]

    _, results = run("whole")
    assert [step for step, _ in history("whole")] == [4, 8, 12, 16]
    assert json.loads((tmp_path / "whole" / "results.json").read_text()) == {
        "step": 16,
        "best_step": 4,  # the first of equal ones
        "held_out": results,
    }

    # Stops between evaluations, in the middle of one whose step has a checkpoint, and before the
    # results.
    save, test_began = kbert.run.saving.save_checkpoint, Pace.on_test_begin

    def press(*_, **__):
        raise KeyboardInterrupt

    def save_until(step):
        return lambda directory, model, now, **options: (press if now == step else save)(
            directory, model, now, **options
        )

    def test_until(step):
        return lambda pace, logs=None: (press if pace.step == step else test_began)(pace, logs)

    for home, name, stop, last in (
        ("kbert.run.saving", "save_checkpoint", save_until(9), 8),
        ("kbert.run.pace.Pace", "on_test_begin", test_until(12), 12),
        ("kbert.run.directory.Run", "save_results", press, 16),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"{home}.{name}", stop)
            with pytest.raises(KeyboardInterrupt):
                run("stopped")
        assert list_checkpoints(tmp_path / "stopped" / "checkpoints")[-1].name == f"step-{last:09d}"
    monkeypatch.setattr("keras.Model.fit", press)  # no step is left
    assert run("stopped")[1] == results
    assert history("stopped") == history("whole")
    # Finished is finished.
    monkeypatch.setattr("keras.Model.evaluate", press)
    for name in ("whole", "stopped"):
        assert run(name)[1] == results


# Another run's weights.


def test_a_run_starts_from_anothers_weights_and_nothing_else(tiny_run, tiny_records, tmp_path):
    settings = dataclasses.replace(SHORT, learning_rate=0.0, steps=2, checkpoint_every=1)
    model, _ = pretrain(
        *(tiny_records, tmp_path / "run"),
        bert=dataclasses.replace(run_config(), dropout=0.2),  # may be another
        pretraining=settings,
        init_from=tiny_run.directory,
        verbose=0,
    )
    expected = {path: tiny_run.weights[path] for path in values_of(model.variables)}
    assert_equal_values(values_of(model.variables), expected)
    # The records have 23 tokens, the model 29 positions, and those that nothing was read at are
    # kept too.
    assert expected["embeddings/position_embeddings"].shape == (29, 26)
    assert int(model.optimizer.iterations.numpy()) == 2
    names = [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert names == ["step-000000001", "step-000000002"]
    # The means of the optimizer after one update from zero are a tenth of one gradient, a
    # thousandth of its square.
    state = safetensors.numpy.load_file(
        tmp_path / "run" / "checkpoints" / names[0] / "weights.safetensors"
    )
    assert int(state["optimizer/bert_adamw/iteration"]) == 1
    pairs = [
        (name, name.replace("_momentum", "_velocity"))
        for name in state
        if name.endswith("_momentum")
    ]
    assert len(pairs) == len(model.trainable_variables)
    for momentum, velocity in pairs:
        np.testing.assert_allclose(
            state[velocity], 0.001 * (state[momentum] / 0.1) ** 2, rtol=1e-3, atol=1e-12
        )


def test_anothers_weights_that_do_not_fit_are_refused(tiny_run, tiny_records, tmp_path):
    for records, bert, init_from, message in (
        (tiny_records, tiny_config(), tiny_run.directory, r"another: num_layers: 1 there, 2 here"),
        (tiny_records, run_config(), tmp_path, "Expected a run by 'kbert pretrain' or a BERT"),
        (
            *(tiny_records, tiny_config(num_segments=1), None),
            r"single segments for a model with one segment embedding .* with --pairs none\.",
        ),
    ):
        with pytest.raises(InputError, match=message) as caught:
            pretrain(
                records,
                tmp_path / "run",
                bert=bert,
                pretraining=SHORT,
                init_from=init_from,
                verbose=0,
            )
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_a_run_goes_on_only_with_the_weights_that_it_began_with(tiny_run, tiny_records):
    before = content(tiny_run.directory)
    with pytest.raises(InputError, match=r"initial_sha256: None before, '\w{64}' now"):
        pretrain(
            *(tiny_records, tiny_run.directory),
            bert=run_config(),
            pretraining=RUN_SETTINGS,
            init_from=tiny_run.directory,
            verbose=0,
        )
    assert content(tiny_run.directory) == before


# Records.


RECORD_DAMAGES = {
    "cut": lambda shard: shard.write_bytes(shard.read_bytes()[:-7]),
    "bit-flipped": flip,
    "missing": lambda shard: shard.unlink(),
    "of zero bytes": lambda shard: shard.write_bytes(b""),
    "one too many": lambda shard: shutil.copy(
        shard, shard.with_name("train-00007-of-00001.tfrecord")
    ),
    "vocabulary": lambda shard: (shard.parent / "vocab.txt").write_text(
        "\n".join(SPECIAL_TOKENS) + "\nba\n"
    ),
}


@pytest.mark.parametrize("damage", RECORD_DAMAGES.values(), ids=RECORD_DAMAGES.keys())
def test_damaged_records_are_named_before_anything_is_written(
    tiny_records, tmp_path, damage, refused
):
    records = tmp_path / "records"
    shutil.copytree(tiny_records, records)
    damage(records / "train-00000-of-00001.tfrecord")
    with refused(r"records/(train-0000\d-of-00001\.tfrecord|vocab\.txt)"):
        pretrain(records, tmp_path / "run", bert=run_config(), pretraining=SHORT, verbose=0)
    assert not (tmp_path / "run").exists()


def test_a_shard_that_is_damaged_during_training_is_named(tiny_records, tmp_path, monkeypatch):
    records = tmp_path / "records"
    shutil.copytree(tiny_records, records)
    shard = records / "train-00000-of-00001.tfrecord"
    ended = Pace.on_train_batch_end

    def damage(pace, batch, logs=None):
        ended(pace, batch, logs)
        if pace.step == 3:
            flip(shard)

    settings = dataclasses.replace(SHORT, steps=300, evaluate_every=300, checkpoint_every=300)

    def run(name):
        return pretrain(
            records, tmp_path / name, bert=run_config(), pretraining=settings, verbose=0
        )

    with monkeypatch.context() as patch:
        patch.setattr(Pace, "on_train_batch_end", damage)
        with pytest.raises(TrainingError) as caught:
            run("run")
    (saved,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"A shard was damaged during training; saved {saved}. {shard}: ")
    assert message.endswith("run the same command again to continue.")
    # The records of an epoch are read ahead of their updates: it is noticed in a later one. What
    # was saved is the state after whole updates.
    step = int(saved.name.removeprefix("step-"))
    assert step >= 3
    state = safetensors.numpy.load_file(saved / "weights.safetensors")
    assert int(state["optimizer/bert_adamw/iteration"]) == step
    with pytest.raises(InputError, match="a damaged file"):
        run("run")


def test_another_error_of_tensorflow_is_not_taken_for_a_damaged_shard(tiny_records):
    manifest = load_manifest(tiny_records)
    saved = []
    with (
        pytest.raises(tf.errors.DataLossError),
        damaged_shards_named(manifest, lambda: saved.append(1)),
    ):
        raise tf.errors.DataLossError(None, None, "of something else")
    assert saved == []


# Devices.


@pytest.mark.parametrize(
    ("batch_size", "replicas", "accumulate", "message"),
    [
        (
            10,
            4,
            1,
            r"a batch size that 4 devices with 1 micro-batch each share evenly\. Received: 10; "
            r"take 8\.",
        ),
        (
            10,
            1,
            3,
            r"a batch size that 1 device with 3 micro-batches each share evenly\. Received: 10; "
            r"take 9\.",
        ),
        (1, 2, 2, r"Received: 1; take 4\."),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused(
    batch_size, replicas, accumulate, message, refused
):
    with refused(message):
        check_shares(batch_size, replicas, accumulate)
    check_shares(12 * replicas, replicas, accumulate)


def tf_config(workers=("localhost:12345",), **task):
    return json.dumps(
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": 0} | task}
    )


@pytest.mark.parametrize(
    ("strategy", "config", "message"),
    [
        ("multi-worker", None, "Expected TF_CONFIG in the environment for multi-worker, such as"),
        ("multi-worker", "worker 0", "Expected TF_CONFIG such as"),
        ("multi-worker", '["localhost:12345"]', "Expected TF_CONFIG such as"),
        ("multi-worker", '{"task": {"type": "worker", "index": 0}}', "(KeyError: 'cluster')"),
        (
            "multi-worker",
            tf_config(index=1),
            "it may have workers alone, and the task's index among them",
        ),
        (
            "multi-worker",
            tf_config(index=-1),
            "it may have workers alone, and the task's index among them",
        ),
        (
            "multi-worker",
            tf_config(type="ps"),
            "it may have workers alone, and the task's index among them",
        ),
        ("multi-worker", tf_config(workers=["localhost"]), "a worker's address is host:port"),
        ("multi-worker", tf_config(workers=[12345]), "a worker's address is host:port"),
        ("auto", tf_config(workers=["localhost:"]), "a worker's address is host:port"),
        (
            "mirrored",
            None,
            "Expected at least 2 devices for the strategy 'mirrored'. Received: 1; take one.",
        ),
        ("tpu", None, "Expected a TPU. Received: none ("),
        ("parameter-server", None, "Received: 'parameter-server'; take multi-worker."),
        (
            "many",
            None,
            "Expected a strategy among auto, one, mirrored, multi-worker, tpu. Received: 'many'.",
        ),
    ],
)
def test_devices_that_are_not_there_are_one_line(
    tiny_records, tmp_path, monkeypatch, strategy, config, message
):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    words = [
        "pretrain",
        str(tiny_records),
        f"--output={tmp_path / 'run'}",
        "--size=tiny",
        "--batch-size=8",
    ]
    done = CliRunner().invoke(main, [*words, f"--strategy={strategy}"])
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: Expected ")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_an_address_in_use_is_one_line(tiny_records, tmp_path):
    with socket.create_server(("localhost", 0)) as taken:
        config = tf_config(workers=[f"localhost:{taken.getsockname()[1]}", "localhost:9"])
        command = [
            sys.executable,
            "-m",
            "kbert",
            "pretrain",
            str(tiny_records),
            f"--output={tmp_path / 'run'}",
        ]
        done = subprocess.run(
            [*command, "--size=tiny", "--batch-size=8", "--strategy=multi-worker"],
            env={"PYTHONPATH": str(ROOT), "PATH": "", "TF_CONFIG": config},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "Error: Expected to listen at this worker's address in TF_CONFIG and to reach the others. "
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


# TensorBoard.


@pytest.mark.long
def test_points_between_evaluations(tiny_records, tmp_path, monkeypatch):
    for module in ("history", "tensorboard"):
        monkeypatch.setattr(f"kbert.run.{module}.ROWS_EVERY", 0.0)
    pretrain(
        *(tiny_records, tmp_path / "run"),
        bert=run_config(),
        pretraining=dataclasses.replace(SHORT, evaluate_every=6),
        tensorboard=True,
        verbose=0,
    )
    rows = load_run(tmp_path / "run").history.rows()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert ["val_loss" in row for row in rows] == [False] * 5 + [True]
    (file,) = (tmp_path / "run" / "tensorboard" / "train").iterdir()
    events = [
        tf.compat.v1.Event.FromString(record)
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    ]
    assert {event.step for event in events if event.summary.value} == set(range(1, 7))


def test_figures_for_tensorboard(tiny_records, tmp_path):
    pretrain(
        *(tiny_records, tmp_path / "run"),
        bert=run_config(),
        pretraining=SHORT,
        tensorboard=True,
        verbose=0,
    )
    seen = {}
    for split in ("train", "validation"):
        (file,) = (tmp_path / "run" / "tensorboard" / split).iterdir()
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                seen[split, event.step, value.tag] = float(tf.make_ndarray(value.tensor))
    names = {"loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"}
    assert set(seen) == {
        (split, step, name)
        for split in ("train", "validation")
        for step in (3, 6)
        for name in (names | {"learning_rate"} if split == "train" else names)
    }
    for row in load_run(tmp_path / "run").history.rows():
        for name in names:
            assert seen["train", row["step"], name] == pytest.approx(row[name], abs=1e-5)
            assert seen["validation", row["step"], name] == pytest.approx(
                row[f"val_{name}"], abs=1e-5
            )


def test_without_tensorboard_it_says_what_to_install(tiny_records, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    words = [
        "pretrain",
        str(tiny_records),
        f"--output={tmp_path / 'run'}",
        "--size=tiny",
        "--batch-size=8",
        "--tensorboard",
    ]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        "Error: Expected the package tensorboard. Received: none; pip install '.[tensorboard]' in "
        "the clone.\n"
    )
    assert not (tmp_path / "run").exists()
