"""The command that runs a model on files."""

import csv

import numpy as np
import onnx
import pytest
from PIL import Image

from state_of_sparsity.runtime import run_model
from tests.runtime import networks

SHAPE = (4, 6, 3)
CLASSES = 5


@pytest.fixture(scope="module")
def kernel():
    weights = np.random.default_rng(0).normal(size=(np.prod(SHAPE), CLASSES))
    return np.where(np.abs(weights) < 1, 0, weights).astype("float32")


@pytest.fixture(scope="module")
def model(kernel, tmp_path_factory):
    """The file of a linear classifier of images."""
    nodes = [
        ("Reshape", ["images", "shape"], ["flat"], {}),
        ("MatMul", ["flat", "kernel"], ["logits"], {}),
    ]
    weights = {"shape": np.int64([-1, len(kernel)]), "kernel": kernel}
    inputs, outputs = {"images": ["n", *SHAPE]}, {"logits": ["n", CLASSES]}
    path = tmp_path_factory.mktemp("models") / "model.onnx"
    onnx.save(networks.model(nodes, weights, inputs, outputs), path)
    return path


@pytest.fixture
def command(model, capsys):
    """Runs the command; `(exit status, what it said)`."""

    def run(*arguments):
        status = 0
        try:
            given = [f"--model={model}", "--no-tune", "--threads=1", *arguments]
            run_model.main([*map(str, given)])
        except SystemExit as exit_:
            status = exit_.code
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def test_arrays_give_predictions(command, kernel, tmp_path):
    batch = np.random.default_rng(1).normal(size=(7, *SHAPE)).astype("float32")
    np.save(tmp_path / "in.npy", batch)
    output = tmp_path / "out.npy"
    status, said = command(tmp_path / "in.npy", f"--output={output}", "--top=1")
    assert status == 0, said
    expected = batch.reshape(7, -1) @ kernel
    np.testing.assert_allclose(np.load(output), expected, rtol=1e-4, atol=1e-5)
    assert f"in.npy[6]: {expected[6].argmax()} (" in said


@pytest.mark.parametrize("name", ["0..255", "0..1", "-1..1", "imagenet"])
def test_images_are_scaled_to_what_the_model_takes(command, kernel, tmp_path, name):
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (3, *SHAPE), "uint8")
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    paths = sorted(tmp_path.glob("*.png"))
    output = tmp_path / "out.csv"
    flags_ = (f"--pixels={name}", f"--output={output}", "--batch_size=2")
    status, said = command(*paths, *flags_)
    assert status == 0, said
    values = {
        "0..255": pixels,
        "0..1": pixels / 255,
        "-1..1": pixels / 127.5 - 1,
        "imagenet": (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    }[name]
    expected = values.reshape(3, -1) @ np.float64(kernel)
    with output.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["input", *(f"logits[{n}]" for n in range(CLASSES))]
    assert [row[0] for row in rows] == [str(path) for path in paths]
    found = np.array([row[1:] for row in rows], float)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"no array", "in.npy", "in.npy is no file of arrays"),
        # A pickle is not opened.
        (np.array([{}], object), "in.npy", "in.npy is no file of arrays"),
        (b"no picture", "in.jpg", "in.jpg is no image"),
        (None, "in.png", "in.png is no image"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    command, tmp_path, content, name, expected
):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        np.save(tmp_path / name, content, allow_pickle=True)
    status, said = command(tmp_path / name)
    assert status == 2
    assert expected in said
    assert said.startswith("run_model: ")


def test_an_array_of_another_shape_and_other_names_are_one_message(command, tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((2, 5), "float32"))
    status, said = command(tmp_path / "in.npy")
    assert (status, said.count("\n")) == (2, 1), said
    np.savez(tmp_path / "in.npz", pictures=np.zeros((2, *SHAPE), "float32"))
    status, said = command(tmp_path / "in.npz")
    assert status == 2
    assert "pictures" in said


def test_bad_flags_are_refused_before_anything_is_computed(
    command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "in.npy", np.zeros((2, *SHAPE), "float32"))
    for arguments, expected in (
        ([], "the following arguments are required: files"),
        (["in.npy", "--output=out.txt"], "--output must end in .npy, .npz or .csv"),
        (["in.npy", "--top=0"], "invalid number from 1 on value: '0'"),
        (["in.npy", "--threads=1000"], "1000"),
    ):
        status, said = command(*arguments)
        assert status == 2
        assert expected in said
