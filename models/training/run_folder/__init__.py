"""The folder of a run: its files, its lock, its checkpoints."""

from state_of_sparsity.models.training.run_folder.folder import (
    LOCK,
    METRICS,
    DamagedError,
    RunFolder,
    RunFolderError,
    write_text,
)

__all__ = [
    "LOCK",
    "METRICS",
    "DamagedError",
    "RunFolder",
    "RunFolderError",
    "write_text",
]
