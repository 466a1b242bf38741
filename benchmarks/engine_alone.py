"""The most memory that a process takes which loads a model in one engine and runs it.

The process imports that engine and nothing else that it does not need.
"""

import json
import subprocess
import sys

import engines
import memory
import numpy as np


def peak_memory(engine: str, path: str, inputs, threads: int) -> float:
    """MiB at most, of Python and what the engine imports as well.

    Args:
      engine: a key of `engines.ALL`.
      path: of the file that it loads.
      inputs: arrays by name, of which only types and shapes count.
      threads: that compute.
    """
    shapes = {name: [array.dtype.str, array.shape] for name, array in inputs.items()}
    arguments = json.dumps([engine, path, shapes, threads])
    command = [sys.executable, __file__, arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: str) -> None:
    engine, path, shapes, threads = json.loads(arguments)
    inputs = {name: np.ones(shape, dtype) for name, (dtype, shape) in shapes.items()}
    run = engines.ALL[engine](path, inputs, threads)
    run()
    print(json.dumps(memory.peak()))


if __name__ == "__main__":
    main(sys.argv[1])
