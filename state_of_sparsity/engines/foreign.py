"""Files of the other Keras: refused by name, and with the way out."""


def foreign_class(name: str, theirs: str, ours: str) -> type:
    """Stands for a class that the engine of another Keras saves; refuses to be loaded.

    Args:
      name: of the class.
      theirs: the Keras that has saved it: "keras" or "tf_keras".
      ours: the Keras that finds it in a file.
    """

    def from_config(cls, config, custom_objects=None):
        del cls, config, custom_objects
        raise ValueError(
            f"This file is one of {theirs}: load it with {theirs}.models.load_model. "
            f"To change to {ours}, build the model with that, call sos.sparsify, and "
            "copy the weights."
        )

    members = {"from_config": classmethod(from_config), "get_config": dict}
    return type(name, (), members)
