"""Techniques in the configurations of layers, as files have them."""

from state_of_sparsity.techniques.base import CLASSES, Technique

_PACKAGE = "state_of_sparsity"
# Of what files say of sparse layers.
VERSION = 1


def saved_technique(technique: Technique, **further) -> dict:
    """What the configuration of a layer says of its technique.

    Args:
      technique: to be saved.
      **further: what else belongs to it there.
    """
    # Written out, since Keras serializes an object in another way for each of its file
    # formats.
    name = f"{_PACKAGE}>{type(technique).__name__}"
    config = technique.get_config()
    return {"version": VERSION, "registered_name": name, "config": config, **further}


def check_version(version: int | None) -> None:
    """Raises ValueError for sparse layers in a file that are of another version."""
    if version != VERSION:
        raise ValueError(
            f"The file has sparse layers of version {version!r}, and this "
            f"state-of-sparsity reads version {VERSION}: load it with the one that "
            "wrote it."
        )


def restored_technique(saved: dict) -> Technique:
    """The technique from what `saved_technique` has noted.

    Raises:
      ValueError: if it is of another version, or no technique of that name has been
        defined, naming it.
    """
    check_version(saved.get("version"))
    name = saved["registered_name"].rpartition(">")[2]
    if name not in CLASSES:
        raise ValueError(
            f"Unknown technique {name!r}: import the module that defines it first."
        )
    return CLASSES[name].from_config(saved["config"])
