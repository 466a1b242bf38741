"""Workers wait for each other before TensorFlow starts, which would do so wordlessly.

Each listens on its own port of TF_CONFIG, and asks the others until all have answered
and all have asked. So nobody goes on whom another one still looks for. Then TensorFlow
takes the port over.
"""

import json
import socket
import threading
import time

from state_of_sparsity.models.training.cluster import Cluster, host_and_port

# Seconds after which it is said who is missing, and then again and again.
SAID_AFTER = 2.0
SAID_EVERY = 60.0
ASKED_EVERY = 0.3
# For an answer. Who listens there and says nothing is no worker.
ANSWERED_WITHIN = 5.0
_LONGEST = 4096


class WorkersError(Exception):
    """A worker is missing; the message says which. To start all again may help."""


def wait_for_all(cluster: Cluster, timeout: float) -> None:
    """Returns as soon as all workers of a cluster are there, each on its address.

    Args:
      cluster: who has to come.
      timeout: for how many seconds to wait.

    Raises:
      ValueError: if the port of this process is in use, or the others have another
        TF_CONFIG.
      WorkersError: if some do not come in time, naming them.
    """
    with _Desk(cluster) as desk:
        begin = time.monotonic()
        answered, said = set(), 0
        while missing := set(cluster.others) - (answered & desk.asked):
            if desk.problem is not None:
                raise ValueError(desk.problem)
            for task in missing - answered:
                if _answers(cluster, task):
                    answered.add(task)
            waited = time.monotonic() - begin
            if waited > timeout:
                raise WorkersError(
                    f"{_listed(cluster, missing)} did not come within {timeout:g} "
                    "seconds. Start all workers at about the same time, see that they "
                    "reach each other at these addresses, or give a longer "
                    "--worker_timeout."
                )
            if waited > SAID_AFTER + said * SAID_EVERY:
                print(
                    f"Waiting for {_listed(cluster, missing)}, for at most "
                    f"{timeout:g} seconds.",
                    flush=True,
                )
                said += 1
            time.sleep(ASKED_EVERY)


def _listed(cluster, tasks):
    return ", ".join(map(cluster.named, sorted(tasks)))


class _Desk:
    """Answers the other workers on the port of this one.

    Attributes:
      asked: the tasks of those who came.
      problem: what is wrong with somebody who came and does not belong here. That one
        finds out, too, and may be gone before it is asked.
    """

    def __init__(self, cluster):
        self._cluster = cluster
        self.asked = set()
        self.problem = None
        port = cluster.port
        try:
            self._socket = _listening(port)
        except OSError as error:
            kind, index = cluster.task
            raise ValueError(
                f"TF_CONFIG: cluster.{kind}[{index}], which is this worker, has the "
                f"port {port}, which cannot be opened on this machine "
                f"({error.strerror}): end what uses it, or give another one. "
                f"Received: {cluster.addresses[cluster.task]!r}"
            ) from error

    def __enter__(self):
        threading.Thread(target=self._answer_all, daemon=True).start()
        return self

    def __exit__(self, *_):
        # Closing alone would leave `accept` waiting, and the port open.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _answer_all(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            try:
                with connection:
                    connection.settimeout(ANSWERED_WITHIN)
                    card = _read_card(connection)
                    connection.sendall(_card(self._cluster))
            except OSError:
                continue
            if card and card["task"] == self._cluster.task:
                kind, index = card["task"]
                self.problem = (
                    f"TF_CONFIG: another process takes itself for {kind} {index}, as "
                    "this one does. Give each its own task.index."
                )
            elif card and card["cluster"] != self._cluster.digest:
                kind, index = card["task"]
                self.problem = (
                    f"TF_CONFIG: {kind} {index} has another cluster than this worker. "
                    "Give all the same addresses in the same order."
                )
            elif card:
                self.asked.add(card["task"])


def _listening(port):
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True
        )
    return socket.create_server(("", port))


def _answers(cluster, task):
    """Whether a worker is at its address.

    Raises:
      ValueError: if it is another one, or has another cluster.
    """
    address = cluster.addresses[task]
    try:
        with socket.create_connection(
            host_and_port(address), timeout=ANSWERED_WITHIN
        ) as connection:
            connection.sendall(_card(cluster))
            card = _read_card(connection)
    except OSError:
        return False
    if card is None:
        return False
    if tuple(card["task"]) != task:
        kind, index = card["task"]
        raise ValueError(
            f"TF_CONFIG: at the address of {cluster.named(task)}, the worker takes "
            f"itself for {kind} {index}. Give each its own task.index, and all the "
            "same cluster."
        )
    if card["cluster"] != cluster.digest:
        raise ValueError(
            f"TF_CONFIG: {cluster.named(task)} has another cluster than this worker. "
            "Give all the same addresses in the same order."
        )
    return True


def _card(cluster):
    content = {"cluster": cluster.digest, "task": cluster.task}
    return json.dumps(content).encode() + b"\n"


def _read_card(connection):
    """What a worker says of itself; None if it is no worker that speaks."""
    text = b""
    while not text.endswith(b"\n") and len(text) < _LONGEST:
        if not (received := connection.recv(_LONGEST)):
            break
        text += received
    try:
        card = json.loads(text)
        kind, index = card["task"]
        return {"cluster": card["cluster"], "task": (str(kind), int(index))}
    except (KeyError, TypeError, ValueError):
        return None
