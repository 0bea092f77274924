"""Prints pyproject.toml's lower bounds as pip's constraints: the older end of the range, exactly."""

import pathlib
import re
import tomllib

for need in tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["dependencies"]:
    print(re.sub(r"\[.*\]", "", need).replace(">=", "=="))  # pip takes no extras in constraints
