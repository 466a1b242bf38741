"""Deliberate faults, each of which `make test` must catch.

    python -m tests.mutations

Changes a line of the library, runs the tests that are to fail, and puts the line back:
for each of the faults below, in minutes. Refuses while the library has changes that are
not committed.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
LIBRARY = ROOT / "state_of_sparsity"


@dataclasses.dataclass(frozen=True)
class Fault:
    """A line of the library, what it becomes, and who must notice.

    Attributes:
      file: within the library.
      line: a text that the file has once.
      faulty: what it becomes.
      tests: a file of tests.
      backend: of Keras 3; None for tf_keras.
    """

    file: str
    line: str
    faulty: str
    tests: str
    backend: str | None = "torch"


FAULTS = [
    # Masks: of a tie, one weight too few goes.
    Fault(
        "masks.py",
        "selection.places(keys) <= place",
        "selection.places(keys) < place",
        "tests/test_masks.py",
    ),
    # Schedule: the last renewal is left out where the frequency does not meet it.
    Fault(
        "schedules.py",
        "return sorted({*steps, self.last} - {0})",
        "return sorted({*steps} - {0})",
        "tests/test_schedules.py",
    ),
    # Noise: a second use in a step draws what the first one did.
    Fault(
        "engines/keras3/noise.py",
        "call.draws += 1",
        "call.draws += 0",
        "tests/shared/test_noise.py",
    ),
    # Noise: replicas draw the same.
    Fault(
        "engines/tf_keras/noise.py",
        "* _REPLICAS",
        "* 0",
        "tests/tf_keras/test_layer_noise.py",
        None,
    ),
    # Budgets: Erdős-Rényi without the kernel's size.
    Fault(
        "budgets.py",
        "return sum(map(sum, layer.shapes)) / layer.size",
        "return sum(map(sum, layer.shapes))",
        "tests/test_budgets.py",
        None,
    ),
    # Conversion: the last override that matches counts, not the first.
    Fault(
        "overrides.py",
        "if not found:",
        "if technique is not None:",
        "tests/shared/test_overrides.py",
    ),
    # Conversion: weights that a mask zeroes are deployed all the same.
    Fault(
        "engines/keras3/stripping.py",
        "theta.assign(ops.where(ops.equal(used, 0.0), ops.zeros_like(used), used))",
        "theta.assign(weight.values()[0])",
        "tests/shared/test_sparsify.py",
    ),
    # Pruning: what stays masked ties with other weights that score zero.
    Fault(
        "techniques/pruning.py",
        'if self.masked_weights == "return":',
        "if True:",
        "tests/test_techniques.py",
    ),
    # Engine: a gap of just 255 zeros is one of none.
    Fault(
        "runtime/encodings.py",
        "full = gaps // _LONGEST_GAP",
        "full = gaps // (_LONGEST_GAP + 1)",
        "tests/runtime/test_encodings.py",
        None,
    ),
    # Engine: a row that is looked up from the end is the one before.
    Fault(
        "runtime/kernels.py",
        "row += height",
        "row += height - 1",
        "tests/runtime/test_lookups.py",
        None,
    ),
]


def is_caught(fault: Fault) -> bool:
    """Whether the tests fail with the fault; the file is as it was afterwards."""
    path = LIBRARY / fault.file
    source = path.read_text("utf-8")
    if source.count(fault.line) != 1:
        raise ValueError(f"{fault.file} has this not once: {fault.line}")
    keras = {"SOS_KERAS": "tf_keras"}
    if fault.backend is not None:
        keras = {"SOS_KERAS": "keras", "KERAS_BACKEND": fault.backend}
    command = [sys.executable, "-m", "pytest", "-qx", "-m", "not slow", fault.tests]
    try:
        path.write_text(source.replace(fault.line, fault.faulty), "utf-8")
        ran = subprocess.run(
            command, cwd=ROOT, env=os.environ | keras, capture_output=True, text=True
        )
    finally:
        path.write_text(source, "utf-8")
    if ran.returncode not in (0, 1):
        raise RuntimeError(f"{fault.tests} did not run: {ran.stdout}{ran.stderr}")
    return ran.returncode == 1


def main():
    changed = ["git", "status", "--porcelain", "state_of_sparsity"]
    if subprocess.run(changed, cwd=ROOT, capture_output=True, check=True).stdout:
        sys.exit("state_of_sparsity has changes: commit them first.")
    survived = 0
    for fault in FAULTS:
        caught = is_caught(fault)
        survived += not caught
        print(f"{'caught' if caught else 'SURVIVED'}: {fault.file}: {fault.faulty}")
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()
