"""`reproduce.py`: every study, and the ledger of all their claims."""
