#!/usr/bin/env python3
"""Compiles the CUDA kernels and writes what ptxas says of each: registers, static shared memory, stack, spills.

    python3 kernels/report.py                 # all of sources.cmake, to kernels/README.md
    python3 kernels/report.py swiglu.cu -o -  # some, to the terminal

Neither a GPU nor LibTorch is needed, only nvcc (--nvcc, $CUDACXX or the PATH). Ends with an error where a kernel spills, or
where a source does not compile or only with warnings.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parent
ARCHITECTURES = ("80", "90a")
NAMESPACE = "rora::kernels::cuda::"


def listed_sources():
    text = re.sub(r"#.*", "", (FOLDER / "sources.cmake").read_text())
    listed = re.search(r"set\(RORA_KERNEL_SOURCES([^)]*)\)", text).group(1).split()
    return [name for name in listed if name.endswith(".cu")]


def compiler_output(nvcc, source):
    """What nvcc and ptxas say of a source, for all architectures."""
    command = [nvcc, "-std=c++17", "-O3", f"-I{ROOT}", f"-I{ROOT / 'include'}"]
    command += ["-Xcompiler", "-Wall,-Wextra", "-Xptxas", "-v"]
    for architecture in ARCHITECTURES:
        command += ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
    with tempfile.TemporaryDirectory() as folder:
        command += ["-c", str(FOLDER / source), "-o", str(pathlib.Path(folder) / "object.o")]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0 or "warning" in result.stdout:
        sys.exit(f"{source} does not compile without a word:\n{result.stdout}")
    return result.stdout


def kernels_in(output):
    """(mangled name, architecture, {registers, shared, spilled}) of each entry function that ptxas tells of."""
    sections = re.split(r"Compiling entry function '(\w+)' for 'sm_(\w+)'", output)
    for name, architecture, text in zip(sections[1::3], sections[2::3], sections[3::3]):
        # The entry's own properties come first; those of functions that it calls may follow.
        used = re.search(r"Used (\d+) registers([^\n]*)", text)
        shared = re.search(r"(\d+) bytes smem", used.group(2))
        spilled = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", text)]
        yield name, architecture, {
            "registers": int(used.group(1)),
            "shared": int(shared.group(1)) if shared else 0,
            "stack": int(re.search(r"(\d+) bytes stack frame", text).group(1)),
            "spilled": sum(spilled),
        }


def short_names(mangled):
    """The kernel's struct and its types, as it is written."""
    try:
        result = subprocess.run(
            ["c++filt"], input="\n".join(mangled), stdout=subprocess.PIPE, text=True, check=True)
    except FileNotFoundError:
        return dict(zip(mangled, mangled))
    names = {}
    for name, full in zip(mangled, result.stdout.splitlines()):
        struct = re.search(r"\brun<(.*)>\(", full)
        short = (struct.group(1) if struct else full).replace(NAMESPACE, "").replace("> >", ">>")
        names[name] = re.sub(r"\((?:int|long|bool)\)", "", short).strip()
    return names


def table(found, version):
    lines = [
        "# The kernels as they are compiled",
        "",
        "Written by `python3 kernels/report.py`, which needs nvcc alone; not by hand. It fails where a kernel spills registers.",
        "Shared memory is the static part; what a kernel asks for at launch is in its `geometry()`.",
        "",
        f"nvcc {version}; each number for " + " / ".join(f"sm_{each}" for each in ARCHITECTURES) + ".",
        "",
        "| source | kernel | registers | shared memory, bytes | stack, bytes | spilled, bytes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (source, name), of in sorted(found.items()):
        numbers = [
            " / ".join(str(of[each][what]) for each in ARCHITECTURES if each in of)
            for what in ("registers", "shared", "stack", "spilled")
        ]
        lines.append(f"| {source} | `{name}` | " + " | ".join(numbers) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="of this folder; all that sources.cmake lists where none is named")
    parser.add_argument("--nvcc", default=os.environ.get("CUDACXX", "nvcc"))
    parser.add_argument("-o", "--output", default=str(FOLDER / "README.md"), help="- is the terminal")
    arguments = parser.parse_args()

    version = subprocess.run([arguments.nvcc, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    version = re.search(r"release ([\d.]+)", version).group(1)
    found = {}
    for source in arguments.sources or listed_sources():
        kernels = list(kernels_in(compiler_output(arguments.nvcc, source)))
        names = short_names(sorted({name for name, _, _ in kernels}))
        for name, architecture, numbers in kernels:
            found.setdefault((source, names[name]), {})[architecture] = numbers

    text = table(found, version)
    if arguments.output == "-":
        print(text, end="")
    else:
        pathlib.Path(arguments.output).write_text(text)
    spilling = [
        f"{name} on sm_{architecture}: {numbers['spilled']} bytes"
        for (_, name), of in sorted(found.items())
        for architecture, numbers in of.items()
        if numbers["spilled"]
    ]
    if spilling:
        sys.exit("kernels that spill registers:\n" + "\n".join(spilling))


if __name__ == "__main__":
    main()
