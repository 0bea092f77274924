"""How the best learning rate moves with the rank, under each rule for the scale."""
