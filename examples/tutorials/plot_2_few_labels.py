"""
Train with 300 labels
=====================

Labels are what you have least of. With 300 of them, four ways to a classifier are a minute's work:
a small network as usual, the same network with a penalty, an infinitely wide network, and a network
whose filters are fitted without labels. This page tries all four on the same labels, says how sure
each number is, and ends with what to take.

What you need of your own: pictures, some of them with labels. Replace the first lines.
"""

# %%
# Pictures, few of them with labels
# ---------------------------------
#
# Fashion-MNIST at half its size where it is at hand (``merkhet data fashion-mnist --download``
# gets it), scikit-learn's digits elsewhere. A folder with a folder of pictures for each class
# works as well. ``sample`` draws as balanced as it can; 3,000 pictures stand for all those that
# nobody labelled.

import matplotlib.pyplot as plt
import torch

from merkhet import data
from merkhet.ckn import CKN, Form, fit_head
from merkhet.core.errors import InputError
from merkhet.core.intervals import wilson
from merkhet.kernels import KernelClassifier, Linear, ReLU, Sequential
from merkhet.models import SmallCNN
from merkhet.rkhs import DeformationPenalty, Recipe, train_classifier
from merkhet.stability import Conditions, plot_deformations

try:
    name, size = data.find("fashion-mnist").name, (14, 14)
except InputError:
    name, size = "digits", (8, 8)
train, test = data.load(name, "train", size=size), data.load(name, "test", size=size)
labelled, test = train.sample(300), test.sample(min(1500, len(test)))
unlabelled = train.subset(range(min(3000, len(train)))).floats()
x, labels = labelled.floats(), labelled.labels
print(
    f"{name}: {len(labelled)} labels, {len(unlabelled):,} pictures without, {len(test):,} to test"
)

results = {}


def report(way, predicted):
    """Print and keep the share that is right, with its 95 % interval."""
    right = int((torch.as_tensor(predicted) == test.labels).sum())
    low, high = wilson(right, len(test))
    results[way] = (right / len(test), low, high)
    print(f"{way}: {right / len(test):.1%} right ({low:.1%} to {high:.1%})")


def classes(model):
    """Return the classes that a network predicts for the test pictures."""
    with torch.no_grad():
        return model.eval()(test.floats()).argmax(1)


# %%
# One: a small network, as usual
# ------------------------------

recipe = Recipe(steps=300)
plain = SmallCNN(x.shape[1], len(train.classes), widths=(16, 32))
train_classifier(plain, labelled, recipe=recipe)
report("network", classes(plain))

# %%
# Two: the same network, told what should not matter
# --------------------------------------------------
#
# A digit that is bent a little is the same digit, and that needs no label: the penalty holds down
# how much any logit rises under small deformations. On MNIST's digits it is worth about three
# points at 300 labels (:doc:`record </generated/results/rkhs>`). Is it true of clothes as well?
# Try, and believe the number below. The pictures show what the penalty takes for the same.

SIZE = 0.5  # pixels
penalised = SmallCNN(x.shape[1], len(train.classes), widths=(16, 32))
bend = DeformationPenalty(max_displacement=SIZE, max_gradient=0.3)
train_classifier(penalised, labelled, 0.1 * bend, recipe=recipe)
report("network with penalty", classes(penalised))

conditions = Conditions(smoothness=0.3 / SIZE)
plot_deformations(x[:4], "deformation", [SIZE, 2 * SIZE], conditions=conditions)

# %%
# Three: a network without end to its width
# -----------------------------------------
#
# It is a kernel, and learning is solving: no learning rate, no epochs, no seed. The one number
# left, the ridge, is chosen in closed form by leaving each label out once.

wide = Sequential(Linear(weight_std=1.0), ReLU(), Linear(), ReLU(), Linear())
kernel = KernelClassifier(wide).fit(x.flatten(1), labels)
report("wide network (NTK)", kernel.predict(test.floats().flatten(1)))

# %%
# Four: filters from the pictures that nobody labelled
# ----------------------------------------------------
#
# A convolutional kernel network takes its filters from patches by k-means; only the linear
# classifier at the end sees labels, and its penalty is chosen on a sixth of them.

centred = (Form(patches="centred"), Form())
network = CKN(x.shape[1], filters=(32, 64), pooling=(1, 3), form=centred)
network = network.fit_unsupervised(unlabelled, patches=10_000, progress=False)
head = fit_head(network.encode(x).flatten(1), labels, classes=len(train.classes))
report(
    "filters without labels (CKN)", head.linear(network.encode(test.floats()).flatten(1)).argmax(1)
)

# %%
# Which one?
# ----------
#
# Black lines are 95 % intervals over the test pictures alone. Another draw of 300 labels moves
# everything too, so that ways whose lines overlap are not told apart by one draw.

figure, axis = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
for place, (share, low, high) in enumerate(reversed(results.values())):
    axis.barh(place, 100 * share, color="#0072B2", alpha=0.8)
    axis.plot([100 * low, 100 * high], [place, place], color="black", linewidth=2)
    axis.text(1, place, f"{share:.1%}", va="center", color="white")
axis.set_yticks(range(len(results)), list(reversed(results)))
axis.set(xlabel=f"test accuracy on {name} from 300 labels, %", xlim=(0, 100))
axis.spines[["top", "right"]].set_visible(False)

best = max(results, key=lambda way: results[way][0])
ties = [way for way in results if results[way][2] >= results[best][1] and way != best]
print(f"highest here: {best}; not told apart from it: {', '.join(ties) or 'none'}")

# %%
# What to do next
# ---------------
#
# - Take the wide network first: it takes seconds, and what it reaches is what a tuned network has
#   to beat. :doc:`Kernels </generated/packages/kernels>` has convolutional ones, and :doc:`its
#   results </generated/results/kernels>` compare six learners over several draws of labels.
# - Take a penalty where you know what should not matter, and tune its strength on pictures held
#   out: :doc:`rkhs </generated/packages/rkhs>` and its :doc:`results </generated/results/rkhs>`,
#   also where penalties gained nothing.
# - Take the CKN where unlabelled pictures abound, or where pictures have no upright: :doc:`ckn
#   </generated/packages/ckn>`.
# - From the command line: ``merkhet kernels classify --data my-pictures/ --labels 300``.
