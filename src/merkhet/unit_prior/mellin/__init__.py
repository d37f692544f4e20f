"""The exact law of a product of independent radii, by Mellin inversion at the saddlepoint."""
