"""The binaries, one file each, thin: they parse flags and call models/ and the library.

TensorFlow's start-up messages would bury the progress bar. They are silenced here,
where TensorFlow is first imported; set TF_CPP_MIN_LOG_LEVEL=0 to see them.
"""

import importlib.util
import os
import pathlib
import sys
import tempfile

# What each binary imports, which only the extra installs.
_NEEDED = ("absl", "tensorflow", "tensorflow_model_optimization", "tqdm")


def _check_extra():
    """Ends with one message where the packages of the laboratory are missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            "The binaries need packages that are not installed: "
            f"{', '.join(missing)}. Run: pip install 'state-of-sparsity[lab]'"
        )


def _say_interrupted():
    """One line for Ctrl-C while the binary is being imported, which takes seconds.

    From then on `app.run` says more.
    """
    otherwise = sys.excepthook

    def hook(kind, error, traceback):
        if not _is_interruption(error):
            otherwise(kind, error, traceback)
            return
        name = pathlib.Path(sys.argv[0]).stem
        if name == "-m":
            name = sys.orig_argv[sys.orig_argv.index("-m") + 1].rpartition(".")[2]
        print(f"{name}: interrupted.", file=sys.stderr)

    sys.excepthook = hook


def _is_interruption(error):
    """Whether it is Ctrl-C, or what a package that was being imported made of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _import_tensorflow_quietly():
    """Imports TensorFlow; what it says meanwhile is shown only if that fails."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # Libraries that it loads write to the file descriptor before they read that.
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import state_of_sparsity.engines.tf_keras.backend  # noqa: F401
        except BaseException as error:
            if _is_interruption(error):
                raise
            said.seek(0)
            os.write(terminal, said.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


_say_interrupted()
_check_extra()
if "TF_CPP_MIN_LOG_LEVEL" not in os.environ and "tensorflow" not in sys.modules:
    _import_tensorflow_quietly()
