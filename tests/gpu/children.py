"""Programs that run.py starts, each in a process group of its own, and how they end."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

EVERY = 5.0  # seconds between two looks at what a child has done so far
running = set()


def child(command, limit, environment=None, meanwhile=None):
    """Runs a command for `limit` seconds at most: (exit code or None, stdout, stderr). `meanwhile` is called now and
    then while it runs."""
    process = subprocess.Popen(
        [str(each) for each in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        env={**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", **(environment or {})}, start_new_session=True)
    running.add(process.pid)
    end = time.monotonic() + max(limit, 1)
    try:
        while True:
            left = end - time.monotonic()
            try:
                out, err = process.communicate(timeout=max(min(left, EVERY), 0.1))
                return process.returncode, out, err
            except subprocess.TimeoutExpired:
                if left <= EVERY:
                    return ended(process)
                if meanwhile:
                    meanwhile()
    finally:
        if process.poll() is None:
            ended(process)
        running.discard(process.pid)


def ended(process):
    os.killpg(process.pid, signal.SIGTERM)  # ninja then ends its compilers, which are in groups of their own
    try:
        out, err = process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    return None, out, err


def end_with_this_process():
    """What ends this process by a signal ends its children, which would keep the GPU."""

    def end(number, _):
        for pid in list(running):
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def program(name):
    """A tool of the PATH, or of the environment that this Python is of."""
    beside = pathlib.Path(sys.executable).with_name(name)
    return shutil.which(name) or (str(beside) if beside.exists() else name)


def tail(text, count=1500):
    return text.strip()[-count:]
