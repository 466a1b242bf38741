"""Starts a training binary as two workers on this machine, to try several machines.

  python examples/two_workers.py train_resnet50 --output_dir=runs/two_workers

Each gets its TF_CONFIG, with ports that are free, and --distribution=multi_worker. What
they print has the worker's number before it. Ends when both have ended, with the exit
status of the first one that failed.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

WORKERS = 2
HOST = "127.0.0.1"


def main(command):
    if not command or command[0].startswith("-"):
        sys.exit(f"Give a training binary and its flags. Received: {command}")
    binary = shutil.which(command[0])
    if binary is None:
        sys.exit(f"There is no such binary: {command[0]}")
    addresses = [f"{HOST}:{port}" for port in free_ports(WORKERS)]
    processes = [
        start([binary, *command[1:]], addresses, index) for index in range(WORKERS)
    ]
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, _: pass_on(number, processes))
    readers = [
        threading.Thread(target=print_lines, args=(index, process))
        for index, process in enumerate(processes)
    ]
    for reader in readers:
        reader.start()
    codes = [process.wait() for process in processes]
    for reader in readers:
        reader.join()
    # A process that a signal has ended has a negative one.
    sys.exit(next((abs(code) for code in codes if code), 0))


def free_ports(count):
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def start(command, addresses, index):
    config = {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": index},
    }
    return subprocess.Popen(
        [*command, "--distribution=multi_worker"],
        env=os.environ | {"TF_CONFIG": json.dumps(config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Ctrl-C would come to both by itself, and then from here once more.
        start_new_session=True,
    )


def pass_on(number, processes):
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def print_lines(index, process):
    for line in process.stdout:
        print(f"worker {index}: {line.rstrip()}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
