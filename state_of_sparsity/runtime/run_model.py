"""Runs a model on arrays or images, and writes what it gives.

  run_model --model=model.sparse --output=predictions.npy inputs.npy
  run_model --model=model.sparse --pixels=0..1 photos/*.jpg

The model is a file of `sos.export(..., format="sparse")`, or any ONNX file. A .npy file
holds a batch, an .npz file one for each input of the model, by name; images are scaled
to what the model takes. Each input's highest outputs are printed; --output keeps all of
them, as .npy, as .npz for a model with several outputs, or as .csv.
"""

import argparse
import csv
import pathlib
import sys
import zipfile

import numpy as np
from PIL import Image

from state_of_sparsity.atomic import replacing
from state_of_sparsity.runtime.session import Session, load

# By how an image's values, 0 to 255, become those that the model was trained on: what
# is subtracted, and what the rest is divided by.
PIXELS = {
    "0..255": (0.0, 1.0),
    "0..1": (0.0, 255.0),
    "-1..1": (127.5, 127.5),
    "imagenet": (
        np.float32([123.675, 116.28, 103.53]),
        np.float32([58.395, 57.12, 57.375]),
    ),
}


class UsageError(Exception):
    """What the user has to mend."""


def batches_of(session: Session, options: argparse.Namespace):
    """`(names, inputs)` of each batch: a name for each row, and arrays by input.

    Raises:
      UsageError: for a file that cannot be read, or does not go with the model.
    """
    arrays = [path for path in options.files if path.suffix in (".npy", ".npz")]
    for path in arrays:
        inputs = _read_arrays(session, path)
        rows = len(next(iter(inputs.values())))
        yield [f"{path}[{row}]" for row in range(rows)], inputs
    images = [path for path in options.files if path not in arrays]
    for first in range(0, len(images), options.batch_size):
        batch = images[first : first + options.batch_size]
        name, place = _image_input(session)
        pixels = np.stack([_read_image(path, place, options.pixels) for path in batch])
        yield [str(path) for path in batch], {name: pixels}


def _read_arrays(session, path):
    try:
        read = np.load(path, allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no file of arrays: {error}") from error
    if isinstance(read, np.ndarray):
        if len(session.inputs) != 1:
            names = ", ".join(value.name for value in session.inputs)
            raise UsageError(
                f"The model has several inputs ({names}): pass an .npz file that has "
                f"an array for each. Received: {path}"
            )
        read = {session.inputs[0].name: read}
    inputs = dict(read)
    if any(array.ndim == 0 for array in inputs.values()) or not inputs:
        raise UsageError(f"{path} has no batch: arrays need an axis of examples.")
    return inputs


def _image_input(session):
    """The name of the input of images, and its (height, width, channels, is first)."""
    (value, *others) = session.inputs
    shape = value.shape
    if others or len(shape) != 4:
        raise UsageError(
            "Images are for models with one input of four axes: pass a .npy file. "
            f"Received: {[tuple(v.shape) for v in session.inputs]}"
        )
    for channels, rest, is_first in (
        (shape[3], shape[1:3], False),
        (shape[1], shape[2:], True),
    ):
        if channels in (1, 3) and all(isinstance(size, int) for size in rest):
            return value.name, (*rest, channels, is_first)
    raise UsageError(
        "The model does not say how large images are: pass a .npy file. Received: an "
        f"input of shape {shape}"
    )


def _read_image(path, place, scale):
    height, width, channels, is_first = place
    try:
        with Image.open(path) as image:
            image = image.convert("L" if channels == 1 else "RGB")
            pixels = np.float32(image.resize((width, height), Image.Resampling.BICUBIC))
    except (OSError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} is no image: {error}") from error
    if channels == 1 and scale == "imagenet":
        raise UsageError("--pixels=imagenet is for images with three channels.")
    subtracted, divisor = PIXELS[scale]
    pixels = (pixels.reshape(height, width, channels) - subtracted) / divisor
    return pixels.transpose(2, 0, 1) if is_first else pixels


def _say(names, outputs, top):
    """Prints the highest outputs of each row, of what gives a vector for each."""
    for output in outputs.values():
        if output.ndim != 2:
            continue
        for name, row in zip(names, output, strict=True):
            best = np.argsort(row)[::-1][:top]
            print(f"{name}: " + ", ".join(f"{k} ({row[k]:.4g})" for k in best))


def _write(path, names, outputs):
    with replacing(path) as new:
        if path.suffix == ".csv":
            with new.open("w", encoding="utf-8", newline="") as file:
                _write_csv(csv.writer(file), names, outputs)
        elif path.suffix == ".npz":
            np.savez(new, **outputs)
        else:
            np.save(new, *outputs.values(), allow_pickle=False)


def _write_csv(writer, names, outputs):
    columns = {
        f"{output}[{column}]": values
        for output, array in outputs.items()
        for column, values in enumerate(array.reshape(len(array), -1).T)
    }
    writer.writerow(["input", *columns])
    writer.writerows(zip(names, *columns.values(), strict=True))


def _check_output(session, path):
    if path.suffix not in (".npy", ".npz", ".csv"):
        raise UsageError(f"--output must end in .npy, .npz or .csv. Received: {path}")
    if path.suffix == ".npy" and len(session.outputs) > 1:
        raise UsageError(
            f"The model has {len(session.outputs)} outputs: let --output end in .npz "
            f"or .csv. Received: {path}"
        )
    if not path.parent.is_dir():
        raise UsageError(f"--output: there is no folder {path.parent}.")


def _run(options):
    session = load(options.model, options.threads, options.tune)
    if options.output:
        _check_output(session, options.output)
    all_names, all_outputs = [], []
    for names, inputs in batches_of(session, options):
        outputs = session.run(inputs)
        _say(names, outputs, options.top)
        all_names += names
        all_outputs.append(outputs)
    if options.output:
        joined = {
            name: np.concatenate([outputs[name] for outputs in all_outputs])
            for name in all_outputs[0]
        }
        _write(options.output, all_names, joined)
        print(f"{options.output}: {len(all_names)} rows")
    if options.profile:
        print(session.profile(inputs))


def _parsed(arguments):
    kept = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("run_model", None, __doc__, formatter_class=kept)
    add, path = parser.add_argument, pathlib.Path
    add("files", nargs="+", type=path, help="Arrays (.npy, .npz) and images.")
    add("--model", type=path, required=True, help="The file of the model.")
    add("--output", type=path, help="File for all outputs: .npy, .npz or .csv.")
    add("--threads", type=int, help="By default, one for each core.")
    add(
        "--tune",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Whether kernels are chosen by timing them.",
    )
    add(
        "--pixels",
        choices=PIXELS,
        default="0..1",
        help="The values with which the model takes images (default: %(default)s).",
    )
    add("--batch_size", type=_from_1, default=8, help="Images at a time.")
    add("--top", type=_from_1, default=3, help="How many outputs are printed.")
    add("--profile", action="store_true", help="Print where the time goes.")
    return parser.parse_args(arguments)


def _from_1(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_from_1.__name__ = "number from 1 on"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; by default with the arguments of the process."""
    options = _parsed(arguments)
    try:
        _run(options)
    except (UsageError, OSError, TypeError, ValueError) as error:
        print(f"run_model: {error}", file=sys.stderr)
        sys.exit(2)
    except MemoryError as error:
        print(f"run_model: out of memory: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("run_model: interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
