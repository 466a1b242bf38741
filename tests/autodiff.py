"""Functions of Keras's tensors and their gradients, on whichever backend it runs."""

import importlib

import keras
from keras import ops


def quick(function):
    """The function; of JAX compiled as a whole, which takes less than part by part."""
    if keras.backend.backend() == "jax":
        return importlib.import_module("jax").jit(function)
    return function


def gradient(function, *arguments):
    """Of the sum of a function, by each of its arguments, as NumPy arrays."""
    arguments = [ops.convert_to_tensor(argument) for argument in arguments]
    slopes = _BACKENDS[keras.backend.backend()](
        lambda *given: ops.sum(function(*given)), arguments
    )
    return [ops.convert_to_numpy(slope) for slope in slopes]


def _tensorflow(function, arguments):
    tf = importlib.import_module("tensorflow")
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = function(*arguments)
    return tape.gradient(value, arguments)


def _jax(function, arguments):
    jax = importlib.import_module("jax")
    return jax.jit(jax.grad(function, tuple(range(len(arguments)))))(*arguments)


def _torch(function, arguments):
    torch = importlib.import_module("torch")
    arguments = [argument.detach().requires_grad_() for argument in arguments]
    return torch.autograd.grad(function(*arguments), arguments)


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
