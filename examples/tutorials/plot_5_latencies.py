"""
One training, ten latencies
===========================

The same model should run on a server, a laptop and a phone, and each allows another time for an
answer. Training one network for each is the usual way. A mixture is trained once and holds many
networks, each a chain of blocks; afterwards the best one for each latency, measured on the device
at hand, is taken out as a plain network.

What you need of your own: pictures with labels. The blocks can be yours too.
"""

# %%
# Train the mixture
# -----------------
#
# Fashion-MNIST at half its size where it is at hand, scikit-learn's digits elsewhere. Two stages
# of five nodes hold 64 networks.

import tempfile
from pathlib import Path

import torch

from merkhet import data
from merkhet.cnmm import (
    Sets,
    cnmm_classifier,
    export_network,
    extract,
    measure_latency,
    operating_points,
    validate_latency,
)
from merkhet.cnmm.estimators import Recipe, train_mixture
from merkhet.cnmm.pictures import draw_points
from merkhet.core.errors import InputError
from merkhet.training import Running

try:
    name, size = data.find("fashion-mnist").name, (14, 14)
except InputError:
    name, size = "digits", (8, 8)
train = data.load(name, "train", size=size, limit=3000 if name != "digits" else None)
test = data.load(name, "test", size=size)
test = test.sample(min(2000, len(test)))
hold = len(train) // 6
learn, held = train.subset(range(hold, len(train))), train.subset(range(hold))
print(f"{name}: {len(learn):,} pictures to learn, {hold} to choose points, {len(test):,} to test")

model = cnmm_classifier(learn[0][0].shape[0], len(learn.classes), channels=(12, 24), num_nodes=5)
result = train_mixture(
    model, learn, Recipe(epochs=8, rate=6e-3, batch_size=128), running=Running(progress=False)
)
last = sum(result.losses[-20:]) / 20
print(f"{len(result.losses)} steps, loss {result.losses[0]:.2f} -> {last:.2f}")

# %%
# Measure each block, on this device
# ----------------------------------
#
# The latency of a network is the sum over its blocks, so a table of blocks predicts all of them.
# It is only as good as its predictions: ``validate_latency`` times whole networks and compares.

example = test.floats([0])
table = measure_latency(model, example, batch=1, threads=1, repeats=20, seconds=3)
print(validate_latency(table, model, example, paths=6, repeats=10))

# %%
# Ten budgets
# -----------
#
# Candidates at each budget are scored on held-out pictures, with batch-norm statistics of their
# own. Who is no better than a cheaper one is dropped, so that fewer than ten may be left. Test
# accuracy is measured once, at the end.

sets = Sets(learn.floats(), (held.floats(), held.labels), (test.floats(), test.labels))
points = operating_points(model, table.costs, 10, sets, best=2, progress=False)
print(points)
draw_points(points)

# %%
# Take one out
# ------------
#
# The best within a budget is a plain ``nn.Sequential``: no gates, batch norms folded. It goes
# wherever any PyTorch network goes; ``formats=("torch", "onnx")`` writes ONNX too, with the extra
# ``export``.

budget = (points.points[0].cost + points.points[-1].cost) / 2
chosen = points.within(budget)
network = extract(model, chosen.nodes, learn.floats().split(128))
with torch.no_grad():
    right = (network(test.floats()).argmax(1) == test.labels).float().mean()
print(
    f"within {1e3 * budget:.2f} ms: {1e3 * chosen.cost:.2f} ms, {right:.1%} right on test pictures"
)
print(network)

folder = Path(tempfile.mkdtemp())
written = export_network(network, test.floats(range(4)), folder / "chosen", formats=("torch",))
program = torch.export.load(written.files["torch"])
with torch.no_grad():
    same = torch.allclose(program.module()(test.floats(range(4))), network(test.floats(range(4))))
print("the file that was written gives the same answers:", same)

# %%
# What to do next
# ---------------
#
# - Train for longer: this page trains for some seconds. :doc:`The results
#   </generated/results/cnmm>` say how near the points of one training come to networks trained
#   alone, and where they do not.
# - One fixed budget? Train a network of that size by itself; it is at least as good.
# - Your own blocks: ``MixtureStage(num_nodes, block)`` on :doc:`cnmm </generated/packages/cnmm>`.
# - On the device that matters: copy the run there, and ``merkhet cnmm points run --by latency``.
# - ``merkhet audit`` on what was exported says what a smaller one of the same mixture would save.
