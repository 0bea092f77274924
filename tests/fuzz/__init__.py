"""Inputs by the thousand, drawn and broken at random: none may be wrong in silence, end in a traceback, or hang.

`pytest tests/fuzz` tries 500, the same in every run. `FUZZ_INPUTS=10000 pytest tests/fuzz` tries that many others, and says what became of
them; `FUZZ_SEED=N` repeats a run.
"""
