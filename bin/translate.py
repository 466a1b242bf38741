"""Translates lines of English to German with a run of train_transformer.

  translate --model=runs/transformer < english.txt > german.txt
  translate --model=runs/transformer --input=english.txt --output=german.txt

Writes a line for each line that it reads, in the same order; blank lines stay.
"""

import codecs
import contextlib
import os
import pathlib
import re
import sys

import tqdm
from absl import flags

import state_of_sparsity as sos
from state_of_sparsity.bin import app
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.runs import folders
from state_of_sparsity.models.translation.sparse_engine import SparseTransformer
from state_of_sparsity.models.usage import UsageError, usage_errors

flags.DEFINE_string("model", "runs/transformer", "A folder of train_transformer.")
flags.DEFINE_string("input", "-", "A UTF-8 file of a sentence per line; - for stdin.")
flags.DEFINE_string("output", "-", "The file to write; - for standard output.")
flags.DEFINE_integer("batch_size", 32, "Lines to translate at a time.", lower_bound=1)

flags.DEFINE_enum(
    "engine",
    "tensorflow",
    ["tensorflow", "sparse"],
    "What computes; sparse: state_of_sparsity.runtime, which skips zeros.",
)
flags.DEFINE_integer("threads", None, "Of --engine=sparse; by default all cores.")
flags.DEFINE_string(
    "files",
    None,
    "Of --engine=sparse: the folder of `export_model --format=sparse`, which loads "
    "sooner than the run is converted.",
)


def main():
    run, folder = folders.read_run(flags.FLAGS.model, "train_transformer")
    lines = _read(flags.FLAGS.input)
    if not lines:
        print("translate: the input holds no lines.", file=sys.stderr)
    task, model = folders.load_model(run, folder)
    translator = task.translator(_with_engine(sos.strip(model)))
    _warn_of_long_lines(translator, lines)
    _warn_of_unknown_characters(translator.vocabulary.characters, lines)
    size = flags.FLAGS.batch_size
    with (
        _writer(flags.FLAGS.output) as write,
        tqdm.tqdm(total=len(lines), unit="line", file=sys.stderr) as bar,
    ):
        for start in range(0, len(lines), size):
            batch = lines[start : start + size]
            texts = translator.translate(tf.constant(batch)).numpy()
            # A translation is one line, whatever the model makes up.
            write(b"".join(re.sub(rb"[\r\n]", b" ", text) + b"\n" for text in texts))
            bar.update(len(batch))


def _with_engine(model):
    """The model as `--engine` computes it."""
    given = flags.FLAGS
    if given.engine == "tensorflow":
        for name in ("threads", "files"):
            if given[name].present:
                raise UsageError(
                    f"--{name}={given[name].value} is for --engine=sparse."
                )
        return model
    try:
        return SparseTransformer(model, given.threads, given.files)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"--engine=sparse: {error}") from error


def _read(path):
    """The lines of a file, as bytes of valid UTF-8, without their ends."""
    with usage_errors(f"--input={path}"):
        text = _read_bytes(path)
    try:
        text.decode()
    except UnicodeDecodeError as error:
        number = text.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"--input={path} is not UTF-8: byte {error.start}, in line {number}."
        ) from error
    lines = text.removeprefix(codecs.BOM_UTF8).split(b"\n")
    if not lines[-1]:
        del lines[-1]
    return [line.removesuffix(b"\r") for line in lines]


def _read_bytes(path):
    if path != "-":
        return pathlib.Path(path).read_bytes()
    if sys.stdin is None:
        raise UsageError("standard input is closed: pass --input=FILE.")
    return sys.stdin.buffer.read()


@contextlib.contextmanager
def _writer(path):
    """A function that writes bytes; a new file appears when all has been written."""
    if path == "-":
        with _write_errors("standard output"):
            try:
                yield sys.stdout.buffer.write
                sys.stdout.buffer.flush()
            except OSError:
                app.give_up_standard_output()
                raise
        return
    # What a link points to is written, and not the link.
    target = pathlib.Path(os.path.realpath(path))
    special = target.exists() and not target.is_file()
    temporary = target if special else target.with_name(f".{target.name}.new")
    with _write_errors(f"--output={path}"):
        with temporary.open("wb") as file:
            try:
                yield file.write
            except KeyboardInterrupt as interruption:
                raise KeyboardInterrupt(
                    f"interrupted; what was translated is in {temporary}."
                ) from interruption
        if not special:
            temporary.replace(target)


@contextlib.contextmanager
def _write_errors(name):
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"{name} cannot be written: {error}") from error


def _warn_of_long_lines(translator, lines):
    counts = translator.token_counts(tf.constant(lines, tf.string, [len(lines)]))
    for number, count in enumerate(counts.numpy(), start=1):
        if count > translator.max_length:
            print(
                f"translate: line {number} has {count:,} tokens, of which only the "
                f"first {translator.max_length - 1:,} are translated.",
                file=sys.stderr,
            )


def _warn_of_unknown_characters(known, lines):
    unknown = {}
    for number, line in enumerate(lines, start=1):
        text = line.decode()
        if text.strip() and (characters := set(text) - known):
            unknown[number] = characters
    if unknown:
        characters = sorted(set().union(*unknown.values()))
        where = "line" if len(unknown) == 1 else "lines"
        print(
            f"translate: {where} {_listed(unknown)}: the text that the vocabulary was "
            "learned from lacks some of the characters, and the translation is not to "
            f"be trusted: {_listed(map(repr, characters))}.",
            file=sys.stderr,
        )


def _listed(items, most=10):
    items = [str(item) for item in items]
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
