"""S4's over-parameterised end: a pretrained model of 135 M parameters, taught the same instructions."""
