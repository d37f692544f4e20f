"""The law of one unit: exact, on a grid, after an activation; its moments and quantiles."""
