"""S2, part I: a linear teacher, where the best update of each rank is known."""
