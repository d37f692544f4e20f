"""Convolutional kernel networks: fitted with or without labels, invariant by construction.

Source: J. Mairal, "End-to-End Kernel Learning with Supervised Convolutional Kernel Networks",
NeurIPS 2016 (arXiv 1605.06265); A. Bietti, J. Mairal, "Group Invariance, Stability to Deformations,
and Complexity of Deep Convolutional Representations", JMLR 2019 (arXiv 1706.03078).
"""

from merkhet.ckn.dot_products import DotProductKernel
from merkhet.ckn.form import Form
from merkhet.ckn.layer import CKNLayer
from merkhet.ckn.network import CKN

__all__ = ["CKN", "CKNLayer", "DotProductKernel", "Form"]
