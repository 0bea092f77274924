"""Names of layers that several studies adapt."""

LINEAR = ("*_proj",)  # every linear layer of a decoder layer
