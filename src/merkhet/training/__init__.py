"""Training that can be stopped anywhere and goes on exactly; and how good the result is."""

from merkhet.training.clip import clip_gradients
from merkhet.training.config import Optimisation, Running, TrainingConfig
from merkhet.training.folder import final_weights, read_run
from merkhet.training.groups import parameter_groups
from merkhet.training.loop import fit
from merkhet.training.metrics import (
    accuracy,
    confusion_matrix,
    mean_iou,
    perplexity,
    predictions,
)
from merkhet.training.order import fetch
from merkhet.training.run import TrainingResult
from merkhet.training.schedule import rate_factor

__all__ = [
    "Optimisation",
    "Running",
    "TrainingConfig",
    "TrainingResult",
    "accuracy",
    "clip_gradients",
    "confusion_matrix",
    "fetch",
    "final_weights",
    "fit",
    "mean_iou",
    "parameter_groups",
    "perplexity",
    "predictions",
    "rate_factor",
    "read_run",
]
