"""Data sets and text: how each is found, read and checked."""

from merkhet.data.corpus import Document, documents, split_of
from merkhet.data.find import find
from merkhet.data.inputs import load_inputs
from merkhet.data.loading import load, load_segmentation, splits
from merkhet.data.npz import load_tokens
from merkhet.data.pictures import Pictures, Segmentation
from merkhet.data.selection import parse_size
from merkhet.data.sources import SOURCES, Source
from merkhet.data.text import encode_corpus, load_text
from merkhet.data.tokenizer import Tokenizer, train_tokenizer
from merkhet.data.tokens import TokenFile, TokenWindows

__all__ = [
    "SOURCES",
    "Document",
    "Pictures",
    "Segmentation",
    "Source",
    "TokenFile",
    "TokenWindows",
    "Tokenizer",
    "documents",
    "encode_corpus",
    "find",
    "load",
    "load_inputs",
    "load_segmentation",
    "load_text",
    "load_tokens",
    "parse_size",
    "split_of",
    "splits",
    "train_tokenizer",
]
