"""Priors and initialisations with wanted tails and scales; penalties that units see."""
