"""The studies, and the ways in which a user can get them wrong."""
