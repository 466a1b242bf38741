"""Models with presets, which look for classes as those of KerasHub do."""

import json
import pathlib

import keras

register = keras.saving.register_keras_serializable("tests.presets")


def class_in(file):
    return keras.saving.get_registered_object(
        json.loads(file.read_text())["registered_name"]
    )


class WithPresets(keras.Model):
    def save_to_preset(self, folder):
        folder = pathlib.Path(folder)
        folder.mkdir(exist_ok=True)
        config = keras.saving.serialize_keras_object(self)
        (folder / self.file).write_text(json.dumps(config))
        if self.file == "task.json":
            self.backbone.save_to_preset(folder)
        else:
            self.save_weights(folder / "model.weights.h5")


def loaded(file, **arguments):
    config = json.loads(file.read_text())
    config["config"] |= arguments
    return keras.saving.deserialize_keras_object(config)


class Backbone(WithPresets):
    file = "config.json"

    def __init__(self, units=3, dtype=None, name=None):
        x = keras.Input((4,))
        dense = keras.layers.Dense(units, dtype=dtype, name="dense")
        super().__init__(x, dense(x), name=name)
        self.units = units

    def get_config(self):
        return {"units": self.units, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    @classmethod
    def from_preset(cls, folder, dtype=None):
        file = pathlib.Path(folder, cls.file)
        assert issubclass(class_in(file), cls), class_in(file)
        model = loaded(file, dtype=dtype)
        model.load_weights(file.with_name("model.weights.h5"))
        return model


@register
class OneBackbone(Backbone):
    pass


@register
class OtherBackbone(Backbone):
    pass


class Task(WithPresets):
    file = "task.json"
    backbone_cls = None

    def __init__(self, backbone, name=None):
        super().__init__(backbone.input, backbone.output, name=name)
        self.backbone = backbone

    def get_config(self):
        backbone = keras.saving.serialize_keras_object(self.backbone)
        return {"backbone": backbone, "name": self.name}

    @classmethod
    def from_config(cls, config):
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**config | {"backbone": backbone})

    @classmethod
    def from_preset(cls, folder, dtype=None):
        file = pathlib.Path(folder, cls.file)
        of_backbone = class_in(file.with_name("config.json"))
        (found,) = {
            x
            for x in keras.saving.get_custom_objects().values()
            if isinstance(x, type)
            and issubclass(x, cls)
            and x.backbone_cls is of_backbone
        }
        assert issubclass(class_in(file), found)
        backbone = json.loads(file.read_text())["config"]["backbone"]
        backbone["config"] |= {"dtype": dtype}
        task = loaded(file, backbone=backbone)
        task.backbone.load_weights(file.with_name("model.weights.h5"))
        return task


@register
class OneTask(Task):
    backbone_cls = OneBackbone


@register
class OtherTask(Task):
    backbone_cls = OtherBackbone
