"""Convolutional kernel networks: fitted with or without labels, invariant by construction.

Source: J. Mairal, "End-to-End Kernel Learning with Supervised Convolutional Kernel Networks",
NeurIPS 2016 (arXiv 1605.06265); A. Bietti, J. Mairal, "Group Invariance, Stability to Deformations,
and Complexity of Deep Convolutional Representations", JMLR 2019 (arXiv 1706.03078).
"""

from typing import Any

from merkhet.ckn.activation_series import activation_norm
from merkhet.ckn.cnn_norm import NormBound, cnn_norm_bound
from merkhet.ckn.dot_products import DotProductKernel
from merkhet.ckn.form import Form
from merkhet.ckn.gaussian_pool import GaussianPool2d
from merkhet.ckn.head import Head, fit_head
from merkhet.ckn.homogeneous import HomogeneousConv2d
from merkhet.ckn.homogeneous_network import HomogeneousNetwork
from merkhet.ckn.kmeans import Clustering, spherical_kmeans
from merkhet.ckn.layer import CKNLayer
from merkhet.ckn.network import CKN
from merkhet.ckn.networks import ckn_classifier, fine_tune
from merkhet.ckn.norm import normalised_margins, rkhs_norm
from merkhet.ckn.reconstruction import Reconstruction, reconstruct
from merkhet.ckn.spectral import LayerNorms, layer_norms, spectral_complexity

__all__ = [
    "CKN",
    "CKNClassifier",
    "CKNLayer",
    "CKNTransformer",
    "Clustering",
    "DotProductKernel",
    "Form",
    "GaussianPool2d",
    "Head",
    "HomogeneousConv2d",
    "HomogeneousNetwork",
    "LayerNorms",
    "NormBound",
    "Reconstruction",
    "activation_norm",
    "ckn_classifier",
    "cnn_norm_bound",
    "fine_tune",
    "fit_head",
    "layer_norms",
    "normalised_margins",
    "reconstruct",
    "rkhs_norm",
    "spectral_complexity",
    "spherical_kmeans",
]


def __getattr__(name: str) -> Any:
    """Load the estimators when they are asked for: scikit-learn is slow to load."""
    if name in ("CKNClassifier", "CKNTransformer"):
        from merkhet.ckn import estimators

        return getattr(estimators, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
