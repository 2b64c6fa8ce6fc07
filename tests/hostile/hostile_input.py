"""Runs the rora binary on hostile input: every run ends soon, within little memory, with one line that names what is at
fault, and leaves no file behind.

    hostile_input.py RORA FIXTURES [WORD...]    only the cases whose names hold one of the words

Without a word each fifth case runs, and with RORA_HOSTILE=all every one.
RORA_TEST_SLOWNESS multiplies the seconds that a run may take, for builds with sanitizers and slow machines.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import adapter_cases
import data_cases
import flag_cases
import model_cases
import sum_cases
import tokenizer_cases
from place import Place, make_good

SLOWNESS = float(os.environ.get("RORA_TEST_SLOWNESS", "1"))
MAX_SECONDS = 5.0 * SLOWNESS  # of the processor: other work on the machine is no fault of the binary
MAX_WAIT = 4.0 * MAX_SECONDS
MAX_MEMORY = (2 if SLOWNESS > 1 else 1) << 30  # a sanitizer takes a GiB for itself
MAX_LINE = 1000

# Cases that are known to fail, by name.
EXPECTED_FAILURES = set()


def listing(root):
    """Every file below with its content, folders and links."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[path] = os.readlink(path)
        elif path.is_file():
            found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[path] = "folder"
    return found


def run(words, stdin):
    """(exit code or None for one that was killed, stderr, seconds, bytes) of a run."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as into:
        into.write(stdin)
        into.seek(0)
        process = subprocess.Popen(words, stdin=into, stdout=out, stderr=err)
        end = time.monotonic() + MAX_WAIT
        killed = False
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if not killed and time.monotonic() > end:
                process.kill()
                killed = True
            time.sleep(0.005)
        process.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        seconds = usage.ru_utime + usage.ru_stime
        return None if killed else process.returncode, err.read(), seconds, usage.ru_maxrss * 1024


def faults(case, code, stderr, seconds, memory):
    """What is wrong about the run's end."""
    found = []
    if code is None:
        return [f"did not end within {MAX_WAIT:g} s"]
    if seconds > MAX_SECONDS:
        found.append(f"took {seconds:.1f} s of the processor")
    if memory > MAX_MEMORY:
        found.append(f"took {memory >> 20} MiB")
    if case.fine:
        return found + ([] if code == 0 else [f"ended with {code}: {stderr!r}"])
    if code not in case.codes:
        found.append(f"ended with {code} instead of {' or '.join(map(str, case.codes))}")
    try:
        text = stderr.decode()
    except UnicodeDecodeError:
        return found + [f"stderr is not UTF-8: {stderr[:300]!r}"]
    if text.count("\n") != 1 or not text.endswith("\n") or any(ord(each) < 32 for each in text[:-1]):
        found.append("stderr is not one line")
    if len(stderr) > MAX_LINE:
        found.append(f"stderr has {len(stderr)} bytes")
    found += [f"stderr does not name {name}" for name in case.names if name not in text]
    found += [f"stderr says {word}" for word in ["Exception raised", "enforce fail", "std::", "c10::"] if word in text]
    return found + ([f"stderr: {text[:500]!r}"] if found else [])


def try_case(case, good, rora):
    with tempfile.TemporaryDirectory(prefix="rora-hostile-") as folder:
        root = pathlib.Path(folder) / "place"
        shutil.copytree(good, root, symlinks=True)
        place = Place(root)
        case.prepare(place)
        before = listing(root)
        words = [rora] + [os.fsencode(place.path(word[1:])) if word[:1] == "@" else os.fsencode(word)
                          for word in case.arguments]
        found = faults(case, *run(words, case.stdin))
        if not case.writes and listing(root) != before:
            changed = set(listing(root).items()) ^ set(before.items())
            found.append("files changed: " + ", ".join(sorted({str(path.relative_to(root)) for path, _ in changed})))
        return found


def make_run(good, rora):
    """A run of finetune that was killed after its checkpoint, to go on from."""
    arguments = [*flag_cases.FINETUNE, "--max-steps", "4", "--save-every", "2"]
    words = [rora] + [str(good / word[1:]) if word[:1] == "@" else word for word in arguments]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    (good / "out").rename(good / "run")
    for name in ["adapter_config.json", "adapter_model.safetensors"]:
        (good / "run" / name).unlink()
    Place(good).change_json("run/run.json", finished=False)


def main():
    rora, fixtures, words = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
    cases = [case for module in (model_cases, adapter_cases, sum_cases, data_cases, tokenizer_cases, flag_cases)
             for case in module.cases()]
    assert len({case.name for case in cases}) == len(cases), "two cases have one name"
    assert EXPECTED_FAILURES <= {case.name for case in cases}, "an expected failure is no case"
    cases = [case for case in cases if not words or any(word in case.name for word in words)]
    if not words and (SLOWNESS > 1 or os.environ.get("RORA_HOSTILE") != "all"):
        cases = cases[::5]  # all of them take minutes
    with tempfile.TemporaryDirectory(prefix="rora-hostile-") as folder:
        if SLOWNESS == 1:  # a sanitizer takes terabytes of addresses
            # Far over what a run may take: what reads without end fails instead of taking the machine with it.
            resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))
        good = pathlib.Path(folder) / "good"
        make_good(good, fixtures)
        make_run(good, rora)
        failed = 0
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for case, found in zip(cases, pool.map(lambda each: try_case(each, good, rora), cases)):
                expected = case.name in EXPECTED_FAILURES
                failed += bool(found) and not expected
                if found or expected:
                    verdict = "expected to fail" if expected and found else "passes now" if expected else "FAILED"
                    print(f"{verdict}: {case.name}: " + "; ".join(found), flush=True)
    print(f"{len(cases)} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
