"""Weibull tails of samples and of exact curves: estimators, intervals, stability."""
