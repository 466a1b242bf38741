"""The progress of training on a terminal: a bar, and a line for each interval."""

import sys
from collections.abc import Mapping

import tqdm

from state_of_sparsity.engines.tf_keras.backend import keras


class Progress(keras.callbacks.Callback):
    """One bar for the whole run, with the time that is left of it.

    It is for a terminal. Elsewhere, and above the bar, each interval is a line.

    Args:
      first: steps of the run that are done.
      total: its training steps.
      quality: what its quality is called.
    """

    def __init__(self, first: int, total: int, quality: str):
        super().__init__()
        self._total = total
        self._quality = quality
        self._bar = tqdm.tqdm(
            total=total,
            initial=first,
            unit="step",
            dynamic_ncols=True,
            file=sys.stdout,
            disable=not sys.stdout.isatty(),
        )

    def on_train_batch_end(self, batch, logs=None):
        if not self._bar.disable:
            self._bar.set_postfix_str(f"loss {float(logs['loss']):.4g}", refresh=False)
            self._bar.update()

    def on_test_begin(self, logs=None):
        self._bar.set_description_str("evaluating")

    def on_test_end(self, logs=None):
        self._bar.set_description_str("")

    def say(self, row: Mapping[str, object]) -> None:
        """Prints what metrics.csv has of an interval."""
        parts = [f"loss {row['loss']:.4g}"] if "loss" in row else []
        parts += [
            f"{self._quality} {row['quality']:.4g}",
            f"sparsity {row['sparsity']:.2%}",
        ]
        if "penalty" in row:
            parts.append(
                f"penalty {row['penalty']:.4g} times {row['penalty_weight']:.4g}"
            )
        if "seconds_per_step" in row:
            parts.append(f"{row['seconds_per_step']:.3g} s a step")
        self.write(f"step {row['step']:,} of {self._total:,}: {', '.join(parts)}")

    def write(self, line: str) -> None:
        """Prints a line that the bar does not break."""
        self._bar.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()
