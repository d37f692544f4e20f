"""Time neural-tangents on request, in its own environment: a name on each line, seconds back.

Run by benchmarks/kernels_peers.py with the Python of an environment that has jax 0.4.30.
"""

import sys
import time
from unittest.mock import MagicMock

for absent in ("tensorflow", "tf2jax", "jax.experimental.jax2tf", "neural_tangents.experimental"):
    sys.modules[absent] = MagicMock()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from neural_tangents import stax  # noqa: E402


def dense(layers: int = 4):
    """Return the network with so many hidden layers."""
    steps = [stax.Dense(1, W_std=1.0)]
    for _ in range(layers):
        steps += [stax.Relu(), stax.Dense(1, W_std=2**0.5)]
    return stax.serial(*steps)


def convolutions(layers: int = 5):
    """Return the network with so many 3x3 convolutions."""
    steps = []
    for place in range(layers):
        weight = 2**0.5 if place else 1.0
        steps += [stax.Conv(1, (3, 3), padding="SAME", W_std=weight), stax.Relu()]
    return stax.serial(*steps, stax.Flatten(), stax.Dense(1, W_std=2**0.5))


def main() -> None:
    """Serve."""
    given = np.load(sys.argv[1])
    networks = {"dense": dense(), "convolutions": convolutions()}
    runs = {}
    for name, (_, _, kernel) in networks.items():
        x = jax.numpy.asarray(given[name], "float32")
        compiled = jax.jit(lambda x, kernel=kernel: kernel(x, None, "ntk"))
        runs[name] = lambda x=x, compiled=compiled: compiled(x).block_until_ready()
    for line in sys.stdin:
        name, path = line.split()
        start = time.perf_counter()
        kernel = runs[name]()
        spent = time.perf_counter() - start
        if path != "-":
            np.save(path, np.asarray(kernel))
        print(spent, flush=True)


if __name__ == "__main__":
    main()
