"""The frame of all binaries: how they run, fail, and say what came out."""

import errno
import io
import locale
import os
import pathlib
import sys
import tarfile

from absl import app, flags, logging

from state_of_sparsity.bin.flags import check_removed
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.interruption import interruptible
from state_of_sparsity.models.training.data.records import DamagedDataError
from state_of_sparsity.models.training.devices.lost_workers import WorkersError
from state_of_sparsity.models.training.loop.guard import NotFiniteError
from state_of_sparsity.models.training.run_folder import RunFolder, RunFolderError
from state_of_sparsity.models.training.run_folder.checkpoint import CheckpointError
from state_of_sparsity.models.usage import UsageError

_PACKAGE = "state_of_sparsity."
# What the user has to mend, and says so: no traceback is of use.
MISTAKES = (UsageError, RunFolderError, CheckpointError, DamagedDataError)
# A worker is missing: the same command may succeed later (EX_TEMPFAIL of sysexits.h).
WORKER_MISSING = 75


def run(main, doc: str, takes_arguments: bool = False) -> None:
    """Runs a binary: its help shows all of its flags, its errors are one message.

    Args:
      main: what it does.
      doc: what the binary does, for its help.
      takes_arguments: whether `main` gets the arguments that are no flags, as a list;
        otherwise there may be none.
    """
    show_any_character()
    _show_in_help(doc)
    name = pathlib.Path(sys.argv[0]).stem

    def main_with_messages(argv):
        log_what_concerns_users()
        arguments = argv[1:]
        if arguments and not takes_arguments:
            _refuse(f"this is not a flag: {arguments[0]} (see {name} --help)")
        try:
            with interruptible():
                main(*([arguments] if takes_arguments else []))
        except MISTAKES as error:
            _refuse(error)
        except WorkersError as error:
            print(f"\n{name}: {error}", file=sys.stderr, flush=True)
            sys.stdout.flush()
            # TensorFlow would look for the lost worker as the process ends.
            os._exit(WORKER_MISSING)
        except NotFiniteError as error:
            print(f"\n{name}: {error}", file=sys.stderr)
            sys.exit(1)
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            print(f"\n{name}: {_what_is_short(error)}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt as interruption:
            # The progress bar leaves its line unfinished.
            print(f"\n{name}: {str(interruption) or 'interrupted.'}", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:
            # As by `head`.
            give_up_standard_output()
            sys.exit(1)
        except OSError as error:
            if not _is_full(error):
                raise
            print(f"\n{name}: {_what_is_short(error)}", file=sys.stderr)
            sys.exit(1)

    app.run(main_with_messages, flags_parser=_parse)


def _parse(arguments):
    """The flags; TensorFlow takes paths in UTF-8 only, whatever the locale."""
    what = "a flagfile"
    try:
        for argument in arguments:
            what = argument
            argument.encode("utf-8")
        what = "a flagfile"
        # absl reads it in the encoding of the locale.
        check_removed(flags.FLAGS.read_flags_from_files(arguments[1:]))
        return flags.FLAGS(arguments)
    except UsageError as error:
        _refuse(error)
    except flags.Error as error:
        _refuse(f"{error} (see {pathlib.Path(arguments[0]).stem} --help)")
    except UnicodeError:
        _refuse(
            f"{what} has characters that the encoding of this locale "
            f"({locale.getencoding()}) does not have: set PYTHONUTF8=1, or a locale in "
            "UTF-8."
        )
    except SystemExit:
        # After its help, with which absl fails.
        sys.exit(0)


def _refuse(message):
    """Ends for what the user has to mend."""
    print(f"{pathlib.Path(sys.argv[0]).stem}: {message}", file=sys.stderr)
    sys.exit(2)


def _what_is_short(error):
    """Room on a disk, or memory, with what says it of an error of many lines."""
    text = str(error).strip()
    said = text[max(text.find("OOM"), 0) :].partition("\n")[0][:300]
    if _is_full(error):
        return (
            f"there is no room left on the disk: {said}\nWhat was saved before is "
            "kept: make room, and run the same command again."
        )
    return f"out of memory: {said}\nMake the batch, the model or the lengths smaller."


def _is_full(error):
    """Whether an error of Python's or of TensorFlow's is of a full disk or quota."""
    kinds = errno.ENOSPC, errno.EDQUOT
    if isinstance(error, OSError):
        return error.errno in kinds
    # TensorFlow has one error for disks that are full and for a lack of memory.
    return any(os.strerror(kind) in str(error) for kind in kinds)


def show_any_character():
    """Shows a character that the terminal does not have as its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def give_up_standard_output():
    """Python would try once more to write what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def log_what_concerns_users():
    """Warnings, unless --verbosity says otherwise: the progress bar says the rest."""
    # absl has set it to INFO by now, whatever its default.
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
        tf.get_logger().setLevel("WARNING")
        tf.get_logger().addFilter(_concerns_users)


def _concerns_users(record):
    # Keras warns of callbacks that take longer than the first steps, as they may on a
    # fast or a busy machine. They are ours: whoever runs a binary cannot change them.
    return "Check your callbacks." not in str(record.msg)


def _show_in_help(doc):
    # absl shows the docstring and the flags of the script, and a console script has
    # neither. It puts the name of the script where a docstring has "%s", or "% s".
    sys.modules["__main__"].__doc__ = doc.replace("%", "%%")
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith(_PACKAGE):
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def print_summary(folder: RunFolder) -> None:
    """Prints what came out of a finished run as a short table."""
    result = folder.read_result()
    parameters, nonzero = result["parameters"], result["nonzero_parameters"]
    rows = {
        "model": f"{result['model']}, {result['technique']}, {result['dataset']}",
        f"test {result['quality_metric']}": quality_text(result),
        "sparsity": f"{result['sparsity']:.2%}",
        "parameters": f"{parameters:,}",
        "non-zero parameters": f"{nonzero:,} ({nonzero / parameters:.1%})",
        "FLOPs per example": f"{result['sparse_flops'] / result['flops']:.1%} of dense",
        **_smaller_text(result),
        "export": _sizes_text(folder.export),
        "run's folder": str(folder.path),
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


def _smaller_text(result):
    """A row of the table, of a run whose masks have a structure."""
    if "smaller_flops" not in result:
        return {}
    share = result["smaller_flops"] / result["flops"]
    text = f"{result['smaller_parameters']:,} parameters, {share:.1%} of dense FLOPs"
    return {"smaller model": text}


def _sizes_text(export):
    if not export.is_dir():
        return "missing"
    plain, gzipped = folder_sizes(export)
    return f"{plain / 1e6:.2f} MB, gzipped {gzipped / 1e6:.2f} MB"


def quality_text(scores: dict) -> str:
    """BLEU is a number from 0 to 100, accuracy a share."""
    quality = scores["quality"]
    return f"{quality:.2f}" if scores["quality_metric"] == "bleu" else f"{quality:.2%}"


def folder_sizes(path: pathlib.Path) -> tuple[int, int]:
    """Bytes of the files in a folder: as they are, and as a .tar.gz."""
    files = [file for file in path.rglob("*") if file.is_file()]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(path, arcname=path.name)
    return sum(file.stat().st_size for file in files), archive.tell()
