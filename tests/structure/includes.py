#!/usr/bin/env python3
"""Includes point only downwards: fails, naming each, on an include of a higher floor.

    tests/structure/includes.py ROOT

The floors are the folders of include/rora and src, in this order; kernels/ stands between core and ops.
"""

import pathlib
import re
import sys

FLOORS = [
    "core", "kernels", "ops", "checkpoint", "model", "adapters", "text", "data", "evaluation", "training", "theory",
    "examples"]
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')


def floor_of(parts):
    """The floor of a file by the parts of its path below the root; None for what stands on none (error.h)."""
    for start in (("include", "rora"), ("src",), ()):
        if parts[: len(start)] == start and len(parts) > len(start) + 1 and parts[len(start)] in FLOORS:
            return parts[len(start)]
    return None


def included(root, file, quote, name):
    """The parts below the root of what an include means; None for a header of another project."""
    if name.startswith("rora/"):
        return ("include", *pathlib.PurePosixPath(name).parts)
    if quote == '"':
        for base in (file.parent, root / "src", root / "examples", root):
            path = (base / name).resolve()
            if path.is_file() and path.is_relative_to(root):
                return path.relative_to(root).parts
    if name.startswith("kernels/"):
        return pathlib.PurePosixPath(name).parts
    return None


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    files = [
        path for folder in ("include", "src", "kernels", "examples") for path in sorted((root / folder).rglob("*"))
        if path.suffix in (".h", ".cpp", ".cu", ".cuh")]
    upwards, arrows = [], 0
    for file in files:
        own = floor_of(file.relative_to(root).parts)
        for number, line in enumerate(file.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            other = match and included(root, file, *match.groups())
            theirs = other and floor_of(tuple(other))
            if own is None or theirs is None:
                continue
            arrows += 1
            if FLOORS.index(theirs) > FLOORS.index(own):
                upwards.append(f"{file.relative_to(root)}:{number}: {own} includes {theirs}: {match.group(2)}")
    for each in upwards:
        print(each)
    if arrows == 0:
        sys.exit(f"{root} has no include between floors: is it the root of the sources?")
    print(f"{len(files)} files, {arrows} includes of floors, {len(upwards)} upwards")
    sys.exit(1 if upwards else 0)


if __name__ == "__main__":
    main()
