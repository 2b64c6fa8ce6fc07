"""bootstrap_test.py CMAKE BOOTSTRAP: what cmake/bootstrap.cmake does on machines in several states.

The machine is a folder: PATH holds only stand-ins, which write their arguments to a log. The virtual environment is a
real one; its pip is a stand-in that installs a torch of one file, and no CUTLASS.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

CMAKE, BOOTSTRAP = sys.argv[1:]

FAKE_PIP = """
import os, pathlib, sys
log = open(os.environ["TEST_LOG"], "a")
log.write("pip " + " ".join(sys.argv[1:]) + "\\n")
if "torch" not in sys.argv[-1]:
    sys.exit(1)
site = pathlib.Path(__file__).parents[1]
config = site / "torch/share/cmake/Torch/TorchConfig.cmake"
config.parent.mkdir(parents=True)
config.write_text("# whole")
if os.environ.get("TEST_PIP_FAILS"):
    sys.exit(1)
info = site / "torch-2.11.0.dist-info"
info.mkdir()
(info / "METADATA").write_text("Metadata-Version: 2.1\\nName: torch\\nVersion: 2.11.0+cpu\\n")
(info / "RECORD").write_text("torch/share/cmake/Torch/TorchConfig.cmake,,7\\ntorch-2.11.0.dist-info/RECORD,,\\n")
"""

MADE = ["venv", "pip install torch==2.11.0", "pip install --no-deps nvidia-cutlass==4.2.0.0"]

FAKE_PYTHON = f"""#!/bin/sh
if [ "$1 $2" != "-m venv" ]; then exec "{sys.executable}" "$@"; fi
echo "venv" >> "$TEST_LOG"
"{sys.executable}" -m venv --without-pip "$3"
for site in "$3"/lib/python3*/site-packages; do
  "{shutil.which('mkdir')}" "$site/pip"
  "{shutil.which('cp')}" "$TEST_PIP" "$site/pip/__main__.py"
done
"""

# Its one package is ninja-build.
FAKE_APT = f"""#!/bin/sh
echo "apt-get $*" >> "$TEST_LOG"
case "$*" in
  update) : > "$TEST_LOG.updated"; exit ;;
esac
[ -z "$TEST_STALE_LISTS" ] || [ -e "$TEST_LOG.updated" ] || exit 100
"{shutil.which('cp')}" "$TEST_NINJA" "${{0%/*}}/ninja"
"""

FAKE_NINJA = """#!/bin/sh
echo 1.11.1
"""

FAKE_SUDO = """#!/bin/sh
echo "sudo $*" >> "$TEST_LOG"
[ "$1" = -n ] || exit 1
shift
exec "$@"
"""


class Bootstrap(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.log_file = self.root / "log"
        (self.root / "project").mkdir()
        (self.root / "project/CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.25)\nproject(probe LANGUAGES NONE)\n"
        )
        (self.root / "pip.py").write_text(FAKE_PIP)
        (self.root / "bin").mkdir()
        for tool in ("sh", "env", "true"):
            (self.root / "bin" / tool).symlink_to(shutil.which(tool))
        self.add_tool("ninja", FAKE_NINJA)
        shutil.copy(self.root / "bin/ninja", self.root / "ninja")
        self.add_tool("python3", FAKE_PYTHON)
        self.add_tool("apt-get", FAKE_APT)
        self.add_tool("id", "#!/bin/sh\necho 0\n")
        self.venv = self.root / "cache/rora/torch-2.11.0"

    def add_tool(self, name, text):
        tool = self.root / "bin" / name
        tool.write_text(text)
        tool.chmod(0o755)

    def start(self, build="build", options=(), **variables):
        environment = {
            "PATH": f"{self.root / 'bin'}:{pathlib.Path(BOOTSTRAP).parent / 'before_ninja'}",
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "TEST_LOG": str(self.log_file),
            "TEST_PIP": str(self.root / "pip.py"),
            "TEST_NINJA": str(self.root / "ninja"),
            **variables,
        }
        command = [CMAKE, "-S", self.root / "project", "-B", self.root / build, "-G", "Ninja"]
        command += [f"-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES={BOOTSTRAP}", *options]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def configure(self, *arguments, succeeds=True, **variables):
        process = self.start(*arguments, **variables)
        output, _ = process.communicate()
        self.assertEqual(process.returncode == 0, succeeds, output)
        return output

    def log(self):
        return self.log_file.read_text().splitlines() if self.log_file.exists() else []

    def cached(self, variable, build="build"):
        for line in (self.root / build / "CMakeCache.txt").read_text().splitlines():
            if line.startswith(variable + ":"):
                return line.split("=", 1)[1]
        return None

    def test_makes_the_environment_once_for_all_build_trees(self):
        output = self.configure()
        self.assertIn("making a Python virtual environment", output)
        self.assertIn("could not install nvidia-cutlass==4.2.0.0 (exit 1); going on without", output)
        self.assertEqual(self.log(), MADE)
        self.assertTrue(self.cached("Torch_DIR").startswith(str(self.venv)))
        self.assertIn("using LibTorch in", self.configure("other"))
        self.configure()
        self.assertEqual(self.log(), MADE)
        self.assertEqual(self.cached("Torch_DIR"), self.cached("Torch_DIR", "other"))

    def test_makes_a_damaged_environment_anew(self):
        for damage in ("missing file", "short file", "no record", "no interpreter"):
            with self.subTest(damage):
                self.configure()
                self.log_file.unlink(missing_ok=True)
                (config,) = self.venv.glob("lib/python*/site-packages/torch/share/cmake/Torch/TorchConfig.cmake")
                if damage == "missing file":
                    config.unlink()
                elif damage == "short file":
                    config.write_text("#")
                elif damage == "no record":
                    next(self.venv.glob("lib/python*/site-packages/torch-*/RECORD")).unlink()
                else:
                    for python in (self.venv / "bin").glob("python*"):
                        python.unlink()
                self.assertIn("making it anew", self.configure())
                self.assertEqual(self.log(), MADE)
                self.assertTrue(pathlib.Path(self.cached("Torch_DIR"), "TorchConfig.cmake").exists())

    def test_tries_again_after_pip_failed(self):
        self.assertIn("pip could not install torch==2.11.0", self.configure(TEST_PIP_FAILS="1", succeeds=False))
        self.configure()
        self.assertEqual(self.log().count("pip install torch==2.11.0"), 2)

    def test_two_at_once_make_one_environment(self):
        processes = [self.start(f"build{number}") for number in range(3)]
        for process in processes:
            output, _ = process.communicate()
            self.assertEqual(process.returncode, 0, output)
        self.assertEqual(self.log(), MADE)

    def test_takes_a_given_torch(self):
        given = self.root / "given/share/cmake/Torch"
        given.mkdir(parents=True)
        (given / "TorchConfig.cmake").write_text("")
        prefix = self.root / "given"
        for number, how in enumerate(
            (
                {"options": [f"-DCMAKE_PREFIX_PATH=/nowhere;{prefix}"]},
                {"options": [f"-DCMAKE_PREFIX_PATH={given.parent}"]},
                {"options": [f"-DTorch_DIR={given}"]},
                {"options": [f"-DTorch_ROOT={prefix}"]},
                {"CMAKE_PREFIX_PATH": f"/nowhere:{prefix}"},
                {"Torch_ROOT": str(prefix)},
            )
        ):
            with self.subTest(how):
                self.assertIn("LibTorch is given", self.configure(f"build{number}", **how))
                self.assertEqual(self.cached("Torch_DIR", f"build{number}"), str(given))
        self.assertEqual(self.log(), [])

    def test_does_nothing_when_off(self):
        self.configure(options=["-DRORA_BOOTSTRAP=OFF"])
        self.assertEqual(self.log(), [])
        self.assertIsNone(self.cached("Torch_DIR"))

    def apt_lines(self):
        return [line for line in self.log() if "apt-get" in line or line.startswith("sudo")]

    def test_installs_missing_packages_as_root(self):
        (self.root / "bin/ninja").unlink()
        self.assertIn("installing Debian packages: ninja-build", self.configure())
        self.assertEqual(self.cached("CMAKE_MAKE_PROGRAM"), str(self.root / "bin/ninja"))
        (line,) = self.apt_lines()
        self.assertRegex(line, r"^apt-get -y --no-install-recommends .*install ninja-build$")

    def test_updates_stale_package_lists(self):
        (self.root / "bin/ninja").unlink()
        self.configure(TEST_STALE_LISTS="1")
        self.assertEqual(len(self.apt_lines()), 3)
        self.assertEqual(self.apt_lines()[1], "apt-get update")

    def test_installs_by_passwordless_sudo(self):
        (self.root / "bin/ninja").unlink()
        self.add_tool("id", "#!/bin/sh\necho 1000\n")
        self.add_tool("sudo", FAKE_SUDO)
        self.configure()
        self.assertTrue(any(line.startswith("apt-get") for line in self.apt_lines()))
        self.assertTrue(all(line.startswith(("sudo -n", "apt-get")) for line in self.apt_lines()))

    def test_says_what_to_install_without_rights(self):
        (self.root / "bin/ninja").unlink()
        self.add_tool("id", "#!/bin/sh\necho 1000\n")
        self.assertIn("sudo apt-get install ninja-build", self.configure())
        self.assertEqual(self.apt_lines(), [])
        self.add_tool("ninja", FAKE_NINJA)
        self.configure(options=["-DRORA_BOOTSTRAP=OFF"])
        self.assertEqual(self.cached("CMAKE_MAKE_PROGRAM"), str(self.root / "bin/ninja"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
