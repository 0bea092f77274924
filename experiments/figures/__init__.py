"""Figures and tables, drawn from records alone; nothing here imports jax."""
