"""Which benchmarks are run, with which flags. The next one is a line here.

Those that need finished runs are not: nothing makes them.
"""

import dataclasses

BACKENDS = ("tensorflow", "jax", "torch")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A run of a benchmark.

    Args:
      name: in the table.
      script: in this folder, without ".py".
      flags: for it.
      backend: of Keras 3, or None where tf_keras is measured.
    """

    name: str
    script: str
    flags: tuple[str, ...] = ()
    backend: str | None = None


def _steps(name, *flags, backend=None):
    which = "tf_keras" if backend is None else "keras"
    engine = "tf_keras" if backend is None else f"Keras 3, {backend}"
    return Entry(
        f"step: {name}, {engine}", "step_time", (f"--keras={which}", *flags), backend
    )


SUITE = (
    Entry("functions of weights, 3x3x512x512", "weight_functions"),
    Entry(
        "functions of weights, 33,288x512",
        "weight_functions",
        ("--shape=33288,512", "--rounds=5"),
    ),
    *(
        _steps("CNN on digits", "--model=cnn", "--steps=10", backend=backend)
        for backend in (None, *BACKENDS)
    ),
    *(
        _steps("narrow ResNet-50", "--rounds=9", "--steps=2", backend=backend)
        for backend in (None, *BACKENDS)
    ),
    _steps(
        "ResNet-50, 64x64, batch 32",
        *("--width=1", "--image_size=64", "--batch_size=32"),
        *("--rounds=7", "--steps=1"),
    ),
    _steps(
        "60 layers of 1,024 units",
        *("--model=deep", "--layers=60", "--batch_size=8", "--rounds=1", "--steps=1"),
        "--memory=False",
        backend="jax",
    ),
    # Two models of the base Transformer are what fits into the memory of a laptop.
    *(
        _steps(
            f"base Transformer, 2,048 tokens, {technique}",
            *("--model=transformer", "--rounds=3", "--steps=1"),
            f"--techniques={technique}",
        )
        for technique in (
            "magnitude_pruning",
            "variational_dropout",
            "l0_regularization",
        )
    ),
    *(
        Entry(
            f"inference: {network}, threads: {threads}",
            "inference",
            (
                f"--networks={network}",
                f"--threads={threads}",
                *(f"--dense={engine}" for engine in engines),
            ),
        )
        for threads in (1, 2)
        for network, engines in {
            "resnet50": ("onnxruntime", "openvino", "tensorflow", "litert"),
            "mobilenet": ("onnxruntime", "openvino", "tensorflow", "litert"),
            "encoder": ("onnxruntime", "openvino"),
        }.items()
    ),
    Entry("sizes of files", "file_sizes"),
    Entry("masked and smaller models", "shrunk_models", backend="tensorflow"),
    Entry("greedy decoding", "decoding"),
    Entry("JPEG pipeline", "image_pipeline", ("--sizes=500x375",)),
    *(
        Entry(
            f"300-100 on digits, {backend or 'tf_keras'}",
            "learned_sparsity",
            (f"--keras={'keras' if backend else 'tf_keras'}", "--seeds=0"),
            backend,
        )
        for backend in (None, "jax")
    ),
)
