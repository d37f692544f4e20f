"""Tail parameters of every node of a network, by a calculus over its graph."""
