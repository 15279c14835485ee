"""Names of strategies to devices, TF_CONFIG, and which batches a device gets."""

import contextlib
import json
import types

import forked
import keras
import pytest
import tensorflow as tf

from kbert.run.distribution import STRATEGIES, _cluster, batches_for, devices_of

TWO_WORKERS = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """No cluster, no TPU and a single CPU, whatever the machine."""
    for name in ("TF_CONFIG", "TPU_NAME", "TPU_ACCELERATOR_TYPE"):
        monkeypatch.delenv(name, raising=False)
    devices = {"GPU": [], "CPU": [types.SimpleNamespace(name="CPU:0")]}
    monkeypatch.setattr(tf.config, "list_logical_devices", devices.__getitem__)
    return devices


@pytest.mark.parametrize("name", ["one", "auto"])
def test_a_single_device(name):
    devices = devices_of(name)
    assert (devices.name, devices.num_replicas, devices.is_chief) == ("one", 1, True)
    assert isinstance(devices.scope(), contextlib.nullcontext)
    assert devices.check_same_step(7) is None


@pytest.mark.parametrize("name", ["two", "", "One", None])
def test_a_strategy_that_is_not_there_is_refused(name, refused):
    with refused(
        r"^Expected a strategy among auto, one, mirrored, multi-worker, tpu\. Received: "
        rf"{name!r}\.$"
    ):
        devices_of(name)
    assert name not in STRATEGIES


def test_parameter_servers_are_refused_with_a_reason(refused):
    with refused(
        "^Expected a strategy whose updates are in step on all devices.* 'parameter-server'; take "
        "multi-worker"
    ):
        devices_of("parameter-server")


def test_mirrored_needs_two_devices(refused, plain_environment):
    with refused(
        "^Expected at least 2 devices for the strategy 'mirrored'. Received: 1; take one.$"
    ):
        devices_of("mirrored")
    plain_environment["GPU"] = plain_environment["CPU"]
    with refused("Received: 1; take one"):
        devices_of("mirrored")


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_auto_takes_all_gpus(gpus, plain_environment, monkeypatch):
    plain_environment["GPU"] = [
        types.SimpleNamespace(name=f"GPU:{number}") for number in range(gpus)
    ]
    fake = lambda names: types.SimpleNamespace(num_replicas_in_sync=len(names))  # noqa: E731
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", fake)
    devices = devices_of("auto")
    assert (devices.name, devices.num_replicas) == (("mirrored", 2) if gpus == 2 else ("one", 1))
    assert devices_of("one").num_replicas == 1


@pytest.mark.parametrize("variable", ["TPU_NAME", "TPU_ACCELERATOR_TYPE", None])
def test_a_tpu_that_is_not_there_is_refused(variable, monkeypatch, refused):
    def connect(tpu):
        assert tpu == (
            "x" if variable == "TPU_NAME" else "local"
        )  # by name, or the one of this machine
        raise ValueError("Please provide a TPU Name\nto connect to.")

    monkeypatch.setattr(tf.distribute.cluster_resolver.TPUClusterResolver, "connect", connect)
    if variable:
        monkeypatch.setenv(variable, "x")
    with refused(
        r"^Expected a TPU\. Received: none \(Please provide a TPU Name to connect to\.\)\.$"
    ):
        devices_of("auto" if variable else "tpu")


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("name", ["auto", "multi-worker"])
def test_workers_of_tf_config(name, index, monkeypatch):
    monkeypatch.setenv(
        "TF_CONFIG", json.dumps(TWO_WORKERS | {"task": {"type": "worker", "index": index}})
    )
    strategy = types.SimpleNamespace(
        num_replicas_in_sync=2, cluster_resolver=types.SimpleNamespace(task_id=index)
    )
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda: strategy)
    devices = devices_of(name)
    assert (devices.name, devices.num_replicas, devices.is_chief) == ("multi-worker", 2, index == 0)


@pytest.mark.parametrize("name", ["auto", "multi-worker"])
def test_a_cluster_of_one_worker_is_one_device(name, monkeypatch):
    monkeypatch.setenv(
        "TF_CONFIG",
        json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}),
    )
    assert devices_of(name).name == "one"


def test_a_port_in_use_is_refused(monkeypatch, refused):
    def listen():
        raise tf.errors.UnknownError(None, None, "Could not start gRPC server\non port 1")

    monkeypatch.setenv("TF_CONFIG", json.dumps(TWO_WORKERS))
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", listen)
    with refused(
        "^Expected to listen at this worker's address in TF_CONFIG .* Received: Could not start "
        "gRPC server on port"
    ):
        devices_of("auto")


def test_no_tf_config(monkeypatch, refused):
    assert _cluster(required=False) == []
    with refused(
        "^Expected TF_CONFIG in the environment for multi-worker, such as .* Received: none.$"
    ):
        _cluster(required=True)
    with refused("^Expected TF_CONFIG in the environment for multi-worker"):
        devices_of("multi-worker")
    monkeypatch.setenv("TF_CONFIG", "")
    assert _cluster(required=False) == []


@pytest.mark.parametrize("required", [False, True])
def test_a_good_tf_config(monkeypatch, required):
    monkeypatch.setenv("TF_CONFIG", json.dumps(TWO_WORKERS, indent=1))
    assert _cluster(required) == ["a:1", "b:2"]


def changed(cluster=None, **task):
    return json.dumps(
        {"cluster": cluster or TWO_WORKERS["cluster"], "task": TWO_WORKERS["task"] | task}, indent=1
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("workers: 2", "JSONDecodeError"),
        ("[1,\n 2]", "TypeError"),
        ("null", "TypeError"),
        ("{}", "KeyError: 'cluster'"),
        ('{"cluster": {"worker": ["a:1"]}}', "KeyError: 'task'"),
        (changed(index=2), "the task's index among them"),
        (changed(index=-1), "the task's index among them"),
        (changed(index="1"), "TypeError"),
        (changed(index=None), "TypeError"),
        (changed(type="chief"), "workers alone"),
        (changed({"chief": ["a:1"]}), "KeyError: 'worker'"),
        (changed({"worker": ["a:1", "b:2"], "ps": ["c:3"]}), "workers alone"),
        (changed({"worker": []}), "the task's index among them"),
        (changed({"worker": ["a:1", "b"]}), "a worker's address is host:port"),
        (changed({"worker": ["a:1", "b:"]}), "a worker's address is host:port"),
        (changed({"worker": ["a:1", 2]}), "a worker's address is host:port"),
    ],
)
@pytest.mark.parametrize("name", ["auto", "multi-worker"])
def test_a_bad_tf_config_is_refused(monkeypatch, refused, name, text, reason):
    monkeypatch.setenv("TF_CONFIG", text)
    with refused(rf"^Expected TF_CONFIG such as .* Received: .*{reason}"):
        devices_of(name)


def test_without_a_strategy_there_is_one_pipeline():
    asked = []
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    assert batches_for(model, lambda context: asked.append(context) or "batches") == "batches"
    assert (
        batches_for(object(), lambda context: asked.append(context) or "batches") == "batches"
    )  # as on JAX
    assert asked == [None, None]


ON_TWO_DEVICES = """
import json, keras, tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from kbert.run.distribution import batches_for, devices_of

there, auto = devices_of("mirrored"), devices_of("auto")
with there.scope():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
contexts = []
def make(context):
    pipelines = [context.num_input_pipelines, context.input_pipeline_id]
    contexts.append([*pipelines, context.num_replicas_in_sync])
    return tf.data.Dataset.range(8).batch(2)
batches = [[one.numpy().tolist() for one in batch.values] for batch in batches_for(model, make)]
devices = [there.name, there.num_replicas, there.is_chief, auto.name]
print("seen", json.dumps([*devices, contexts, batches]))
"""


def test_two_devices_share_a_pipeline_and_take_turns_in_its_batches():
    done = forked.run("-c", ON_TWO_DEVICES)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.rpartition("seen ")[2])
    assert seen == ["mirrored", 2, True, "one", [[1, 0, 2]], [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]
