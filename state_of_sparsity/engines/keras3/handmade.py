"""Sparse layers that users make by hand."""

import dataclasses
from typing import ClassVar

from state_of_sparsity.engines.foreign import foreign_class
from state_of_sparsity.engines.keras3.layers import Sparse, attach
from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.saving import VERSION, check_version


class Handmade(Sparse):
    """A sparse layer that is made with the arguments of its kind and its technique.

    Attributes:
      technique_class: whose hyperparameters are further arguments.
    """

    technique_class: ClassVar[type[Technique]]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if Handmade in cls.__bases__:
            cls.plain_class = cls.__bases__[-1]

    def __init__(self, *args, **kwargs):
        names = {field.name for field in dataclasses.fields(self.technique_class)}
        given = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        technique = self.technique_class(**given)
        super().__init__(*args, **kwargs)
        attach(self, technique, 0)

    def get_config(self):
        plain_config = self.plain_class.get_config(self)
        ours = {**self.technique.get_config(), "keras": 3, "version": VERSION}
        return {**plain_config, **ours}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        # The layers of tf_keras have the same names.
        if config.pop("keras", None) != 3:
            return foreign_class(cls.__name__, "tf_keras", "Keras 3").from_config({})
        check_version(config.pop("version", None))
        return cls(**config)
