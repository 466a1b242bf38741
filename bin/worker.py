"""A process that trains one run after the other, as a sweep asks for them.

Each line of standard input is a run, as JSON: its binary, arguments and log file. Each
line of standard output answers one: null if it was trained to its end, or else what
went wrong. What a run prints goes into its log.
"""

import gc
import json
import os
import sys
import traceback

from absl import flags

from state_of_sparsity.bin import app, runs
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.training.loop.guard import NotFiniteError


def train(binary: str, arguments: list[str]) -> None:
    """Trains a run as its binary does.

    Args:
      binary: its name.
      arguments: of the command line.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("output_dir", None, "The run's folder.", flag_values=values)
    runs.define_run_flags(binary, values)
    values([binary, *arguments])
    try:
        runs.train_from_flags(binary, values)
    finally:
        # Or graphs of all runs stay, and names of layers depend on those before.
        keras.backend.clear_session()
        gc.collect()


def _answer(binary, arguments):
    try:
        train(binary, arguments)
    except (KeyboardInterrupt, MemoryError):
        raise
    except (*app.MISTAKES, NotFiniteError) as error:
        print(error)
        return str(error)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        sys.stdout.flush()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        answer = _answer(job["binary"], job["arguments"])
        sys.stdout.flush()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    # absl parses flags of this module's importers elsewhere; here there are none.
    flags.FLAGS([sys.argv[0]])
    # What is printed goes into logs.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")
    app.log_what_concerns_users()
    try:
        main()
    except KeyboardInterrupt as interruption:
        print(f"\n{str(interruption) or 'interrupted.'}")
        sys.exit(130)
