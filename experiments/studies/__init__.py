"""One module per study: what is trained, on what, and which numbers come out."""
