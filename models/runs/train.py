"""The training of a run in its folder, or what is left of it."""

import contextlib
import dataclasses
import os

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.runs.run import Run
from state_of_sparsity.models.training.data.records import naming_damage
from state_of_sparsity.models.training.devices import strategy as devices
from state_of_sparsity.models.training.devices.lost_workers import (
    noticing_lost_workers,
)
from state_of_sparsity.models.training.loop.building import build_dense, build_model
from state_of_sparsity.models.training.loop.initial_masks import initial_masks
from state_of_sparsity.models.training.loop.leg import Leg
from state_of_sparsity.models.training.loop.training import train as train_model
from state_of_sparsity.models.training.rewinding.kept_weights import Start, has_weights
from state_of_sparsity.models.training.rewinding.rounds import masked_as_in, unfinished
from state_of_sparsity.models.training.run_folder import RunFolder, lock
from state_of_sparsity.models.usage import usage_errors


def train(run: Run, output_dir: str | os.PathLike) -> RunFolder | None:
    """Trains a run, or goes on with it.

    Args:
      run: what to train.
      output_dir: the run's folder.

    Returns:
      The folder of the finished run; None for a worker that does not write it.

    Raises:
      UsageError, RunFolderError, CheckpointError, DamagedDataError: for what the user
        has to mend.
      WorkersError: if another worker is missing.
      NotFiniteError, TrainingInterrupted: see `loop.training`.
    """
    folder = RunFolder(
        output_dir,
        run.flags(),
        f"Repeat this run: {run.binary} --flagfile=<this file> --output_dir=<folder>",
    )
    with usage_errors():
        folder.check_same_run()
    if folder.is_finished:
        print(f"This run is finished; there is nothing left to do in {folder.path}.")
        return folder
    with usage_errors():
        # Before anything else of TensorFlow starts.
        strategy = devices.strategy(run.options.distribution)
    several = devices.has_other_workers(strategy)
    with noticing_lost_workers() if several else contextlib.nullcontext():
        if not devices.is_chief(strategy):
            _train_legs(run, folder, strategy)
            return None
        with lock.held(folder):
            # Another process may have begun a run meanwhile.
            folder.check_same_run()
            _train_legs(run, folder, strategy)
    return folder


def _train_legs(run, folder, strategy):
    if run.rounds is None:
        _train(run, folder, strategy)
    else:
        _train_in_rounds(run, folder, strategy)


def _train(run, folder, strategy, leg=None, assets=None):
    """Trains a run, or a leg of one, whose assets may be in another folder."""
    leg = leg or Leg()
    held = run.sparsification
    if held.is_initial:
        held = _pruned_before_training(run, folder)
    with usage_errors(), strategy.scope():
        task = run.task(assets or folder)
        masks = getattr(held.pruning, "masks", None)
        dense = build_dense(task, _own_start(run.start, folder), masks)
        model = build_model(task, held, dense)
    with naming_damage(task.damage):
        with usage_errors():
            task.prepare()
            # Reads the data, which may not be there.
            _ = task.steps_per_epoch
            leg.check(dense)
        train_model(
            task,
            run.sparsification,
            model,
            folder,
            dense,
            run.start.keep_steps,
            leg,
            run.checkpoint_every_steps,
        )


def _pruned_before_training(run, folder):
    """With masks of the initial weights, which are made once and kept in the folder."""
    if not folder.masks.is_file():
        # Whatever precision and devices it is trained with.
        options = dataclasses.replace(run.options, precision="float32")
        with usage_errors():
            task = dataclasses.replace(run, options=options).task(folder)
            with naming_damage(task.damage):
                masks = initial_masks(task, run.sparsification, run.start)
        folder.start()
        task.write_assets(folder)
        sos.save_masks(folder.masks, masks)
        keras.backend.clear_session()
    with usage_errors():
        return masked_as_in(folder)


def _train_in_rounds(run, folder, strategy):
    """Trains the rounds that are not finished yet; each is a run with fixed masks."""
    first, last = folder.round(0), run.rounds.rounds
    target, steps = run.sparsification, run.options.train_steps
    for leg in unfinished(run.rounds, target, folder, steps):
        with usage_errors():
            masked, start = leg.sparsification(), leg.start(run.start)
        part = dataclasses.replace(run, sparsification=masked, start=start, rounds=None)
        rounds, target = leg.ending_here()
        shown = dataclasses.replace(run, sparsification=target, rounds=rounds)
        header = f"After round {leg.number} of {last} of a run of {run.binary}"
        print(f"Round {leg.number} of {last}{'' if leg.number else ', dense'}.")
        _train(part, leg.folder(shown.flags(), header), strategy, leg, first)
        # Frees what the trained model has left.
        keras.backend.clear_session()


def _own_start(start, folder):
    """A run that goes on needs no other one any more."""
    if start.load_weights_from is None or not has_weights(folder.path, 0):
        return start
    return Start(load_weights_from=str(folder.path))
