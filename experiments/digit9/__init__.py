"""S0 and S1: a classifier that is poor at the digit 9, mended by LoRA, and what that costs the other digits."""
