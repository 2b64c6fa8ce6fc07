"""What run.py says of the machine and of its findings: lines for the terminal, the goals, and Markdown tables."""

import pathlib
import platform
import shutil
import subprocess

import model_steps

# name: (at least or at most, value)
GOALS = {
    **{f"a layer's time over frozen, rank {rank}": ("at most", 0.06) for rank in (8, 16, 32, 64)},
    "a layer's time over frozen, DoRA, rank 16": ("at most", 0.10),
    "tokens a second, 32 layers, 4 x 2048": ("at least", 18500),
    "GiB, 32 layers, full checkpointing, 4 x 2048": ("at most", 32),
    "GiB, 32 layers, selective checkpointing, 4 x 2048": ("at most", 32),
    "a step's time by that without it, selective checkpointing, 4 x 2048": ("at most", 1.05),
    "a step's speed by PEFT's, 32 layers, 1 x 2048": ("at least", 1.5),
    "a step's memory by PEFT's, 32 layers, 1 x 2048": ("at most", 2 / 3),
}
BY_HAND = "a layer's time by hand-written addmm's, rank {}"  # at most 1, at every rank that was measured
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
        failed = result.get("failed") or result.get("report") or result.get("complete", True) or "error" in result
        parts.append("ok" if result["ok"] else "FAILED" if failed else "not through yet,")
    if "cases" in result:
        parts.append(f"{result['cases']} cases, {result.get('failures', len(result['failed']))} failed")
    if "blocks" in result:
        parts.append(f"{len(result['blocks'])} blocks, {len(result['left_out'])} left out")
    if "programs" in result:
        parts.append(f"{len(result['programs'])} programs, {len(result['left_out'])} left out")
    if "stopped" in result:
        parts.append(f"stopped at {result['stopped']['case']}")
    if "times_pefts_speed" in result:
        parts.append(f"{result['times_pefts_speed']:.2f} times PEFT's speed")
    parts.append(f"({result['seconds']} s)")
    lines = [" ".join(parts)]
    if result.get("left out"):
        lines.append(f"    left out: {', '.join(result['left out'])}")
    if "error" in result:
        lines.append(f"    {result['error'][:400]}")
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
    on_gpu = found["machine"]["device"] != "cpu"

    def median(rank, row):
        block = layer_block(found, rank)
        return block["rows"][row]["median_ms"] if block and row in block["rows"] else None

    def over(rank, row="rora"):
        own, frozen = median(rank, row), median(rank, "frozen")
        return own / frozen - 1 if own and frozen else None

    whole = found["sections"].get("model", {}) if on_gpu else {}
    programs = whole.get("programs", {})
    whole_step, selective = programs.get(model_steps.RORA, {}), programs.get(model_steps.SELECTIVE, {})

    def peak_gib(name):
        count = programs.get(name, {}).get("peak_bytes")
        return count / 2**30 if count else None

    measured = {
        **{f"a layer's time over frozen, rank {rank}": over(rank) for rank in (8, 16, 32, 64)},
        "a layer's time over frozen, DoRA, rank 16": over(16, "rora, DoRA"),
        "tokens a second, 32 layers, 4 x 2048": whole_step.get("tokens_per_s"),
        "GiB, 32 layers, full checkpointing, 4 x 2048": peak_gib(model_steps.FULL),
        "GiB, 32 layers, selective checkpointing, 4 x 2048": peak_gib(model_steps.SELECTIVE),
        "a step's time by that without it, selective checkpointing, 4 x 2048":
            selective["step_s"] / whole_step["step_s"] if whole_step and selective else None,
        "a step's speed by PEFT's, 32 layers, 1 x 2048": whole.get("times_pefts_speed"),
        "a step's memory by PEFT's, 32 layers, 1 x 2048": whole.get("of_pefts_memory"),
    }
    asked = dict(GOALS)
    for rank in (8, 16, 32, 64, 128, 256):
        own, by_hand = median(rank, "rora"), median(rank, "hand-written addmm")
        if own and by_hand:
            asked[BY_HAND.format(rank)], measured[BY_HAND.format(rank)] = ("at most", 1.0), own / by_hand
    return {name: {"goal": f"{sense} {value:.5g}", "measured": measured[name],
                   "met": None if measured[name] is None else
                   measured[name] <= value if sense == "at most" else measured[name] >= value}
            for name, (sense, value) in asked.items()}


def gib(count):
    return "" if count is None else f"{count / 2**30:.2f} GiB"


def block_name(block):
    shapes = block["shapes"]
    if len(shapes) > 1:
        return "the seven projections of a layer"
    k, outs = shapes[0]
    return f"{k} → {', '.join(map(str, outs))}"


def step_table(section):
    if not section.get("programs"):
        return []
    sizes = section["sizes"]
    lines = ["", f"A training step of {section['layers']} layers of hidden size {sizes['hidden']}, vocabulary "
             f"{sizes['vocab']}, {sizes['batch']} × {sizes['seq']} tokens and rank {sizes['rank']} where nothing else "
             "stands.", "", "| program | step | tokens/s | frozen products | memory |", "|---|---|---|---|---|"]
    for name, each in section["programs"].items():
        rate = f"{each['tokens_per_s']:.0f}" if "tokens_per_s" in each else ""  # which older reports lack
        lines.append(f"| {name} | {1e3 * each['step_s']:.1f} ms | {rate} | "
                     f"{each['product_tflops']:.0f} TFLOP/s | {gib(each['peak_bytes'])} |")
    return lines


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
    for name in ("model", "step"):
        lines += step_table(sections.get(name, {}))
    measured = {name: each for name, each in found.get("goals", {}).items() if each["measured"] is not None}
    if measured:
        lines += ["", "| goal | asked for | measured |", "|---|---|---|"]
        for name, each in measured.items():
            lines.append(f"| {name} | {each['goal']} | {each['measured']:.5g} |")
    return "\n".join(lines)
