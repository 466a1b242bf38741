"""What can be wrong with TF_CONFIG, and how workers wait for each other."""

import dataclasses
import json
import re
import socket
import threading
import time

import pytest

from state_of_sparsity.models.training import rendezvous
from state_of_sparsity.models.training.cluster import Cluster
from state_of_sparsity.models.training.rendezvous import WorkersError, wait_for_all

CLUSTER = {"worker": ["127.0.0.1:2001", "127.0.0.1:2002"]}


def config(cluster=CLUSTER, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return addresses


def test_addresses_and_task_are_those_of_tf_config():
    both = {"chief": ["[::1]:1"], "worker": ["a.b:20", "c:65535"]}
    cluster = Cluster.from_text(config(both, index=1))
    assert cluster.addresses == {
        ("chief", 0): "[::1]:1",
        ("worker", 0): "a.b:20",
        ("worker", 1): "c:65535",
    }
    assert cluster.port == 65535
    assert cluster.named(("worker", 0)) == "worker 0 (a.b:20)"
    assert set(cluster.others) == {("chief", 0), ("worker", 0)}


def test_clusters_differ_by_addresses_and_their_order_only():
    cluster = Cluster.from_text(config())
    assert cluster.digest == Cluster.from_text(config(index=1)).digest
    turned = {"worker": CLUSTER["worker"][::-1]}
    assert cluster.digest != Cluster.from_text(config(turned)).digest


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
        Cluster.from_text(text)
    assert "\n" not in str(error.value)


def test_an_unknown_host_is_an_error_which_names_it():
    # Names under .invalid are never given to anybody.
    addresses = ["127.0.0.1:1", "no-such-host.invalid:2"]
    cluster = Cluster.from_text(config({"worker": addresses}))
    with pytest.raises(ValueError, match=r"worker\[1\] is on a host that cannot be fo"):
        cluster.check_hosts()
    Cluster.from_text(config()).check_hosts()


def test_a_port_in_use_is_an_error_which_names_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        cluster = Cluster.from_text(config({"worker": [f"127.0.0.1:{port}"]}))
        message = rf"cluster.worker\[0\], which is this worker, has the port {port}"
        with pytest.raises(ValueError, match=message):
            wait_for_all(cluster, 5)
    # And it is free again after a while, and after waiting.
    wait_for_all(cluster, 5)
    wait_for_all(cluster, 5)


def clusters(count):
    first = Cluster.from_text(config({"worker": free_addresses(count)}))
    return [
        dataclasses.replace(first, task=("worker", index)) for index in range(count)
    ]


def wait_in_thread(cluster, ended):
    def wait():
        try:
            wait_for_all(cluster, 5)
            ended[cluster.task] = None
        except Exception as error:
            ended[cluster.task] = error

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_nobody_goes_on_before_all_are_there(capsys, monkeypatch):
    monkeypatch.setattr(rendezvous, "SAID_AFTER", 0.2)
    early, other, late = clusters(3)
    ended = {}
    threads = [wait_in_thread(cluster, ended) for cluster in (early, other)]
    time.sleep(1.5)
    assert not ended
    threads.append(wait_in_thread(late, ended))
    for thread in threads:
        thread.join()
    assert ended == dict.fromkeys(early.addresses)
    said = f"Waiting for {late.named(late.task)}, for at most 5 seconds."
    assert said in capsys.readouterr().out


def test_a_worker_that_never_comes_is_named_when_time_is_over():
    cluster, absent = clusters(2)
    message = re.escape(cluster.named(absent.task)) + " did not come within 0.5 seconds"
    with pytest.raises(WorkersError, match=message):
        wait_for_all(cluster, 0.5)


def test_something_else_that_listens_is_no_worker(monkeypatch):
    monkeypatch.setattr(rendezvous, "ANSWERED_WITHIN", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses = [*free_addresses(1), f"127.0.0.1:{silent.getsockname()[1]}"]
        cluster = Cluster.from_text(config({"worker": addresses}))
        with pytest.raises(WorkersError, match=r"worker 1 .* did not come"):
            wait_for_all(cluster, 1)


def test_workers_with_other_addresses_find_out():
    first, second = clusters(2)
    stranger = dict(second.addresses) | {("worker", 2): "127.0.0.1:1"}
    ended = {}
    thread = wait_in_thread(dataclasses.replace(second, addresses=stranger), ended)
    with pytest.raises(ValueError, match=r"worker 1.* has another cluster"):
        wait_for_all(first, 20)
    thread.join()
    # The other one sees the same, or nobody any more.
    assert isinstance(ended["worker", 1], ValueError | WorkersError)


def test_a_worker_with_the_index_of_another_one_is_found_out():
    first, second = clusters(2)
    # As on another machine, where the port is free.
    turned = list(first.addresses.values())[::-1]
    same_index = Cluster.from_text(config({"worker": turned}))
    ended = {}
    thread = wait_in_thread(same_index, ended)
    # Who asks, and who is asked, may find it out first.
    named = re.escape(first.named(second.task))
    message = rf"at the address of {named}, .* worker 0|takes itself for worker 0, as"
    with pytest.raises(ValueError, match=message):
        wait_for_all(first, 20)
    thread.join()
    assert ended["worker", 0] is not None
