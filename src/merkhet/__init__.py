"""merkhet: audit any PyTorch network, then change what you find."""

__version__ = "0.1.0"
