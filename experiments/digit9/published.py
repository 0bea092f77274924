"""What S0 and S1 printed, one run each."""

# "others": digit -> errors before and after, of those that the study lists.
S0 = {"before": 0.962, "after": 0.941, "digit": (81, 14), "others": {4: (24, 112), 1: (28, 71), 3: (64, 90)}}
S1 = {
    "before": 0.953, "after": 0.843, "digit": (107, 11),
    "others": {7: (52, 677), 3: (95, 201), 4: (19, 186), 8: (19, 193)},
}  # fmt: skip
OF = {"s0": S0, "s1": S1}
