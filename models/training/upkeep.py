"""What is done to a run's folder before its run goes on, and is made of models."""

from collections.abc import Iterable

from state_of_sparsity.models.training import checkpoint_files, leftovers
from state_of_sparsity.models.training.run_folder import RunFolder, RunFolderError


def prepare(folder: RunFolder) -> None:
    """Makes a folder fit for its run to go on, before minutes are spent on the model.

    What a killed process left half written is removed, and checkpoints that are damaged
    are set aside, in the folders of rounds as well.

    Raises:
      RunFolderError, CheckpointError: for what the user has to mend.
    """
    rounds = sorted((folder.path / "rounds").glob("*/"))
    for place in (folder, *(RunFolder(path) for path in rounds)):
        place.check_nothing_in_the_way()
        leftovers.remove(place)
        checkpoint_files.set_aside_damaged(place.checkpoints)
    folder.check_metrics()
    _check_result(folder)
    say_what_is_missing(folder, "made again from the last checkpoint")


def _check_result(folder):
    if not folder.result.is_file() or folder.is_finished:
        return
    if checkpoint_files.newest_step(folder.checkpoints) is None:
        raise RunFolderError(
            f"{folder.result} is damaged, and there is no checkpoint to make it again "
            "from: move it away to train the run anew."
        )
    print(f"warning: {folder.result} is damaged: it is made again.")


def is_done(
    folder: RunFolder, last_step: int, before: Iterable[RunFolder] = ()
) -> bool:
    """Whether a run is finished, and all that can be there is there.

    What is missing is made again from the checkpoint of the last step. Without that,
    nothing is left to do.

    Args:
      folder: of the run, or of a round.
      last_step: of its schedule.
      before: folders of the rounds before it, whose results go into its own.
    """
    if not folder.is_finished:
        return False
    if not folder.missing_outputs:
        return True
    has_checkpoint = checkpoint_files.newest_step(folder.checkpoints) == last_step
    return not (has_checkpoint and all(place.is_finished for place in before))


def say_what_is_missing(folder: RunFolder, then: str) -> None:
    """Prints what a finished run lacks.

    Args:
      folder: of the run.
      then: what comes of it.
    """
    missing = folder.missing_outputs if folder.is_finished else []
    if missing:
        print(f"{', '.join(map(str, missing))}: missing, and {then}.")
