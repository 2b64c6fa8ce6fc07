"""What run.py says of the machine and of its findings: lines for the terminal, the goals, and Markdown tables."""

import pathlib
import platform
import shutil
import subprocess

# name: (at least or at most, value)
GOALS = {
    "a layer's time over frozen, rank 8": ("at most", 0.06),
    "a layer's time over frozen, rank 16": ("at most", 0.06),
    "a layer's time over frozen, rank 64": ("at most", 0.06),
    "a layer's time over frozen, DoRA, rank 16": ("at most", 0.08),
    "a step's product rate by the frozen products'": ("at least", 0.6),
    "a step's product rate by the frozen products', 32 layers (extrapolated)": ("at least", 0.6),
    "a step's speed by PEFT's": ("at least", 1.5),
    "a step's speed by PEFT's, 32 layers (extrapolated)": ("at least", 1.5),
    "a step's memory by PEFT's": ("at most", 2 / 3),
}
STATE = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "memory.used", "utilization.gpu")


def query(*fields):
    """nvidia-smi's answers by field; empty without it. Nothing is ever set."""
    if not shutil.which("nvidia-smi"):
        return {}
    try:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
                              capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return {}
    lines = done.stdout.strip().splitlines()
    return dict(zip(fields, map(str.strip, lines[0].split(",")))) if done.returncode == 0 and lines else {}


def gpu_state():
    return query(*STATE)


def package_version(name):
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine(cpu):
    import torch

    found = {"device": "cpu", "processor": processor(), "python": platform.python_version(), "torch": torch.__version__,
             "cuda": torch.version.cuda, "peft": package_version("peft"),
             "transformers": package_version("transformers")}
    if not cpu:
        properties = torch.cuda.get_device_properties(0)
        found.update(device=properties.name, capability=f"{properties.major}.{properties.minor}",
                     multiprocessors=properties.multi_processor_count, memory_bytes=properties.total_memory,
                     **query("driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit"))
    return found


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def line(name, result):
    """One line of a section for the terminal, and what failed in it."""
    if "unavailable" in result:
        return f"{name}: unavailable: {result['unavailable'][-200:]}"
    parts = [f"{name}:"]
    if "ok" in result:
        parts.append("ok" if result["ok"] else "FAILED")
    if "cases" in result:
        parts.append(f"{result['cases']} cases, {result.get('failures', len(result['failed']))} failed")
    if "blocks" in result:
        parts.append(f"{len(result['blocks'])} blocks, {len(result['left_out'])} left out")
    if "times_pefts_speed" in result:
        parts.append(f"{result['times_pefts_speed']:.2f} times PEFT's speed")
    parts.append(f"({result['seconds']} s)")
    lines = [" ".join(parts)]
    for each in result.get("failed", [])[:20]:
        text = each if isinstance(each, str) else f"{each['case']}: {'; '.join(each['wrong'])}"
        lines.append(f"    {text[:400]}")
    return "\n".join(lines)


def layer_block(found, rank, dropout=0.0):
    for block in found["sections"].get("layer", {}).get("blocks", []):
        if (block["tokens"], block["rank"], block["dropout"], len(block["shapes"])) == (8192, rank, dropout, 4):
            return block
    return None


def goals(found):
    """Each goal beside what was measured; None where it was not."""
    def over(rank, row="rora"):
        block = layer_block(found, rank)
        return block["rows"][row]["over_frozen"] if block and row in block["rows"] else None

    step = found["sections"].get("step", {}) if found["machine"]["device"] != "cpu" else {}
    whole = step.get("whole_model") or {}
    layer = layer_block(found, 16)
    frozen = layer["rows"]["frozen"]["tflops"] if layer and "frozen" in layer["rows"] else None

    def rate(tflops):
        return tflops / frozen if tflops and frozen else None

    measured = {
        "a layer's time over frozen, rank 8": over(8),
        "a layer's time over frozen, rank 16": over(16),
        "a layer's time over frozen, rank 64": over(64),
        "a layer's time over frozen, DoRA, rank 16": over(16, "rora, DoRA"),
        "a step's product rate by the frozen products'": rate(
            step.get("programs", {}).get("rora", {}).get("product_tflops")),
        "a step's product rate by the frozen products', 32 layers (extrapolated)": rate(
            whole.get("product_tflops", {}).get("rora")),
        "a step's speed by PEFT's": step.get("times_pefts_speed"),
        "a step's speed by PEFT's, 32 layers (extrapolated)": whole.get("times_pefts_speed"),
        "a step's memory by PEFT's": step.get("of_pefts_memory"),
    }
    return {name: {"goal": f"{sense} {value:.3g}", "measured": measured[name],
                   "met": None if measured[name] is None else
                   measured[name] <= value if sense == "at most" else measured[name] >= value}
            for name, (sense, value) in GOALS.items()}


def gib(count):
    return "" if count is None else f"{count / 2**30:.2f} GiB"


def block_name(block):
    shapes = block["shapes"]
    if len(shapes) > 1:
        return "the seven projections of a layer"
    k, outs = shapes[0]
    return f"{k} → {', '.join(map(str, outs))}"


def table(found):
    """The report's tables, as bench/README.md shows them."""
    machine_, sections = found["machine"], found["sections"]
    lines = [f"{machine_['device']}, driver {machine_.get('driver_version', '–')}, CUDA {machine_['cuda']}, "
             f"torch {machine_['torch']}, PEFT {machine_['peft']}, {found['date'][:10]}", ""]
    blocks = sections.get("layer", {}).get("blocks", []) + sections.get("linears", {}).get("blocks", [])
    if blocks:
        lines += ["Forward and backward of projections, bfloat16; over frozen: beyond the time of x·Wᵀ and dy·W.", "",
                  "| projections | M | rank | dropout | implementation | ms (p10 … p90) | over frozen | TFLOP/s | GB/s "
                  "| memory |",
                  "|---|---|---|---|---|---|---|---|---|---|"]
    for block in blocks:
        for name, row in block["rows"].items():
            lines.append(
                f"| {block_name(block)} | {block['tokens']} | {block['rank']} | {block['dropout']} | {name} | "
                f"{row['median_ms']:.3f} ({row['p10_ms']:.3f} … {row['p90_ms']:.3f}) | "
                f"{100 * row['over_frozen']:.1f}% | {row['tflops']:.0f} | {row['gb_per_s']:.0f} | "
                f"{gib(row['peak_bytes'])} |")
    step = sections.get("step", {})
    if step.get("programs"):
        sizes = step["sizes"]
        lines += ["", f"A training step of {step['layers']} layers of hidden size {sizes['hidden']}, vocabulary "
                  f"{sizes['vocab']}, {sizes['batch']} × {sizes['seq']} tokens, rank {sizes['rank']}; fewer layers: "
                  f"{step['fewer_layers']}.", "", "| program | step | frozen products | memory |",
                  "|---|---|---|---|"]
        for name, each in step["programs"].items():
            lines.append(f"| {name} | {1e3 * each['step_s']:.1f} ms | {each['product_tflops']:.0f} TFLOP/s | "
                         f"{gib(each['peak_bytes'])} |")
    measured = {name: each for name, each in found.get("goals", {}).items() if each["measured"] is not None}
    if measured:
        lines += ["", "| goal | asked for | measured |", "|---|---|---|"]
        for name, each in measured.items():
            lines.append(f"| {name} | {each['goal']} | {each['measured']:.3f} |")
    return "\n".join(lines)
