"""Evidence: the theorem, what samples see of it, families of priors, structures, MAP."""

from merkhet.unit_prior.experiments.conv_and_residual import conv_and_residual
from merkhet.unit_prior.experiments.map_penalty import map_penalty
from merkhet.unit_prior.experiments.paper_figure import paper_figure
from merkhet.unit_prior.experiments.priors import priors
from merkhet.unit_prior.experiments.theorem import theorem

__all__ = ["conv_and_residual", "map_penalty", "paper_figure", "priors", "theorem"]
