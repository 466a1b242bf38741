"""What a killed process left half written in a run's folder."""

import pathlib
import re
import shutil

from state_of_sparsity.models.training.run_folder import RunFolder

# `atomic.replacing` writes into such a folder, with what it replaces in "old".
_REPLACING = re.compile(r"\.(.+)-[a-z0-9_]{8}")
# `write_text` writes such a file. An evaluation may be writing thresholds.csv.
_NEW = re.compile(r"\.(?!thresholds\.csv)(.+)\.new")
_VOCABULARY = re.compile(r"vocabulary\.model\.\d+\.tmp")
_CHECKPOINT = re.compile(r"ckpt-\d+_temp.*|checkpoint\.tmp.*")


def remove(folder: RunFolder) -> None:
    """Removes what is half written, but for what is in the folders of rounds.

    What was being replaced when the process was killed, and is not there, is put back.
    """
    names = {path.name for path in (*folder.files, *folder.folders, folder.source)}
    for place in (folder.path, folder.weights):
        _remove_in(place, names)
    for path in (*_list(folder.checkpoints), *_list(folder.best)):
        if _CHECKPOINT.fullmatch(path.name) or _is_unfinished(path):
            _delete(path)


def _remove_in(parent, names):
    for path in _list(parent):
        replacing = _REPLACING.fullmatch(path.name)
        new = _NEW.fullmatch(path.name)
        if replacing and _is_ours(replacing[1], names) and path.is_dir():
            for old in _list(path / "old"):
                if not parent.joinpath(old.name).exists():
                    old.rename(parent / old.name)
            _delete(path)
        elif (new and new[1] in names) or _VOCABULARY.fullmatch(path.name):
            _delete(path)


def _is_ours(name, names):
    return name in names or re.fullmatch(r"step_\d+\.npz", name) is not None


def _is_unfinished(path):
    """Whether it is of a checkpoint whose index, which comes last, never came."""
    found = re.fullmatch(r"(ckpt-\d+)\.data-.*", path.name)
    if found is None or path.with_name(f"{found[1]}.index").exists():
        return False
    listed = path.with_name("checkpoint")
    text = listed.read_text(errors="replace") if listed.is_file() else ""
    return f'"{found[1]}"' not in text


def _list(folder):
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _delete(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
