"""Draws of units over weights: recursions, conditional draws, fresh networks."""
