"""The data sets that are known by name: a table, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from merkhet.data import camvid, cifar, digits

TRAIN_TEST = ("train", "test")


@dataclass(frozen=True)
class Remote:
    """A file at its official source.

    Attributes:
        name: What it is called in the data set's folder.
        urls: Where to get it, tried in order.
        checksum: "md5:..." or "sha256:...", as its publisher or torchvision states it.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str


@dataclass(frozen=True)
class Source:
    """A data set that has a name.

    Attributes:
        name: What `merkhet.data.load` calls it.
        what: A line for people.
        layouts: The layouts its folder may have, names in `merkhet.data.layouts`; empty for
            what needs no folder.
        splits: The splits that a complete folder has.
        classes: The classes' names.
        files: What a download gets; empty where no checksum is published to check it by.
        system: Where the system's package manager puts it.
        package: The Debian package that puts it there.
    """

    name: str
    what: str
    layouts: tuple[str, ...] = ()
    splits: tuple[str, ...] = TRAIN_TEST
    classes: tuple[str, ...] = ()
    files: tuple[Remote, ...] = ()
    system: Path | None = None
    package: str = ""


def _idx(places: tuple[str, ...], md5: dict[str, str]) -> tuple[Remote, ...]:
    """Return the four files of an IDX set at the given places."""
    return tuple(
        Remote(name, tuple(place + name for place in places), f"md5:{digest}")
        for name, digest in md5.items()
    )


MNIST = Source(
    name="mnist",
    what="handwritten digits, 28x28 gray",
    layouts=("idx",),
    classes=digits.CLASSES,
    files=_idx(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
)

FASHION_MNIST = Source(
    name="fashion-mnist",
    what="pieces of clothing, 28x28 gray",
    layouts=("idx",),
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    files=_idx(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    system=Path("/usr/share/datasets/fashion-mnist"),
    package="dataset-fashion-mnist",
)

KMNIST = Source(
    name="kmnist",
    what="cursive Japanese characters, 28x28 gray",
    layouts=("idx",),
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    files=_idx(
        ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        {
            "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
            "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
            "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
            "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
        },
    ),
)

CIFAR10 = Source(
    name="cifar10",
    what="things and animals, 32x32 RGB",
    layouts=("cifar", "parquet"),
    classes=cifar.CLASSES,
    files=(
        Remote(
            cifar.ARCHIVE,
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            "md5:c32a1d4ab5d03f1284b67883e8d87530",
        ),
    ),
)

CAMVID = Source(
    name="camvid",
    what="street scenes with a label for every pixel, RGB",
    layouts=("camvid",),
    splits=camvid.SPLITS,
    classes=camvid.CLASSES,
)

DIGITS = Source(
    name="digits",
    what="handwritten digits, 8x8 gray, embedded in scikit-learn",
    classes=digits.CLASSES,
)

SOURCES = {
    source.name: source for source in (DIGITS, MNIST, FASHION_MNIST, KMNIST, CIFAR10, CAMVID)
}
