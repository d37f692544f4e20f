"""
Give my transformer a memory
============================

You have a transformer that is trained, and it should know more without becoming slower at every
layer. A product-key memory beside one of its feed-forward layers adds thousands of values, of which
each token reads a few. This page takes a trained language model, attaches a memory that changes
nothing at first, goes on training with it, and compares with the same training without it.

What you need of your own: the model, the path of one of its feed-forward layers, and text.
"""

# %%
# Text, and a model that is trained already
# -----------------------------------------
#
# Every fourth module of Python's standard library is our text; give ``load_text`` a folder or
# file of yours. It trains a tokenizer and cuts the text into windows; the test split is of pieces
# that training never sees. It needs the extra ``text``.

import copy
import sysconfig
import tempfile
from pathlib import Path

import torch

from merkhet import data
from merkhet.memory import RowwiseAdam, Together, attach, parameter_groups, plot_usage, usage
from merkhet.memory.networks import next_token_loss
from merkhet.models import Transformer, load_weights, save_weights
from merkhet.report.figures import figure
from merkhet.training import Optimisation, Running, TrainingConfig, fit

scratch = Path(tempfile.mkdtemp())
modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[::4]
text = scratch / "text.py"
text.write_bytes(b"\n\n".join(module.read_bytes() for module in modules))
VOCABULARY, CONTEXT = 1024, 64
train, test = (
    data.load_text(text, VOCABULARY, CONTEXT, split, cache=scratch) for split in ("train", "test")
)
print(f"{len(modules)} modules: {len(train):,} windows to train on, {len(test):,} held out")

# %%
# The model is a plain decoder of three blocks. We train it for a little here; yours is trained.


def config(steps):
    optimisation = Optimisation(2e-3, warmup_steps=10, schedule="constant", clip_norm=1.0)
    return TrainingConfig(steps, 8, optimisation=optimisation, running=Running(progress=False))


def held_out_loss(model):
    """Return the mean loss in nats a token, over windows that training never saw."""
    model.eval()
    with torch.no_grad():
        parts = [test.batch(part) for part in torch.arange(min(len(test), 256)).split(32)]
        return sum(float(next_token_loss(model, part)) for part in parts) / len(parts)


model = Transformer(VOCABULARY, dim=64, layers=3, heads=4, seed=0)
fit(model.train(), train, next_token_loss, config(150))
print(f"held-out loss {held_out_loss(model):.3f} nats a token")

# %%
# Attach the memory
# -----------------
#
# ``attach`` takes the paths that ``model.named_modules()`` lists, so it works on any network
# whose layer maps (..., width) to (..., width): a Hugging Face model's ``transformer.h.3.mlp`` as
# well. Beside a layer the values begin at zero, and the outputs stay what they were, exactly. A
# network that has long to learn takes it past its middle; early in training the first layer is
# the best place, as a record of ours has it.

plain, larger = model, copy.deepcopy(model)
(memory,) = attach(larger, ["layers.0.feed_forward"], num_subkeys=128, key_dim=32)
tokens = test[0][0][None]
with torch.no_grad():
    change = float((larger.eval()(tokens) - plain.eval()(tokens)).abs().max())


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


print(f"parameters {parameters(plain):,} -> {parameters(larger):,}; slots {memory.values.slots:,}")
print(f"largest change of an output: {change}")
assert change == 0

# %%
# Go on training, with and without
# --------------------------------
#
# Only the rows that a step reads get a gradient, so they have an optimiser that touches only
# these rows, and a higher rate. ``Together`` makes one optimiser of the two for any training
# loop.

STEPS = 250
groups = parameter_groups(larger)
optimiser = Together(
    torch.optim.AdamW(groups["others"], lr=2e-3), RowwiseAdam(groups["values"], lr=4e-2)
)
losses = {
    "as it was": fit(plain.train(), train, next_token_loss, config(STEPS)).losses,
    "with a memory": fit(
        larger.train(), train, next_token_loss, config(STEPS), optimiser=optimiser
    ).losses,
}
found = {"as it was": held_out_loss(plain), "with a memory": held_out_loss(larger)}
for name, loss in found.items():
    print(f"{name:>14}: held-out loss {loss:.3f}")
gain = found["as it was"] - found["with a memory"]
print(f"the memory is worth {gain:+.3f} nats a token after {STEPS} steps (one seed)")

# %%
# The loss in training, averaged over twenty steps. Both see the same batches in the same order.

made, (axis,) = figure(width=6.4, height=3.4)
for name, values in losses.items():
    smooth = torch.tensor(values).unfold(0, 20, 1).mean(1)
    axis.plot(range(20, 20 + len(smooth)), smooth, label=name)
axis.set(xlabel="steps after the memory was attached", ylabel="training loss, nats a token")
axis.legend(frameon=False)
made

# %%
# Is the memory used?
# -------------------
#
# A memory that reads the same few slots for every token is wasted. ``usage`` counts on held-out
# text: 100 % used and a KL of 0 would be even use.

batches = [test.batch(part)[0] for part in torch.arange(min(len(test), 256)).split(32)]
(path, used), *_ = usage(larger, batches).items()
print(
    f"{path}: {used.used:.0%} of {used.slots:,} slots used, KL {used.kl:.2f}, Gini {used.gini:.2f}"
)
plot_usage(used)

# %%
# Save it, and read it again
# --------------------------
#
# A network with memories is saved as any other; attach the same memory before loading.

save_weights(larger, scratch / "larger.safetensors")
again = Transformer(VOCABULARY, dim=64, layers=3, heads=4)
attach(again, ["layers.0.feed_forward"], num_subkeys=128, key_dim=32)
load_weights(again, scratch / "larger.safetensors")
with torch.no_grad():
    same = torch.equal(again.eval()(tokens), larger.eval()(tokens))
print("the outputs are the same:", same)
assert same

# %%
# What to do next
# ---------------
#
# - Slots left unused? Take more heads, or keep the query's batch norm. Records of how both shape
#   the use are on :doc:`the memory page </generated/packages/memory>`.
# - One seed and a short training say little about a table of a million slots: the :doc:`results
#   </generated/results/memory>` have three seeds each and name what did not help.
# - With ``mode="replace"`` the memory takes the layer's place and saves its arithmetic.
# - A model of ``transformers``, trained by its own ``Trainer``:
#   ``examples/hugging_face_trainer.py``.
# - ``merkhet memory train --data my-texts/`` does all of this from the command line, and
#   ``merkhet audit run --data my-texts/`` reports wasted slots, cost and latency.
