"""The report of run.py as it grows: what each section has found, on disk as a whole file at any moment, so that a later
call can go on from it."""

import copy
import datetime
import hashlib
import json
import os
import pathlib
import threading

HERE = pathlib.Path(__file__).resolve().parent
BEFORE = "before its first case"
CHECKS = ("parity", "determinism", "dropout", "masks", "memcheck", "racecheck", "initcheck", "parity, 128x128",
          "parity, 128x256")
CASES = ("cases.py", "case_list.py", "checks.py", "formulas.py")  # what says which number a case has


class Refused(Exception):
    """A report that cannot be gone on from."""


def digest(*paths):
    total = hashlib.sha256()
    for path in paths:
        total.update(pathlib.Path(path).read_bytes())
    return total.hexdigest()


def library_of(build_folder):
    """What tells one built library from another: the bytes of the file that the build's gpu/library names."""
    named = build_folder / "gpu" / "library"
    path = pathlib.Path(named.read_text().strip()) if named.exists() else None
    return {"sha256": digest(path) if path and path.exists() else None}


def write_whole(path, text):
    """To a file beside, which then takes the name: whoever is killed leaves the old one or the new one."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    os.replace(beside, path)


class Report:
    """Sections by name. Threads may keep theirs at once."""

    def __init__(self, path, machine, library):
        self.path, self.lock = pathlib.Path(path), threading.Lock()
        self.found = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                      "machine": machine, "library": library, "cases_sha256": digest(*(HERE / name for name in CASES)),
                      "sections": {}}
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def resume(self):
        """Takes over what an earlier call has found; a line to print, or none. Throws Refused."""
        if not self.path.exists():
            return f"{self.path}: there is no report to go on from; it begins here"
        try:
            before = json.loads(self.path.read_text())
            sections, machine = before["sections"], before["machine"]
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"{self.path}: it is no report: {error!r}") from error
        if machine.get("device") != self.found["machine"]["device"]:
            raise Refused(f"{self.path}: it is of {machine.get('device')}, and this is "
                          f"{self.found['machine']['device']}")
        if before.get("library") != self.found["library"]:
            raise Refused(f"{self.path}: it is of another build of the library")
        self.found["date"] = before["date"]
        self.found["seconds"] = before.get("seconds", 0.0)
        self.found["sections"] = sections
        if before.get("cases_sha256") == self.found["cases_sha256"]:
            return None
        for name in CHECKS:
            sections.pop(name, None)
        return f"{self.path}: its cases are not these: the checks begin anew"

    def of(self, name):
        """A section so far."""
        return self.found["sections"].get(name, {})

    def keep(self, name, result):
        with self.lock:
            self.found["sections"][name] = copy.deepcopy(result)  # whose maker goes on with it
            self.write()

    def write(self):
        write_whole(self.path, json.dumps(self.found, indent=1) + "\n")


def finished(lines, start):
    """A worker's lines without those of the case that it is in, and where to go on."""
    begun = [index for index, line in enumerate(lines) if "begin" in line]
    if not begun:
        return [{"stopped": start, "case": BEFORE}]
    last = lines[begun[-1]]
    return [*lines[:begun[-1]], {"stopped": last["begin"], "case": last["case"]}]


def worst_figures(operators, line):
    for figures in (line.get("figures") or {}).values():
        worst = operators.setdefault(line["case"].split(",")[0], {})
        if "eager's" in figures:
            own, eager = figures["against float64"][0], figures["eager's"][0]
            if eager > 1e-4:
                worst["bf16_error_by_eagers"] = max(worst.get("bf16_error_by_eagers", 0), round(own / eager, 3))
        else:
            worst["fp32_error"] = max(worst.get("fp32_error", 0), *(each[0] for each in figures.values()))


def summary_of(lines):
    """Cases counted, those that failed in full, the worst figures by operator, and where the section stopped."""
    cases = [line for line in lines if "wrong" in line]
    found = {"ok": False, "complete": any("done" in line for line in lines), "cases": len(cases), "operators": {}}
    for line in cases:
        worst_figures(found["operators"], line)
    failed = [{"case": line["case"], "wrong": line["wrong"]} for line in cases if line["wrong"]]
    found.update(failures=len(failed), failed=failed[:100])
    for line in lines:
        if "registered_for_cuda" in line:
            found.update(line)
        if "stopped" in line:
            found["stopped"] = {"start": line["stopped"], "case": line["case"]}
    found["ok"] = found["complete"] and not failed
    return found


def merged(before, found):
    """A check's summary with that of the cases which an earlier call came to."""
    if "cases" not in before:
        return found
    failed = [each for each in before["failed"] if each["case"] != BEFORE]
    gone = len(before["failed"]) - len(failed)  # it did not begin then, and did now
    operators = {name: dict(figures) for name, figures in before["operators"].items()}
    for name, figures in found["operators"].items():
        own = operators.setdefault(name, {})
        for key, value in figures.items():
            own[key] = max(own.get(key, 0), value)
    total = {**before, **found, "operators": operators, "cases": before["cases"] - gone + found["cases"],
             "failures": before["failures"] - gone + found["failures"], "failed": (failed + found["failed"])[:100]}
    if "stopped" not in found:
        total.pop("stopped", None)
    total.pop("error", None)
    total["ok"] = total["complete"] and total["failures"] == 0
    return total
