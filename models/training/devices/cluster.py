"""Checks of the environment variable TF_CONFIG.

It says who trains together. TensorFlow would wait for workers that will never come, or
end with pages of its own.
"""

import json
import socket

TASK_TYPES = ("chief", "worker")
EXAMPLE = (
    '{"cluster": {"worker": ["host:port", ...]}, '
    '"task": {"type": "worker", "index": 0}}'
)


def check_tf_config(text: str) -> None:
    """Raises ValueError unless TF_CONFIG can be used, naming the part that is wrong.

    Args:
      text: the value of the variable.
    """
    config = _parsed(text)
    cluster = _part(config, "cluster", dict, "an object", text)
    if not cluster:
        raise ValueError(
            f'TF_CONFIG: "cluster" has no worker. It must be like {EXAMPLE}. '
            f"Received: TF_CONFIG={text!r}"
        )
    addresses = _addresses(cluster)
    _check_task(_part(config, "task", dict, "an object", text), addresses)
    for task, address in addresses.items():
        _check_host(address, _place(*task))


def _check_host(address, place):
    host, _, port = address.rpartition(":")
    try:
        # Of IPv6, the host is in brackets.
        socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(
            f"TF_CONFIG: {place} is on a host that cannot be found "
            f"({error.strerror or error}). Received: {address!r}"
        ) from error


def _parsed(text):
    if not text:
        raise ValueError(
            "distribution=multi_worker reads from the environment variable TF_CONFIG "
            f"who the workers are: {EXAMPLE}. Received: TF_CONFIG={text!r}"
        )
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"TF_CONFIG is no JSON ({error}). It must be like {EXAMPLE}. "
            f"Received: TF_CONFIG={text!r}"
        ) from error
    if not isinstance(config, dict):
        raise ValueError(
            f"TF_CONFIG must be an object, like {EXAMPLE}. Received: TF_CONFIG={text!r}"
        )
    return config


def _part(config, name, kind, description, text):
    if not isinstance(config.get(name), kind):
        raise ValueError(
            f'TF_CONFIG: "{name}" must be {description}, as in {EXAMPLE}. '
            f"Received: TF_CONFIG={text!r}"
        )
    return config[name]


def _addresses(cluster):
    addresses = {}
    for kind, listed in cluster.items():
        if kind not in TASK_TYPES:
            raise ValueError(
                f'TF_CONFIG: the types of task in "cluster" must be of '
                f"{', '.join(TASK_TYPES)}. Received: {kind!r}"
            )
        if not isinstance(listed, list) or not listed:
            raise ValueError(
                f'TF_CONFIG: cluster.{kind} must be a list of "host:port", at least '
                f"one. Received: {json.dumps(listed)}"
            )
        for index, address in enumerate(listed):
            _check_address(address, _place(kind, index))
            addresses[kind, index] = address
    if ("chief", 1) in addresses:
        raise ValueError(
            "TF_CONFIG: cluster.chief must be one address. "
            f"Received: {json.dumps(cluster['chief'])}"
        )
    _check_distinct(addresses)
    return addresses


def _check_address(address, place):
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("",) * 3
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(
            f'TF_CONFIG: {place} must be "host:port", with a port from 1 to 65535. '
            f"Received: {json.dumps(address)}"
        )


def _check_distinct(addresses):
    seen = {}
    for task, address in addresses.items():
        if address in seen:
            raise ValueError(
                f"TF_CONFIG: {_place(*seen[address])} and {_place(*task)} must differ. "
                f"Received: {address!r} twice"
            )
        seen[address] = task


def _check_task(task, addresses):
    types = sorted({kind for kind, _ in addresses})
    kind, index = task.get("type"), task.get("index")
    if kind not in types:
        raise ValueError(
            f"TF_CONFIG: task.type must be one of the cluster's: {', '.join(types)}. "
            f"Received: {json.dumps(kind)}"
        )
    count = sum(other == kind for other, _ in addresses)
    # JSON's true would be 1.
    if type(index) is not int or not 0 <= index < count:
        raise ValueError(
            f"TF_CONFIG: task.index must be a number from 0 to {count - 1}, since "
            f"cluster.{kind} has {count}. Received: {json.dumps(index)}"
        )


def _place(kind, index):
    return f"cluster.{kind}[{index}]"
