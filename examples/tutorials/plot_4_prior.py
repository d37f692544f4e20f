"""
Pick a prior
============

Before it sees any data, a network has opinions. The law of its weights, which is a prior of a
Bayesian network or simply an initialisation, says how large every unit is likely to be, and how
sure of its answers the network is before it learnt anything. This page looks at the opinions of a
few priors on real inputs, picks a scale by what it should say, and shows that the choice is felt in
training.

What you need of your own: a network, and inputs as it takes them.
"""

# %%
# A network and its inputs
# ------------------------
#
# Six layers of weights on scikit-learn's digits, centred. The laws below are for one input, and
# depend on it by its norm alone, so we take one of typical norm.

import math
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from torch import nn

from merkhet import data
from merkhet.training import Optimisation, Running, TrainingConfig, accuracy, fit
from merkhet.unit_prior import (
    UnitPrior,
    analyze,
    as_unit_prior,
    fresh_copy,
    sample_units,
    solve_scale,
)

WIDTHS, CLASSES = (30, 30, 30, 30, 30), 10
train, test = data.load("digits", "train"), data.load("digits", "test")
mean = train.floats().mean(0, keepdim=True)
inputs = (train.floats() - mean).flatten(1)
norms = inputs.norm(dim=1)
x = inputs[norms.argsort()[len(norms) // 2], None]
print(f"norms from {norms.min():.1f} to {norms.max():.1f}; that of x is {x.norm():.2f}")


def network():
    sizes = (inputs.shape[1], *WIDTHS, CLASSES)
    parts = []
    for before, after in pairwise(sizes):
        parts += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


# %%
# What does a prior say of a unit?
# --------------------------------
#
# ``analyze`` goes through the network place by place. Theta says how heavy the tail is in the
# limit: 0.5 is Gaussian, 1 exponential, more is heavier. Gaussian weights have an exact law; for
# others a thousand fresh networks are drawn, and the numbers have intervals.

weights = [str(2 * layer) for layer in range(len(WIDTHS) + 1)]
for name in ("gaussian", "laplace", "init"):
    print(f"{name:10}theta   standard deviation            kurtosis")
    for row in analyze(network(), x, name, paths=weights, n=1000, progress=False).rows:
        print(f"  layer {row.path:2}{row.theta:5g}   {row.std!s:28}  {row.kurtosis}")

# %%
# ``init`` is torch's own initialisation of a linear layer. It is uniform, so nothing has a tail
# in the limit, and it is small: the standard deviation falls from layer to layer. The exact law
# of the output under Gaussian weights of He's scale, draws of it, and a Gaussian for comparison:

spec, _ = as_unit_prior(network(), x, "gaussian")
prior, LAST = UnitPrior.from_spec(spec), len(WIDTHS) + 1
drawn = sample_units(network(), x, "gaussian", n=20_000, progress=False).values[""].flatten()
std = float(prior.std(LAST))
print(
    f"standard deviation of an output: {std:.3f} by the law, {float(drawn.std()):.3f} of the draws"
)

sizes = torch.linspace(0.01, 12 * std, 80, dtype=torch.float64)
curves = {
    "exact law": (sizes, prior.log_survival(sizes, LAST).value / math.log(10)),
    "a Gaussian of the same deviation": (sizes, torch.erfc(sizes / std / math.sqrt(2)).log10()),
}
figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for (name, curve), style in zip(curves.items(), ("-", "--"), strict=True):
    axis.plot(*curve, style, label=name)
share = 1 - torch.arange(len(drawn)) / len(drawn)
axis.plot(
    drawn.abs().sort().values, share.log10(), ".", markersize=4, label=f"{len(drawn):,} draws"
)
axis.set(xlabel="t", ylabel="log10 P(|output| > t)", xlim=(0, 12 * std), ylim=(-9, 0.1))
axis.legend(frameon=False)
axis.spines[["top", "right"]].set_visible(False)

# %%
# What does it say of the answers?
# --------------------------------
#
# Pick the scale by what it should say. Here: that an output beyond 3 is a one in a hundred event.
# The answer comes with the lines that draw it.

scale = solve_scale("quantile(0.01)=3", WIDTHS, "relu", input_norm=float(x.norm()))
print(scale)
print(scale.init_code())

# %%
# Before any training, how sure is a network of its likeliest class? One in ten is an open mind. A
# prior that is sure of everything has to be argued out of it by the data.


def start(name, seed):
    """Return a fresh network under one of the priors."""
    if name == "torch's own":
        return fresh_copy(network(), "init", seed)
    module = fresh_copy(network(), "gaussian", seed)
    if name == "solved for":
        torch.manual_seed(seed)
        exec(scale.init_code(), {"module": module})
    if name == "He, doubled":
        with torch.no_grad():
            for weight in module.parameters():
                weight.mul_(2.0)
    return module


PRIORS = ("torch's own", "He", "solved for", "He, doubled")
figure, axes = plt.subplots(1, 4, figsize=(9, 2.4), sharey=True, layout="constrained")
for axis, name in zip(axes, PRIORS, strict=True):
    with torch.no_grad():
        outputs = torch.cat([start(name, seed)(inputs[:50]) for seed in range(200)])
    sure = outputs.softmax(1).max(1).values
    axis.hist(sure, bins=20, range=(0, 1), density=True, color="#0072B2")
    axis.set(title=name, xlabel="confidence before data", xticks=[0, 0.5, 1], yticks=[])
    print(
        f"{name}: mean confidence {sure.mean():.2f}, P(|output| > 3) = "
        f"{(outputs.abs() > 3).double().mean():.4f}"
    )

# %%
# The one in a hundred holds for an input of the norm of x; these are fifty different ones.
#
# Is it felt in training?
# -----------------------
#
# The same training from each start: 150 steps, three seeds.

optimisation = Optimisation(1e-3, schedule="constant")
config = TrainingConfig(150, 64, optimisation=optimisation, running=Running(progress=False))
learn = torch.utils.data.TensorDataset(inputs, train.labels)
held = torch.utils.data.TensorDataset((test.floats() - mean).flatten(1), test.labels)


def loss(module, batch):
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for name in PRIORS:
    scores, losses = [], []
    for seed in range(3):
        module = start(name, seed)
        losses.append(fit(module, learn, loss, config).losses)
        scores.append(accuracy(module, held).value)
    axis.semilogy(torch.tensor(losses).mean(0), label=name)
    print(f"{name}: test accuracy {', '.join(f'{score:.1%}' for score in scores)}")
axis.set(xlabel="steps", ylabel="training loss, mean of three seeds")
axis.legend(frameon=False)
axis.spines[["top", "right"]].set_visible(False)

# %%
# What to do next
# ---------------
#
# - Your own network, any architecture: ``merkhet unit-prior analyze my_code.networks:build --data
#   pictures/``, and ``merkhet unit-prior design`` compares initialisations and says which to
#   take.
# - Deep and narrow networks have heavy tails that no scale removes: solve for the width instead,
#   as in ``solve_scale("kurtosis=4", ...)``.
# - A prior on weights is a penalty on units: ``regulariser`` and ``unit_penalty`` of
#   :doc:`unit_prior </generated/packages/unit_prior>` apply it. It did not raise accuracy where
#   we looked: :doc:`the record says so </generated/results/unit_prior>`.
# - What stays of the prior after training: the audit shows fresh and trained units side by side.
