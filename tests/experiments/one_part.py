"""The linear teacher's first part alone, for tests of what all runs have in common."""

ONE_PART = {"inputs": ("white",), "rates": (), "depths": ()}
