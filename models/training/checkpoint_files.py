"""The files of checkpoints: the newest that is whole is the one to go on from."""

import pathlib
import re
import time

import tensorflow as tf

from state_of_sparsity.models.training.checkpoint import CheckpointError
from state_of_sparsity.models.training.run_folder import write_text

DAMAGED = "damaged"
_OF_LIST = re.compile(r'\w+_path(s)?: "[^"]+"|\w+_timestamp(s)?: [\d.e+]+')


def newest_step(folder: pathlib.Path) -> int | None:
    """The step of the newest checkpoint there, whole or not; None without one."""
    return max(_steps(folder), default=None)


def set_aside_damaged(folder: pathlib.Path) -> None:
    """Leaves the newest whole checkpoint as the one that TensorFlow restores.

    Those that are newer and cannot be read are moved into a folder `damaged`, with a
    warning. TensorFlow's list of checkpoints is written anew if it does not say so.

    Args:
      folder: of the checkpoints; it need not exist.

    Raises:
      CheckpointError: if there are checkpoints and none of them is whole, or only other
        files. Nothing in the folder is changed then.
    """
    problems = {}
    steps = sorted(_steps(folder))
    for step in reversed(steps):
        problem = _problem(folder / f"ckpt-{step}")
        if problem is None:
            break
        problems[step] = problem
    else:
        _raise(folder, problems)
        return
    for damaged, problem in problems.items():
        print(
            f"warning: {folder / f'ckpt-{damaged}'} cannot be read, it may be "
            f"truncated: {problem} What is left of it is now in {folder / DAMAGED}, "
            f"and the run goes on from step {step:,}, the checkpoint before."
        )
        _set_aside(folder, damaged)
    if not _is_last_listed(folder, step):
        _write_list(folder, [s for s in steps if s <= step])


def _raise(folder, problems):
    if problems:
        newest = max(problems)
        raise CheckpointError(
            f"{folder / f'ckpt-{newest}'} cannot be read, it may be truncated: "
            f"{problems[newest]} There is no other checkpoint that can be read. Move "
            f"{folder} away to start again."
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise CheckpointError(
            f"{folder} holds files but no checkpoint that could be read. "
            "Move it away to start again."
        )


def _steps(folder):
    """Those of all checkpoints whose index is there, or which TensorFlow has listed."""
    if not folder.is_dir():
        return set()
    names = [path.stem for path in folder.glob("ckpt-*.index")]
    names += re.findall(r'"(?:[^"]*/)?(ckpt-\d+)"', _read_list(folder))
    found = (re.fullmatch(r"ckpt-(\d+)", name) for name in names)
    return {int(match[1]) for match in found if match}


def _problem(prefix):
    """What is wrong with a checkpoint: each value is read, with its checksum."""
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except Exception as error:  # TensorFlow raises anything from IndexError on.
        return str(error).strip().partition("\n")[0][:300]
    return None


def _set_aside(folder, step):
    aside = folder / DAMAGED
    aside.mkdir(exist_ok=True)
    for path in folder.glob(f"ckpt-{step}.*"):
        path.replace(aside / path.name)


def _is_last_listed(folder, step):
    """Whether TensorFlow's list can be read, and ends with a step."""
    lines = _read_list(folder).splitlines()
    newest = f'model_checkpoint_path: "ckpt-{step}"'
    return newest in lines and all(map(_OF_LIST.fullmatch, lines))


def _read_list(folder):
    path = folder / "checkpoint"
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def _write_list(folder, steps):
    """Writes TensorFlow's list of the checkpoints that are there."""
    now = time.time()
    lines = [f'model_checkpoint_path: "ckpt-{steps[-1]}"']
    lines += [f'all_model_checkpoint_paths: "ckpt-{step}"' for step in steps]
    # A `CheckpointManager` deletes those that are later than the one preserved.
    lines += [f"all_model_checkpoint_timestamps: {now}" for _ in steps]
    lines += [f"last_preserved_timestamp: {now - 1}", ""]
    write_text(folder / "checkpoint", "\n".join(lines))
