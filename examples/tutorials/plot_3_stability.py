"""
Is my network stable, and what is certified?
============================================

A network that is right on the test set may still change its mind when a picture is turned by ten
degrees, or when a few pixels move. Two questions, two kinds of answers: how far do answers move
under changes that happen (measured, an average), and within which radius can no change at all flip
the answer (proved, in float64). This page asks both, applies a remedy to each, and asks again.

What you need of your own: a classifier whose normalisation is inside, and pictures in [0, 1].
"""

# %%
# A network, trained as usual
# ---------------------------

import torch

from merkhet import data
from merkhet.core.deformations import deform
from merkhet.models import SmallCNN
from merkhet.rkhs import (
    Recipe,
    SpectralConstraint,
    certified_accuracy,
    certified_radius,
    evaluate_robustness,
    lipschitz,
    plot_accuracy,
    plot_bracket,
    train_classifier,
)
from merkhet.stability import deformed, plot_curves, stability_curves
from merkhet.training import accuracy

train, test = data.load("digits", "train"), data.load("digits", "test")
pictures, labels = test.floats(), test.labels


def network():
    return SmallCNN(1, widths=(16, 32), norm="none", seed=0)


usual, recipe = network(), Recipe(steps=400)
train_classifier(usual, train, recipe=recipe)


def share(figure):
    """Return a share with its 95 % interval as text."""
    low, high = figure.interval
    return f"{figure.value:.1%} right ({low:.1%} to {high:.1%})"


print(f"as usual: {share(accuracy(usual, test))}")

# %%
# How far do its answers move?
# ----------------------------
#
# Each curve is the relative distance that the output of a layer moves when pictures are turned or
# shifted. The dashed line is how far apart two pictures of one label are there. Where a curve
# reaches it, the network takes a turned digit for another digit.

TURNS, SHIFTS = [2.5, 5, 10, 20, 30], [0.25, 0.5, 1.0, 1.5]


def curves(model, layers=("",)):
    """Return the curves of layers under turns and shifts, by layer."""
    kinds = {"rotation": TURNS, "translation": SHIFTS}
    found = [
        stability_curves(model, pictures[:150], kind, sizes, layers=layers, labels=labels[:150])
        for kind, sizes in kinds.items()
    ]
    return {layer or "output": [one[layer] for one in found] for layer in layers}


layers = [name for name, part in usual.named_modules() if isinstance(part, torch.nn.MaxPool2d)]
before = curves(usual, (*layers, ""))
plot_curves(before)

# %%
# In numbers: distances in units of that dashed line, and accuracy on the moved pictures.


def told(model, found):
    """Print how far the output moves, and the accuracy on moved pictures."""
    for curve, size in zip(found["output"], (10, 1.0), strict=True):
        moved = deformed(pictures, curve.kind, size)
        with torch.no_grad():
            right = (model.eval()(moved).argmax(1) == labels).float().mean()
        ratio = curve.at(size) / curve.same_label.value
        print(f"{curve.kind} by {size:g} {curve.unit}: moves {ratio:.2f}; {right:.1%} right")


told(usual, before)

# %%
# What is certain?
# ----------------
#
# No answer can move faster than the network's Lipschitz constant. ``lipschitz`` brackets it: the
# lower end is a ratio that occurs, the upper end is proved. The figure shows which layers the
# upper end is made of; the longest bar is where a constraint helps most.

bracket = lipschitz(usual, pictures[:20])
print(f"the Lipschitz constant lies between {bracket.lower:.1f} and {bracket.upper:.1f}")
plot_bracket(bracket)

# %%
# The margin of each picture over that bound is a radius: no change of its pixels of a smaller l2
# norm flips the answer. An attack says what is lost for certain; in between, nobody knows.

RADII = (0.05, 0.1, 0.25, 0.5, 1.0)
some = test.subset(range(150))


def looked_at(model):
    """Return certified radii, and sizes of changes that an attack found to flip the answer."""
    radii = certified_radius(model.eval(), some.floats(), some.labels)
    attacked = evaluate_robustness(model, some, "l2", RADII, steps=15, certify=radii)
    for radius, certain, stands in zip(
        RADII, certified_accuracy(radii, RADII), attacked.accuracy("worst"), strict=True
    ):
        print(f"radius {radius:4}: {certain:6.1%} certain, {stands:6.1%} stand under attack")
    return {"certified": radii, "under attack": attacked.distances}


radii = looked_at(usual)

# %%
# Two remedies, for two questions
# -------------------------------
#
# What moves too far under changes that happen is cured by showing them: copies, shifted at
# random.


def shifted(x):
    """Return pictures, each shifted by up to 1.5 pixels along both axes."""
    offsets = 3 * torch.rand(len(x), 2, 1, 1) - 1.5
    return deform(x, offsets.expand(-1, -1, *x.shape[2:]))


copies = network()
train_classifier(copies, train, recipe=recipe, transform=shifted)
print(f"with shifted copies: {share(accuracy(copies, test))}")
told(copies, curves(copies))
bracket = lipschitz(copies.eval(), pictures[:20])
print(f"the Lipschitz constant lies between {bracket.lower:.1f} and {bracket.upper:.1f}")

# %%
# Shifts are cured, and nothing more is certain: being right on shifted copies is no bound on
# anything. What bounds is a constraint, which holds the operator norm of every layer after each
# step.

held = network()
train_classifier(
    held, train, constraint=SpectralConstraint(3.0, example=pictures[:1]), recipe=recipe
)
print(f"with a constraint: {share(accuracy(held, test))}")
told(held, curves(held))
bracket = lipschitz(held.eval(), pictures[:20])
print(f"the Lipschitz constant lies between {bracket.lower:.1f} and {bracket.upper:.1f}")
constrained = looked_at(held)

# %%
# Below a "certified" line accuracy is proved, above an "under attack" line it is lost. More is
# certain with the constraint, and accuracy on clean pictures paid for it: see both numbers above.

plot_accuracy(
    {
        "usual, under attack": radii["under attack"],
        "constrained, under attack": constrained["under attack"],
        "usual, certified": radii["certified"],
        "constrained, certified": constrained["certified"],
    }
)

# %%
# What to do next
# ---------------
#
# - On your own network all of this is one command, with a page that shows it: ``merkhet audit
#   my_code.networks:build --weights model.safetensors --data pictures/``.
# - Not stable under turns, and pictures have no upright? Build a network that cannot tell:
#   :doc:`ckn </generated/packages/ckn>` with a group.
# - No finite bound (attention, an operation of yours)? The bracket names the place; a module can
#   state its own constant. How: :doc:`rkhs </generated/packages/rkhs>`.
# - What penalties buy on MNIST, Fashion-MNIST and CIFAR-10, over several draws: :doc:`results
#   </generated/results/rkhs>`.
