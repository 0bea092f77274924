"""Instructions whose answers a rule can check, made here."""
