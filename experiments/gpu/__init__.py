"""What a GPU owes us: parts that `on_gpu.py` measures in a given time. A new part is a function of `Size` and a row in `parts.py`."""
