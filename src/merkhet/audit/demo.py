"""The demo: a network is audited, a remedy of its report is trained, and it is audited again."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from torch import Tensor, nn

from merkhet import data as datasets
from merkhet import models
from merkhet.audit.compare import compare
from merkhet.audit.demo_effects import effects
from merkhet.audit.demo_motions import Motion
from merkhet.audit.demo_page import Story, write_story
from merkhet.audit.interruption import EXIT, Interruption
from merkhet.audit.page import report_paths, write_report
from merkhet.audit.report import Report
from merkhet.audit.run import audit
from merkhet.audit.working import finish
from merkhet.core.errors import InputError
from merkhet.report.commands import print_line
from merkhet.training import Optimisation, Running, TrainingConfig, fit

SHIPPED, SHIPPED_DATA = "fashion-cnn", "fashion-mnist"
OTHERS = ("mnist", "digits")  # where Fashion-MNIST is not here; digits always are
STEPS, RATE = 400, 5e-3  # of a first training, for data that no network comes for
REMEDY_STEPS, REMEDY_RATE = 2000, 1e-3
BATCH = 64
JUDGED = 2000  # pictures that the remedy is judged on
SECONDS = 60.0  # of the checks, before and again after
NEXT = "merkhet audit my_code.networks:build --weights model.safetensors --data pictures/"

Loss = Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]
Told = tuple[Report, Story]


@dataclass(frozen=True)
class Demo:
    """What the demo works with.

    Attributes:
        train: Pictures to train on.
        test: Others, for audits and for judging the remedy.
        seed: Of weights, order, motions and audits.
        tell: Called with each line of progress.
    """

    train: datasets.Pictures
    test: datasets.Pictures
    seed: int
    tell: Callable[[str], None]

    @classmethod
    def on(cls, data: str | None, seed: int, tell: Callable[[str], None]) -> Demo:
        """Return the demo on a data set with labels, by default the best that is here.

        Raises:
            InputError: The data is not there, or has no labels.
        """
        name = data or _best_found()
        train = datasets.load(name, split="train", seed=seed)
        if train.labels is None:
            raise InputError(f"the demo is of a classifier, and {train.name} has no labels")
        if data is None and name != SHIPPED_DATA:
            tell(
                f"{SHIPPED_DATA}, which a network comes for, is not here (`merkhet data` says how "
                f"to get it): this is on {name}"
            )
        return cls(train, datasets.load(name, split="test", seed=seed), seed, tell)

    def network(self) -> tuple[nn.Module, str]:
        """Return a trained network and its name: one that comes with merkhet, or trained here."""
        if self.train.name == SHIPPED_DATA:
            self.tell(f"{SHIPPED}, a network that comes with merkhet")
            return models.from_pretrained(SHIPPED), SHIPPED
        self.tell(f"training a small network on {len(self.train):,} pictures of {self.train.name}")
        shape = self.train.images.shape[1]
        network = models.SmallCNN(shape, len(self.train.classes), seed=self.seed)
        self._fit(network, cross_entropy, STEPS, RATE)
        return network.eval(), f"a small CNN, trained on {self.train.name}"

    def audit(self, network: nn.Module, name: str) -> Report:
        """Return the audit of a network on test pictures."""
        self.tell(f"auditing {name}")
        return audit(network, self.test, name=name, seconds=SECONDS, seed=self.seed, tell=self.tell)

    def remedied(self, network: nn.Module, motion: Motion) -> nn.Module:
        """Return a copy of a network that was trained on pictures moved at random."""

        def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            images, labels = batch
            return cross_entropy(
                module, (motion.at_random(images, torch.default_generator), labels)
            )

        self.tell(f"the remedy: {REMEDY_STEPS:,} steps of {BATCH} pictures against {motion.words}")
        after = copy.deepcopy(network)
        self._fit(after, loss, REMEDY_STEPS, REMEDY_RATE)
        return after.eval()

    def story(self, network: nn.Module, before: Report, motion: Motion) -> tuple[Report, Story]:
        """Return the report after the remedy of a motion, and what the remedy changed.

        Args:
            network: As it was audited before.
            before: The report on it.
            motion: What the remedy is against.
        """
        started = time.perf_counter()
        remedied = self.remedied(network, motion)
        spent = time.perf_counter() - started
        after = self.audit(remedied, f"{before.subject.name}, remedied")
        few = self.test.sample(min(JUDGED, len(self.test)), self.seed)
        found = effects(network, remedied, few, motion, self.seed)
        return after, Story(motion.words, spent, len(few), tuple(found), compare(before, after))

    def _fit(
        self, network: nn.Module, loss: Callable[..., Tensor], steps: int, rate: float
    ) -> None:
        """Train a network in place."""
        config = TrainingConfig(
            steps,
            min(BATCH, len(self.train)),
            seed=self.seed,
            optimisation=Optimisation(rate, warmup_steps=steps // 20),
            running=Running(log_every=max(1, steps // 5)),
        )
        fit(network, self.train, loss, config, tell=lambda line: self.tell(f"  {line}"))


def show(out: Path, data: str | None, seed: int, stop: Interruption) -> None:
    """Run the demo: write the report, the one after the remedy, and the page that compares them.

    Args:
        out: The page of the first report; the others' names begin as its does.
        data: Data set, by default the best that is here.
        seed: Of everything random.
        stop: What takes note of Ctrl-C.

    Raises:
        InputError: The data cannot be used, or nothing can be written there.
        Exit: Where the demo was interrupted, or a check broke.
    """
    page, _ = report_paths(out)
    later = [page.with_name(f"{page.stem}-{word}.html") for word in ("after", "compared")]
    for other in later:
        report_paths(other)
    demo = Demo.on(data, seed, stop.telling(print_line))
    network, name = demo.network()
    done: list[Report] = []
    finish(lambda: _kept(done, demo.audit(network, name)), page, stop)
    motion = first_motion(done[0])
    if motion is None:
        print_line(f"there is nothing that the demo could train against: {_why_none(done[0])}")
    else:
        after, story = _told_if_stopped(lambda: demo.story(network, done[0], motion), page)
        with stop.keeping():
            write_report(after, later[0], stop.writing())
            write_story(story, later[1], (page, later[0]), stop.writing())
            _tell(story)
        print_line(f"{later[1]}: before and after; {later[0]}: the report after")
    print_line(f"next, on your own network: {NEXT}")


def _told_if_stopped(run: Callable[[], Told], page: Path) -> Told:
    """Return what a function does, or exit with a word on what is there of it."""
    try:
        return run()
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: {page} is whole, the remedy is not\n")
        raise typer.Exit(EXIT) from None


def first_motion(report: Report) -> Motion | None:
    """Return the motion of the weightiest finding of stability, None where there is none."""
    found = (Motion.of(finding) for finding in report.every_finding)
    return next((motion for motion in found if motion), None)


def _why_none(report: Report) -> str:
    """Say why no motion was found."""
    left_out = report.skipped.get("stability")
    if left_out:
        return f"the check of stability was left out ({left_out})"
    return "no motion moves the answers enough to be a finding"


def cross_entropy(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the classification loss, a scalar, of pictures (n, ...) and labels (n,)."""
    images, labels = batch
    return torch.nn.functional.cross_entropy(module(images), labels)


def _kept(done: list[Report], report: Report) -> Report:
    """Return a report, kept for later."""
    done.append(report)
    return report


def _tell(story: Story) -> None:
    """Print what the remedy changed, and which findings went away or came."""
    print_line(f"what the remedy changed, on {story.pictures:,} test pictures:")
    for effect in story.effects:
        print_line(f"- {effect.sentence}")
    found = story.comparison.findings
    for words, findings in (("gone", found.gone), ("new", found.new)):
        for finding in findings:
            print_line(f"- {words}: {finding['sentence']}")


def _best_found() -> str:
    """Return the name of the first data set that is on this machine."""
    for name in (SHIPPED_DATA, *OTHERS):
        try:
            datasets.find(name)
        except InputError:
            continue
        return name
    return OTHERS[-1]
