"""A tangent kernel on as many inputs and outputs as some seconds and the memory allow."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.core.available import available_memory
from merkhet.core.errors import InputError
from merkhet.kernels.empirical import BYTES, empirical_ntk
from merkhet.kernels.jacobians import LOOP, linearised

SIZES = (256, 128, 64, 32, 16)  # inputs; more cost quadratically and change a spectrum little
ENOUGH = 64  # inputs from which on more outputs are worth more than more inputs
DIRECTIONS = 10  # outputs, or random directions among more outputs
PILOT = 4  # inputs that the cost is measured on
SPARE = 0.7  # of the time is planned for
MOST_BYTES = 3 * 2**28  # of gradients held at once; an audit is to fit beside other work


@dataclass(frozen=True)
class Sampled:
    """A tangent kernel with how it was sampled.

    Attributes:
        kernel: (n, n), the mean over outputs, for the first n inputs; on the CPU.
        directions: Outputs, or random directions among them, that the mean is over.
        outputs: How many outputs there are.
        parameters: How many numbers it differentiates in.
        loop: Why inputs went one after another, or "" where they went together.
    """

    kernel: Tensor
    directions: int
    outputs: int
    parameters: int
    loop: str

    @property
    def exact(self) -> bool:
        """Whether all outputs were taken."""
        return self.directions == self.outputs


def sampled_ntk(
    module: nn.Module,
    x: Tensor,
    seconds: float,
    *,
    parameters: Iterable[str] | None = None,
    seed: int = 0,
) -> Sampled:
    """Return the tangent kernel, with its trace over outputs, of what fits the time.

    Where not all outputs fit, the trace is estimated by random signs r: the mean of r^T K r
    (Hutchinson, 1990); the same signs for all inputs keep the kernel positive semidefinite. One
    gradient is measured first. Networks that `vmap` does not take go one input after another.

    Args:
        module: As in `empirical_ntk`.
        x: (n, ...), 16 inputs at least; at most 256 are taken, the first ones.
        seconds: Time that it may take.
        parameters: As in `empirical_ntk`.
        seed: Seed of the random signs.

    Raises:
        InputError: The time is too short for 16 inputs; as in `empirical_ntk`.
    """
    names = None if parameters is None else list(parameters)
    start = time.perf_counter()
    with linearised(module, names) as network:
        example = network.example("x", x)
        count = sum(value.numel() for value in network.parameters.values())
    bytes_of_row = count * finest(example.device).itemsize
    pilot = _Pilot(module, x, names, example, seed, start + seconds)
    loop = pilot.run()
    left = SPARE * (start + seconds - time.perf_counter())
    inputs, directions, rows = _affordable(pilot, len(x), bytes_of_row, count, left)
    kernel = empirical_ntk(
        module,
        x[:inputs],
        outputs=_directions(example, directions, seed),
        parameters=names,
        chunks=rows,
        vectorize=not loop,
        dtype=finest(example.device),
    )
    return Sampled(kernel.cpu().double(), directions, example.shape[1], count, loop)


def finest(device: torch.device) -> torch.dtype:
    """Return the finest floating-point type that a device computes in."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass
class _Pilot:
    """Gradients of a few inputs, to plan by.

    Attributes:
        most: Directions that would be taken.
        each: Seconds that one gradient takes, once it has run.
    """

    module: nn.Module
    x: Tensor
    names: list[str] | None
    example: Tensor
    seed: int
    stop: float
    each: float = 0.0

    def __post_init__(self) -> None:
        self.most = min(DIRECTIONS, self.example.shape[1])

    def run(self) -> str:
        """Measure; return why inputs cannot go together, or "" where they can."""
        try:
            self._measure(vectorize=True)
        except InputError as error:
            self._measure(vectorize=False)
            return str(error).removesuffix(f"; {LOOP}").partition(". ")[0].rstrip(".")
        return ""

    def _measure(self, *, vectorize: bool) -> None:
        """Measure one gradient twice, for the first is slow, then more where there is time."""
        for inputs, directions in ((1, 1), (1, 1), (PILOT, self.most)):
            if self.each * inputs * directions > self.stop - time.perf_counter():
                return
            start = time.perf_counter()
            empirical_ntk(
                self.module,
                self.x[:inputs],
                outputs=_directions(self.example, directions, self.seed),
                parameters=self.names,
                chunks=(inputs, 1) if inputs == 1 else None,
                vectorize=vectorize,
            )
            if self.example.device.type == "cuda":
                torch.cuda.synchronize(self.example.device)
            self.each = (time.perf_counter() - start) / (inputs * directions)


def _affordable(
    pilot: _Pilot, inputs: int, bytes_of_row: int, parameters: int, seconds: float
) -> tuple[int, int, tuple[int, int]]:
    """Return how many inputs and directions fit the time, and the rows to hold at once.

    Raises:
        InputError: Fewer than say anything.
    """
    device = pilot.example.device
    memory = min(available_memory() // 4, MOST_BYTES) if device.type == "cpu" else BYTES
    fitting = max(1, memory // bytes_of_row)
    multiply_adds = _multiply_adds_a_second(device)
    needed = math.inf
    for size, directions in _candidates(inputs, pilot.most):
        held = min(size, fitting)
        again = (math.ceil(size / held) + 1) / 2  # how often each gradient is computed
        product = size**2 * directions * parameters / multiply_adds
        needed = pilot.each * size * directions * again + product
        if needed <= seconds:
            return size, directions, (held, min(directions, max(1, fitting // held)))
    raise InputError(
        f"gradients of {SIZES[-1]} inputs, the fewest that say anything, need about "
        f"{math.ceil(needed / SPARE)} s and {max(seconds, 0):.0f} s are left for them: allow more "
        "seconds, or give smaller inputs"
    )


def _candidates(inputs: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield inputs and directions, the best first."""
    if inputs < SIZES[-1]:
        raise InputError(f"{inputs} inputs are too few: {SIZES[-1]} at least")
    for size in dict.fromkeys(min(size, inputs) for size in SIZES):
        yield size, most
        if size <= ENOUGH:
            yield size, 1


def _directions(example: Tensor, count: int, seed: int) -> Tensor:
    """Return directions (count, o): all outputs, or random signs, of mean square 1 / o."""
    size = example.shape[1]
    if count == size:
        return torch.eye(size, dtype=example.dtype, device=example.device)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (count, size), generator=generator).mul_(2).sub_(1)
    return signs.to(example) / math.sqrt(size)


def _multiply_adds_a_second(device: torch.device) -> float:
    """Return how many multiply-adds a second a matrix product of this device makes."""
    rows = torch.ones(64, 2**13, dtype=finest(device), device=device)
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        float((rows @ rows.mT)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 64 * rows.numel() / best
