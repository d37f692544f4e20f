"""Operating points: the likeliest networks at each cost, chosen on held-out data."""
