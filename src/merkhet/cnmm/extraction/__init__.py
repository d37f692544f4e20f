"""Plain networks out of a mixture: folded, without gates, and written for other programs."""
