"""The ledger: what a study claimed, what was measured, the verdict. Reads summaries; nothing here imports jax."""
