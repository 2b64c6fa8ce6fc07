#!/usr/bin/env python3
"""What a source costs its compiler that uses RoRALinear, beside one that uses torch::nn::Linear.

Three sources at -O3, without a precompiled header: torch::nn::Linear; RoRALinear where the library is linked, whose
headers only declare (rora/core/linkage.h); and RoRALinear from the headers alone. Of each, the least processor time of
several compilations, as a machine that does other work lengthens the rest, and the size of the object. Fails where a
source beside the library takes more than MOST times the first.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINEAR = """#include <torch/nn/modules/linear.h>
at::Tensor f(const at::Tensor& x) {
  torch::nn::Linear layer(torch::nn::LinearOptions(64, 32).bias(false));
  return layer->forward(x);
}
"""
RORA = """#include <rora/core/rora_linear.h>
at::Tensor f(const at::Tensor& x) {
  rora::RoRALinear layer(rora::RoRALinearOptions(64, 32).rank(8).alpha(16));
  return layer->forward(x);
}
"""
SOURCES = [("torch::nn::Linear", LINEAR, []), ("RoRALinear, library linked", RORA, ["-DRORA_LINKED"]),
           ("RoRALinear, headers alone", RORA, [])]


def cached(build, name):
    """An entry of the build folder's CMakeCache.txt."""
    found = re.search(rf"^{name}:\w+=(.*)$", (build / "CMakeCache.txt").read_text(), re.MULTILINE)
    if not found:
        sys.exit(f"{build}/CMakeCache.txt has no {name}")
    return found.group(1)


def processor_seconds(command):
    """User and system time of the command and what it starts."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/default", help="a configured build folder")
    parser.add_argument("--times", type=int, default=3, help="compilations of each source")
    parser.add_argument("--most", type=float, default=1.2, help="times torch::nn::Linear's that a linked one may take")
    arguments = parser.parse_args()

    torch = pathlib.Path(cached(arguments.build, "Torch_DIR")).parents[2] / "include"
    command = [cached(arguments.build, "CMAKE_CXX_COMPILER"), "-std=c++20", "-O3", "-fPIC", "-I", str(ROOT / "include"),
               "-isystem", str(torch), "-isystem", str(torch / "torch/csrc/api/include")]
    least = [float("inf")] * len(SOURCES)
    sizes = [0] * len(SOURCES)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.times):
            for i, (_, text, flags) in enumerate(SOURCES):
                source, result = pathlib.Path(folder, f"{i}.cpp"), pathlib.Path(folder, f"{i}.o")
                source.write_text(text)
                least[i] = min(least[i], processor_seconds(command + flags + ["-c", str(source), "-o", str(result)]))
                sizes[i] = result.stat().st_size
    print(f"{'':28}{'seconds':>9}{'times':>8}{'object MB':>11}")
    for (name, _, _), seconds, size in zip(SOURCES, least, sizes):
        print(f"{name:28}{seconds:9.1f}{seconds / least[0]:8.2f}{size / 1e6:11.2f}")
    if least[1] > arguments.most * least[0]:
        sys.exit(f"RoRALinear beside the library takes more than {arguments.most} times torch::nn::Linear")


if __name__ == "__main__":
    main()
