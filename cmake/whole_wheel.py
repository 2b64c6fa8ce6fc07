"""whole_wheel.py NAME VERSION: print the folder that NAME is installed in if it is VERSION and every file that its wheel
recorded is there in its size; exit 1 otherwise, as after an interrupted pip."""
import importlib.metadata
import sys

name, version = sys.argv[1:]
distribution = importlib.metadata.distribution(name)
if distribution.version.split("+")[0] != version or not distribution.files:
    sys.exit(1)
for file in distribution.files:
    path = file.locate()
    if file.suffix != ".pyc" and (not path.is_file() or file.size not in (None, path.stat().st_size)):
        sys.exit(1)
print(distribution.locate_file(""))
