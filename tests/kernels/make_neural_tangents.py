"""Write neural_tangents.json: what neural-tangents says of some networks, in float64.

neural-tangents 0.6.5 is the last release and imports on old JAX alone. In an environment of its own
(Python 3.11):

    pip install jax==0.4.30 jaxlib==0.4.30 "numpy<2" "scipy<1.14" absl-py frozendict
    pip install --no-deps neural-tangents==0.6.5
    python tests/kernels/make_neural_tangents.py

What it imports of TensorFlow is not needed for kernels, and is left out here. A network is
written as a list of layers, each with its options; pictures are (count, channels, height, width).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

for absent in ("tensorflow", "tf2jax", "jax.experimental.jax2tf", "neural_tangents.experimental"):
    sys.modules[absent] = MagicMock()

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)

import neural_tangents  # noqa: E402
import numpy as np  # noqa: E402
from neural_tangents import stax  # noqa: E402

Layer = list[Any]  # a name and a dict of options; of "Residual", a name and a list of layers
WIDTH = 8  # finite widths do not enter the kernels
ROOT_2 = 2**0.5


def linear(weight_std: float = ROOT_2, bias_std: float = 0.0) -> Layer:
    return ["Linear", {"weight_std": weight_std, "bias_std": bias_std}]


def conv(size: int = 3, stride: int = 1, padding: str = "same", **stds: float) -> Layer:
    options = {"kernel_size": size, "stride": stride, "padding": padding}
    return ["Conv2d", {**options, "weight_std": ROOT_2, "bias_std": 0.0, **stds}]


def pool(size: int) -> Layer:
    return ["AvgPool2d", {"kernel_size": size, "stride": size}]


RELU, FLATTEN, GLOBAL = ["ReLU", {}], ["Flatten", {}], ["GlobalAvgPool2d", {}]
DENSE = {
    "one hidden layer": [linear(1.0), RELU, linear()],
    "four hidden layers": [*[linear(), RELU] * 4, linear()],
    "biases": [linear(1.3, 0.4), RELU, linear(1.1, 0.2), RELU, linear(0.9, 0.5)],
    "leaky relu": [*[linear(1.2, 0.1), ["LeakyReLU", {"negative_slope": 0.2}]] * 2, linear()],
    "erf": [*[linear(1.2, 0.1), ["Erf", {}]] * 2, linear()],
    "gelu": [*[linear(1.2, 0.1), ["GELU", {}]] * 2, linear()],
    "sine": [*[linear(1.2, 0.1), ["Sine", {}]] * 2, linear()],
    "residual": [linear(), ["Residual", [RELU, linear(0.8, 0.3)]], RELU, linear()],
}
CONV = {
    "convolutions": [*[conv(), RELU] * 3, FLATTEN, linear()],
    "no padding": [conv(padding="valid"), RELU, conv(padding="valid"), RELU, FLATTEN, linear()],
    "around the border": [*[conv(padding="circular"), RELU] * 2, FLATTEN, linear()],
    "strided": [conv(stride=2), RELU, conv(2, padding="valid"), RELU, FLATTEN, linear()],
    "pooled": [conv(), RELU, pool(2), conv(), RELU, FLATTEN, linear()],
    "pooled twice": [conv(), RELU, pool(2), conv(), RELU, pool(3), FLATTEN, linear()],
    "global pooling": [*[conv(), RELU] * 2, GLOBAL, linear()],
    "biases": [*[conv(weight_std=1.1, bias_std=0.3), RELU] * 2, GLOBAL, linear(1.0, 0.2)],
    "residual": [conv(), ["Residual", [RELU, conv()]], RELU, GLOBAL, linear()],
    "erf": [conv(), ["Erf", {}], pool(2), conv(), ["Erf", {}], FLATTEN, linear()],
}


def built(layers: list[Layer]) -> Any:
    """Return neural-tangents' network of the same layers."""
    return stax.serial(*[_built(name, options) for name, options in layers])


def _built(name: str, options: Any) -> Any:
    """Return one layer."""
    if name == "Residual":
        both = stax.parallel(built(options), stax.Identity())
        return stax.serial(stax.FanOut(2), both, stax.FanInSum())
    if name == "Linear":
        return stax.Dense(WIDTH, W_std=options["weight_std"], b_std=options["bias_std"])
    if name == "Conv2d":
        return stax.Conv(
            WIDTH,
            (options["kernel_size"],) * 2,
            (options["stride"],) * 2,
            options["padding"].upper(),
            W_std=options["weight_std"],
            b_std=options["bias_std"],
        )
    if name == "AvgPool2d":
        return stax.AvgPool((options["kernel_size"],) * 2, (options["stride"],) * 2)
    makers = {
        "ReLU": stax.Relu,
        "LeakyReLU": lambda: stax.LeakyRelu(options["negative_slope"]),
        "Erf": stax.Erf,
        "GELU": stax.Gelu,
        "Sine": stax.Sin,
        "GlobalAvgPool2d": stax.GlobalAvgPool,
        "Flatten": stax.Flatten,
    }
    return makers[name]()


def entry(layers: list[Layer], x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Return a network with its kernels between x and y, and of x with itself."""
    _, _, kernel = built(layers)
    last = (0, 2, 3, 1) if x.ndim == 4 else (0, 1)  # channels last
    one, other = x.transpose(last), y.transpose(last)
    cross, own = kernel(one, other, ("nngp", "ntk")), kernel(one, None, ("nngp", "ntk"))
    found = {"nngp": cross.nngp, "ntk": cross.ntk, "own_nngp": own.nngp, "own_ntk": own.ntk}
    return {"layers": layers, **{name: np.asarray(k).tolist() for name, k in found.items()}}


def main() -> None:
    generator = np.random.default_rng(0)
    made: dict[str, Any] = {
        "made_with": {"neural-tangents": neural_tangents.__version__, "jax": jax.__version__}
    }
    for kind, shape, networks in (("dense", (5,), DENSE), ("conv", (2, 6, 6), CONV)):
        x, y = (generator.standard_normal((count, *shape)).round(6) for count in (3, 2))
        y[0] = -x[0]  # one pair at the far end of the angles
        found = {name: entry(layers, x, y) for name, layers in networks.items()}
        made[kind] = {"x": x.tolist(), "y": y.tolist(), "networks": found}
    path = Path(__file__).with_name("neural_tangents.json")
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
