"""Networks that come with merkhet: trained by `merkhet reproduce models`, a folder for each.

A folder is a finished run: `model.safetensors`, and `run.json` with how the network is built and
trained, on what, how good it is, and what its files must be. A language model has its
`tokenizer.json` beside them.
"""

from merkhet.models.shipped.card import Card, read_card, write_card
from merkhet.models.shipped.find import card, folder, load, names

__all__ = ["Card", "card", "folder", "load", "names", "read_card", "write_card"]
