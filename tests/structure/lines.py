#!/usr/bin/env python3
"""No line of a source is longer than 120 characters: fails, naming each that is.

    tests/structure/lines.py ROOT
"""

import pathlib
import sys
import unicodedata

LONGEST = 120
FOLDERS = ["bench", "cmake", "examples", "include", "kernels", "src", "tests"]
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}


def width(line):
    """Characters as they are seen: an accent above another takes no place of its own."""
    return sum(1 for each in line if not unicodedata.combining(each))


def main():
    root = pathlib.Path(sys.argv[1])
    files = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*"))
             if path.suffix in SUFFIXES]
    if len(files) < 100:
        sys.exit(f"{root} holds {len(files)} sources: is it the root?")
    long = [f"{path.relative_to(root)}:{number}: {width(line)} characters" for path in files
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if width(line) > LONGEST]
    print("\n".join(long))
    sys.exit(1 if long else 0)


if __name__ == "__main__":
    main()
