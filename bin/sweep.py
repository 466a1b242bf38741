"""Trains a grid of runs, or a list of flagfiles, each with several seeds.

  sweep --binary=train_resnet50 --output_dir=runs/sweep
      --grid=technique=magnitude_pruning,random_pruning --grid=sparsity=0.8,0.9,0.95
      --seeds=0,1,2 --fixed=dataset=mnist1d --jobs=2

A folder for each run, named by a hash of its flags; runs.csv lists them. The same
command trains what is not finished yet: it goes on after an interruption, or with a
larger grid. Runs that fail are listed with the last line of their log.
"""

import pathlib
import sys

from absl import flags

from state_of_sparsity.bin import app, runs
from state_of_sparsity.bin.flags import check_removed
from state_of_sparsity.models.interruption import interruptible
from state_of_sparsity.models.runs.run import TRAINERS
from state_of_sparsity.models.runs.settings import FIXED_MASK
from state_of_sparsity.models.sweeps import sweep
from state_of_sparsity.models.sweeps.configurations import Configuration, of_grid
from state_of_sparsity.models.sweeps.processes import LocalProcesses, RayProcesses
from state_of_sparsity.models.usage import UsageError, usage_errors

flags.DEFINE_enum("binary", "train_resnet50", list(TRAINERS), "That trains them.")
flags.DEFINE_string("output_dir", "runs/sweep", "The folder of the runs' folders.")
flags.DEFINE_multi_string(
    "grid", [], "FLAG=VALUE,VALUE,...: one axis of the grid. Can be repeated."
)
flags.DEFINE_list("seeds", ["0"], "Values of --seed: each configuration has all.")
flags.DEFINE_multi_string(
    "fixed", [], "FLAG=VALUE: the same for all runs; may have commas. Can be repeated."
)
flags.DEFINE_list("flagfiles", [], "The grid is trained for each of these flagfiles.")
flags.DEFINE_integer(
    "jobs", 1, "Runs at a time; they share the cores of the machine.", lower_bound=1
)
flags.DEFINE_string(
    "ray_address",
    None,
    "Trains on this Ray cluster: local, auto, or ray://HOST:PORT. Its nodes have to "
    "see --output_dir. (extra: sweep)",
)


def main():
    values = flags.FLAGS
    with usage_errors():
        wanted = of_grid(
            values.binary, values.grid, values.seeds, values.fixed, values.flagfiles
        )
    for configuration in wanted:
        check_removed(configuration.arguments)
        check(configuration)
    folder = pathlib.Path(values.output_dir)
    with usage_errors(f"--ray_address={values.ray_address}"):
        processes = (
            RayProcesses(folder, values.jobs, command, values.ray_address)
            if values.ray_address
            else LocalProcesses(folder, values.jobs, command)
        )
    # Runs save what they have. Once more, since Ray sets a handler of its own.
    with interruptible():
        failed = sweep.train(wanted, folder, processes)
    print(f"{len(wanted) - len(failed)} of {len(wanted)} runs are finished: {folder}")
    if failed:
        print("\n".join(sweep.said(failed)))
        sys.exit(1)


def check(configuration: Configuration) -> None:
    """Raises UsageError for flags that the binary would refuse."""
    values = flags.FlagValues()
    runs.define_run_flags(configuration.binary, values)
    try:
        values([configuration.binary, *configuration.arguments])
        # Masks may be those of a run that is still to come.
        if values["technique"].value != FIXED_MASK:
            runs.run_from_flags(configuration.binary, values)
    except (UsageError, flags.Error) as error:
        raise UsageError(f"{configuration.title}: {error}") from error


def command(folder: pathlib.Path, configuration: Configuration) -> list[str]:
    """The command line of a run that has its place in the folder of a sweep."""
    return [
        *(sys.executable, "-m", f"state_of_sparsity.bin.{configuration.binary}"),
        *configuration.arguments,
        f"--output_dir={folder / configuration.name}",
    ]


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
