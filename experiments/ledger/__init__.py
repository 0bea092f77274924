"""Rules of inference, and the table of claims. Reads summaries; nothing here imports jax."""
