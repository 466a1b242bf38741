"""What can be wrong with TF_CONFIG, and what is said where other workers are lost."""

import json

import pytest

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.training.devices.cluster import check_tf_config
from state_of_sparsity.models.training.devices.lost_workers import (
    WorkersError,
    noticing_lost_workers,
)

CLUSTER = {"worker": ["127.0.0.1:2001", "127.0.0.1:2002"]}


def config(cluster=CLUSTER, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"distribution=multi_worker reads.* TF_CONFIG .*Received: TF_CONFIG=''"),
        ("{'cluster'", r"TF_CONFIG is no JSON \(.*Received: TF_CONFIG="),
        ("[1]", r"TF_CONFIG must be an object.*Received: TF_CONFIG='\[1\]'"),
        ('{"task": {}}', r'"cluster" must be an object'),
        ('{"cluster": {"worker": ["a:1"]}}', r'"task" must be an object'),
        (config({}), r'"cluster" has no worker.*Received: TF_CONFIG='),
        (config({"worker": []}), r"cluster.worker must be a list.*Received: \[\]"),
        (config({"worker": "a:1"}), r"cluster.worker must be a list"),
        (config({"ps": ["a:1"]}), r"of chief, worker. Received: 'ps'"),
        (config({"worker": ["a"]}), r'worker\[0\] must be "host:port".*: "a"'),
        (config({"worker": ["a:"]}), r'worker\[0\] must be "host:port".*: "a:"'),
        (config({"worker": ["a:1", ":2"]}), r'worker\[1\] must be .*: ":2"'),
        (config({"worker": ["a:1", 7]}), r"worker\[1\] must be .*Received: 7"),
        (config({"worker": ["a:70000"]}), r'from 1 to 65535.*: "a:70000"'),
        (config({"worker": ["a:b"]}), r'worker\[0\] must be "host:port".*: "a:b"'),
        (config({"worker": ["a:1"] * 2}), r"worker\[0\] and cluster.worker\[1\] must"),
        (config({"chief": ["a:1", "b:1"]}), r"cluster.chief must be one address"),
        (config(kind="chief"), r"task.type must be one of.* worker\. Received: \"chi"),
        (config(kind="master"), r'task.type must be one of.*Received: "master"'),
        (config(kind=None), r"task.type must be one of.*Received: null"),
        (config(index=2), r"task.index must be a number from 0 to 1.*Received: 2"),
        (config(index=-1), r"task.index must be .*Received: -1"),
        (config(index="0"), r'task.index must be .*Received: "0"'),
        (config(index=True), r"task.index must be .*Received: true"),
        (config(index=None), r"task.index must be .*Received: null"),
    ],
)
def test_a_wrong_tf_config_is_an_error_which_names_the_part(text, message):
    with pytest.raises(ValueError, match=message) as error:
        check_tf_config(text)
    assert "\n" not in str(error.value)


def test_an_unknown_host_is_an_error_which_names_it():
    # Names under .invalid are never given to anybody.
    addresses = ["127.0.0.1:1", "no-such-host.invalid:2"]
    with pytest.raises(ValueError, match=r"worker\[1\] is on a host that cannot be fo"):
        check_tf_config(config({"worker": addresses}))


def test_a_tf_config_without_mistakes_is_taken():
    check_tf_config(config())
    both = {"chief": ["[::1]:1"], "worker": ["localhost:20", "127.0.0.1:65535"]}
    check_tf_config(config(both, index=1))


@pytest.mark.parametrize(
    "kind", [tf.errors.UnavailableError, tf.errors.DeadlineExceededError]
)
def test_errors_of_tensorflow_are_one_message_where_several_workers_train(kind):
    said = "Connection reset by peer\nAdditional GRPC error information"
    message = "another worker is missing, .*: Connection reset by peer\n.* same comma"
    with pytest.raises(WorkersError, match=message), noticing_lost_workers():
        raise kind(None, None, said)


def test_a_lack_of_memory_has_nothing_to_do_with_other_workers():
    with (
        pytest.raises(tf.errors.ResourceExhaustedError),
        noticing_lost_workers(),
    ):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM")
