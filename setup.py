"""Installation of state_of_sparsity.

`models/` and `bin/` are installed inside the package, as
`state_of_sparsity.models` and `state_of_sparsity.bin`, so that no module with
so general a name lands in a user's site-packages.
"""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent

BINARIES = (
    "compare",
    "evaluate_resnet50",
    "evaluate_transformer",
    "export_model",
    "import_checkpoint",
    "report_sparsity",
    "sweep",
    "train_resnet50",
    "train_transformer",
    "translate",
)

TENSORFLOW = "tensorflow>=2.21,<2.22"
TF_MOT = [
    # What TF-MOT asks for.
    "absl-py>=1.4,<2",
    TENSORFLOW,
    "tensorflow-model-optimization>=0.8.1,<0.9",
    "tf-keras>=2.21,<2.22",
]
LAB = [
    *TF_MOT,
    "filelock>=3.16,<5",
    # tensorflow-datasets 4.9 reads and writes through importlib_resources without
    # declaring it.
    "importlib_resources>=6,<8",
    "mnist1d>=0.0.2,<0.1",
    "num2words>=0.5.13,<0.6",
    "pandas>=3.0,<4",
    "plotly>=7.1,<8",
    "sacrebleu>=2.4,<3",
    "sacremoses>=0.1.1,<0.2",
    "scikit-learn>=1.5,<2",
    "sentencepiece>=0.2,<0.3",
    # Pandas writes Markdown through it.
    "tabulate>=0.9,<0.11",
    # TensorFlow writes its summaries through it without depending on it.
    "tensorboard>=2.20,<3",
    "tensorflow-datasets>=4.9.10,<4.10",
    # Its minor version has to be TensorFlow's.
    "tensorflow-text>=2.21,<2.22",
    "tqdm>=4.66,<5",
]
# SavedModel and LiteRT are written by TensorFlow, PyTorch's own format by PyTorch.
EXPORT = [
    "onnx>=1.20,<2",
    "onnxscript>=0.6,<0.8",
    "openvino>=2026.0,<2027",
    # Files without the zeros.
    "safetensors>=0.8,<1",
    "tf2onnx>=1.17,<2",
    "zstandard>=0.25,<0.26",
]
# What runs them, without Keras and its backends.
RUNTIME = [
    "numba>=0.68,<0.69",
    "onnx>=1.20,<2",
    "onnxruntime>=1.24,<2",
    # Reads images.
    "pillow>=11,<13",
    "safetensors>=0.8,<1",
    "zstandard>=0.25,<0.26",
]
# Where several machines share out the runs of a sweep.
SWEEP = ["ray>=2.50,<3"]
DOCS = [
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.7,<10",
    "mkdocstrings[python]>=1.0,<2",
]
EXAMPLES = [
    "ipykernel>=7,<8",
    "nbclient>=0.10,<0.12",
    "nbformat>=5.10,<6",
    "scikit-learn>=1.5,<2",
]

setuptools.setup(
    name="state-of-sparsity",
    version="0.4.0",
    description="Make Keras models sparse while they train, and compare how.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11,<3.14",
    packages=[
        "state_of_sparsity",
        "state_of_sparsity.engines",
        "state_of_sparsity.engines.formats",
        "state_of_sparsity.engines.keras3",
        "state_of_sparsity.engines.tf_keras",
        "state_of_sparsity.engines.tf_keras.layers",
        "state_of_sparsity.layers",
        "state_of_sparsity.runtime",
        "state_of_sparsity.techniques",
        "state_of_sparsity.models",
        "state_of_sparsity.models.analysis",
        "state_of_sparsity.models.images",
        "state_of_sparsity.models.published",
        "state_of_sparsity.models.runs",
        "state_of_sparsity.models.sweeps",
        "state_of_sparsity.models.training",
        "state_of_sparsity.models.training.data",
        "state_of_sparsity.models.training.devices",
        "state_of_sparsity.models.training.loop",
        "state_of_sparsity.models.training.rewinding",
        "state_of_sparsity.models.training.run_folder",
        "state_of_sparsity.models.translation",
        "state_of_sparsity.bin",
    ],
    package_dir={
        "state_of_sparsity": "state_of_sparsity",
        "state_of_sparsity.models": "models",
        "state_of_sparsity.bin": "bin",
    },
    package_data={"state_of_sparsity.bin": ["recipes/*"]},
    # Which of TensorFlow, JAX and PyTorch computes, the user installs and says.
    install_requires=[
        # The engine goes by some of its private names.
        "keras>=3.15,<3.16",
        "matplotlib>=3.9,<4",
        "numpy>=2.0,<3",
    ],
    extras_require={
        "tf_mot": TF_MOT,
        "lab": LAB,
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "export": EXPORT,
        "runtime": RUNTIME,
        "sweep": SWEEP,
        "docs": DOCS,
        "examples": EXAMPLES,
        "test": [
            *LAB,
            *EXPORT,
            *RUNTIME,
            *DOCS,
            *EXAMPLES,
            *SWEEP,
            "ai-edge-litert>=2.1,<3",
            "jax>=0.10,<0.11",
            "keras-hub>=0.32,<0.33",
            "orbax-checkpoint>=0.12,<0.13",
            "psutil>=6,<8",
            "pytest>=8,<10",
            "pytest-timeout>=2.3,<3",
            "pytest-xdist>=3.6,<4",
            "ruff>=0.12,<0.18",
            "scipy>=1.13,<2",
            # The version that package indexes without CUDA packages have, too.
            "torch==2.13.0",
        ],
    },
    entry_points={
        "console_scripts": [
            "run_model=state_of_sparsity.runtime.run_model:main",
            *(f"{name}=state_of_sparsity.bin.{name}:run" for name in BINARIES),
        ]
    },
)
