"""Mixtures of networks: train one, list its operating points, take plain networks out."""

from merkhet.cnmm.commands.export import export
from merkhet.cnmm.commands.points import points
from merkhet.cnmm.commands.train import train

VERBS = (train, points, export)
