"""The training loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from merkhet.core.errors import InputError
from merkhet.core.modes import in_mode, uncompiled
from merkhet.training import devices
from merkhet.training.config import TrainingConfig
from merkhet.training.order import Batches, Order, count_examples
from merkhet.training.progress import Announcer
from merkhet.training.randomness import borrowed_generators
from merkhet.training.run import Run, TrainingResult, open_run
from merkhet.training.signals import StopSignals
from merkhet.training.update import Loss, Updater, adamw, checked_names, describe_optimiser

AfterStep = Callable[[nn.Module, int], Mapping[str, float] | None]


def fit(
    module: nn.Module,
    dataset: Dataset[Any],
    loss: Loss,
    config: TrainingConfig,
    *,
    folder: Path | str | None = None,
    optimiser: Optimizer | None = None,
    after_step: AfterStep | None = None,
    spec: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train `module` in place, on the device and in the processes that accelerate finds.

    With a folder, the same call goes on where an earlier one stopped, and the steps after it
    are those of a run that never stopped: bit for bit, on a device whose kernels are
    deterministic. A run that is finished is returned at once, its weights loaded.

    Randomness inside a step (dropout, augmentation in the data set) may draw from the global
    generators of torch, NumPy and Python: they are seeded for each batch, and are afterwards
    as they were before the call. SIGINT or SIGTERM ends the run after its step, with a
    checkpoint; a second one ends it at once.

    Args:
        module: The network, compiled or not; it ends on the device it was trained on.
        dataset: Has `__len__` and `__getitem__`, and examples of one shape.
        loss: Called with the network and a batch, returns the batch's mean loss, shape `()`,
            or it and a dict of other values to log. One with a method `at_step` is told
            before each step how many were made, also where a run goes on.
        config: Steps, batches, rates, checkpoints.
        folder: Where the run is kept (see `run`); None keeps it in memory only.
        optimiser: Of the module's parameters; by default AdamW over `parameter_groups`.
        after_step: Called with the network (not compiled, not wrapped) and the number of
            steps made, after each; may evaluate, or change the weights, and what it returns
            is logged with the step. It runs in every process, and must depend on nothing but
            its arguments.
        spec: How the network and the data are made, JSON-able, for the run's folder.
        tell: Called with a line of progress now and then.

    Raises:
        InputError: The folder holds another run, or the data set is a stream; or the loss or
            the gradient's norm is not finite, in which case the network keeps the weights
            from before that step.
        OSError: A checkpoint could not be written; those before are intact.
        KeyboardInterrupt: After SIGINT.
        SystemExit: With status 143, after SIGTERM.
    """
    folder = Path(folder) if folder is not None else None
    accelerator, device = devices.start(config.running, folder)
    # torch.compile wraps a network; it is kept, and its weights are named, without the wrapper.
    bare = uncompiled(module.to(device))
    optimiser = optimiser or adamw(bare, config.optimisation)
    about = {
        "config": _without_running(config),
        "optimiser": describe_optimiser(optimiser),
        "examples": count_examples(dataset),
        "processes": accelerator.num_processes,
        "spec": _as_json(spec),
    }
    main, wait = accelerator.is_main_process, accelerator.wait_for_everyone
    with open_run(folder, about, config, main=main, wait=wait) as run:
        if run.finished:
            return run.result(bare)
        done = run.restore(bare, optimiser)
        model = accelerator.prepare_model(module, device_placement=False)
        update = Updater(model, loss, optimiser, config, accelerator, device)
        batches = _batches(dataset, update, done)
        announcer = Announcer(config, accelerator, done, tell)
        with in_mode(bare, training=True), borrowed_generators(device), announcer as announce:
            _make_steps(bare, update, batches, run, announce, after_step)
        return run.finish(bare)


def _make_steps(
    module: nn.Module,
    update: Updater,
    batches: Iterator[Any],
    run: Run,
    announce: Announcer,
    after_step: AfterStep | None,
) -> None:
    """Make the steps that are missing."""
    with StopSignals() as signals:
        for step in range(len(run.history.rows), update.config.steps):
            # An evaluation after the last step may have left the network in its other mode.
            module.train()
            row = update(step, batches)
            if after_step:
                row |= checked_names(after_step(module, step + 1) or {})
            run.history.append(row)
            announce(row)
            stop = _in_any_process(signals.received is not None, update)
            if stop or (step + 1) % (update.config.running.save_every or math.inf) == 0:
                run.save(step + 1, module, update.optimiser)
            if stop:
                run.interrupt()
                raise signals.stopped(f"stopped after step {step + 1}{run.kept}")


def _batches(dataset: Dataset[Any], update: Updater, done: int) -> Iterator[Any]:
    """Return this process's batches of the steps after `done`."""
    config, accelerator = update.config, update.accelerator
    process, processes = accelerator.process_index, accelerator.num_processes
    order = Order(count_examples(dataset), config, process, processes)
    return Batches(dataset, order, config.seed, process).between(
        done * config.accumulate,
        config.steps * config.accumulate,
        workers=config.running.workers,
        pin=update.device.type == "cuda",
    )


def _in_any_process(flag: bool, update: Updater) -> bool:
    """Tell whether `flag` is set in any process, the same in all of them."""
    if update.accelerator.num_processes == 1:
        return flag
    here = torch.tensor(float(flag), device=update.device)
    return bool(update.accelerator.reduce(here, "sum") > 0)


def _without_running(config: TrainingConfig) -> dict[str, Any]:
    """Return the part of the configuration that decides what is learnt."""
    return {name: value for name, value in config.to_dict().items() if name != "running"}


def _as_json(spec: Mapping[str, Any] | None) -> Any:
    """Return `spec` as it will be read back from JSON."""
    try:
        return json.loads(json.dumps(spec, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"spec is not JSON-able ({error}): give dicts, lists, strings and numbers"
        ) from error
