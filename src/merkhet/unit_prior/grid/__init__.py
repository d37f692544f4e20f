"""The law of the scale of a layer by a backward recursion on a grid."""
