"""Names of layers that several studies adapt."""

LINEAR = ("*_proj",)  # every linear layer of a decoder layer
SQUARE = ("*/q_proj", "*/o_proj")  # where S4's study had its adapters: its square projections
