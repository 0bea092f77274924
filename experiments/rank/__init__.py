"""The rank sweep on MNIST; and `rank_sweep.py`, that of every task."""
