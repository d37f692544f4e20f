"""Plain networks that experiments need, and pretrained ones from disk."""

from merkhet.models.attention import Cache
from merkhet.models.pretrained import from_pretrained
from merkhet.models.registry import Spec, build, names
from merkhet.models.resnet import ResNet18
from merkhet.models.small_cnn import SmallCNN
from merkhet.models.target import Target, find_target
from merkhet.models.transformer import Transformer
from merkhet.models.vgg import VGG11
from merkhet.models.weights import load_weights, save_weights

__all__ = [
    "VGG11",
    "Cache",
    "ResNet18",
    "SmallCNN",
    "Spec",
    "Target",
    "Transformer",
    "build",
    "find_target",
    "from_pretrained",
    "load_weights",
    "names",
    "save_weights",
]
