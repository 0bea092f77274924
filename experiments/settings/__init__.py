"""What each study is run with, preset by preset. Nothing here imports JAX: `--help` tells of these in a second."""
