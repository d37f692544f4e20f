"""What every package of merkhet builds on: graphs, costs, deformations, errors, files.

Nothing here imports another part of merkhet.
"""
