"""Flags, files of flags, and folders to go on from."""

import os

from case import FINETUNE, LOAD, Case, writing

MOST = str(2**63 - 1)
DRY = FINETUNE + ["--dry-run"]
BENCH = ["bench", "--model", "@model", "--batch", "1", "--seq", "4", "--steps", "1", "--threads", "1"]
GENERATE = ["generate", "--model", "@model", "--prompt", "hello", "--max-new-tokens", "1"]
THEORY = ["theory", "--samples", "100", "--in-features", "8", "--out-features", "2", "--threads", "1"]
PRUNE = ["prune", "--model", "@model", "--output", "@out", "--share", "0.3", "--threads", "1"]
PRUNE_BY_GRADIENT = PRUNE + ["--importance", "gradient", "--data", "@train.jsonl"]
SWEEP = ["sweep", "--model", "@model", "--data", "@train.jsonl", "--eval-data", "@train.jsonl", "--output", "@out",
         "--max-steps", "1", "--batch-size", "2", "--threads", "1"]
PRETRAIN = ["pretrain", "--model-config", "@model/config.json", "--data", "@train.jsonl", "--output", "@out"]


def value_cases():
    def case(command, flag, value, codes=(2,), names=None):
        return Case(f"{command[0]} --{flag} {value[:24]}", [*command, f"--{flag}={value}"], names or (flag,),
                    codes=codes)

    for flag in ["rank", "warmup-steps", "epochs", "max-steps", "batch-size", "grad-accum", "max-length", "save-every",
                 "threads"]:
        for value in [MOST, "9223372036854775808", "-1", "x", ""]:
            yield case(DRY, flag, value)
    for flag in ["rank", "threads"]:
        yield case(DRY, flag, "1000000000")
    yield case(DRY, "threads", "1025" if os.cpu_count() < 256 else MOST[:-1])
    for flag, values in {
            "seed": ["-1", "1.5", "1e3", "0x10", "010"], "lr": ["nan", "inf", "-1", "1e999", "x"],
            "alpha": ["0", "-1", "nan"], "dropout": ["1", "-0.1", "nan"], "clip": ["-1", "nan"],
            "weight-decay": ["-1", "inf"], "schedule": ["square", "\x1b[31m"], "dtype": ["float16", "int8"],
            "device": ["tpu"], "scaling": ["x"], "lr-ratio-b": ["0", "inf"],
            "optimizer": ["sgd", "Help", "", "lora-rite,lora-fa"], "eval-every": ["1"],
            "early-stopping-patience": ["1"], "dora-dropout": ["low-rank"], "shuffle": ["maybe"],
    }.items():
        for value in values:
            yield case(DRY, flag, value)
    gora = [*DRY, "--init", "gora", "--min-rank", "1"]
    for flag, values in {"min-rank": ["-1", MOST, "x"], "max-rank": ["-1"], "gora-batches": ["0", MOST[:-1] + "x"],
                         "gora-gamma": ["-1", "nan"], "capture-memory": ["-1"], "capture-batches": ["4"],
                         "eva-rho": ["3"], "lora-one-gamma": ["2"], "init-adapter": ["@adapter"]}.items():
        for value in values:
            yield case(gora, flag, value)
    for value in ["kaiming", "", "x" * 100_000]:
        yield case(DRY, "init", value)
    yield case(DRY, "statistics", "@statistics")
    yield case(DRY, "min-rank", "5")
    for init, rank, names in (("lora-ga", "100", "singular values"), ("pissa", "100", "singular values"),
                              ("eva", "40", "directions")):
        yield Case(f"finetune --init {init} of rank {rank}", [*DRY, "--init", init, "--rank", rank], (names,))
    for words in ([*gora, "--statistics", "@model"], [*gora, "--statistics", "@train.jsonl"],
                  [*gora, "--statistics", "@adapter/adapter_model.safetensors"]):
        yield Case(f"statistics of {words[-1]}", words, (words[-1][1:].split("/")[-1],))
    for value in ["qora", "full", ""]:
        yield case(DRY, "method", value)
    for words in (["--method", "dora", "--dora"], ["--method", "lora", "--scaling", "standard"],
                  ["--method", "prefix", "--alpha", "8"], ["--method", "prefix", "--dropout", "0.1"],
                  ["--method", "series", "--modules-to-save", "lm_head"], ["--method", "lora", "--init-adapter", "@adapter"],
                  ["--method", "prefix", "--init", "pissa"]):
        yield Case("finetune " + " ".join(words), [*DRY, *words], ("--" + words[2].strip("-"),), codes=(2,))
    yield case(DRY, "target-modules", "nothing", codes=(1,), names=("nothing",))
    yield case(DRY, "target-modules", "x" * 100_000, codes=(1,), names=("target module",))
    yield case(DRY, "target-modules", "", codes=(1, 2), names=("target",))
    for flag, values in {"batch": [MOST, "0", "1000000000"], "seq": [MOST, "1", "1000000000"], "steps": [MOST, "0"],
                         "rank": [MOST], "labelled": ["0", "2", "nan"], "alpha": ["inf"]}.items():
        for value in values:
            yield case(BENCH, flag, value)
    yield Case("bench of 10^9 x 10^9 tokens", [*BENCH, "--batch", "1000000000", "--seq", "1000000000"],
               ("--batch", "--seq"), codes=(2,))
    for words in (["--merge"], ["--merge", "--inference", "--frozen"]):
        yield Case("bench " + " ".join(words), [*BENCH, *words], ("--merge",), codes=(2,))
    for flag, values in {"beams": [MOST, "0", "100000", "425"], "max-new-tokens": [MOST, "-1"], "top-k": [MOST, "-1"],
                         "top-p": ["0", "1.1", "nan"], "temperature": ["-1", "nan"], "seed": ["-1"]}.items():
        for value in values:
            yield case(GENERATE, flag, value)
    yield Case("generate of beams that sample", [*GENERATE, "--beams", "2", "--temperature", "1"], ("--beams",),
               codes=(2,))
    for flag, values in {"ranks": ["4,8", "4,8,x", "4,8,8", "0,4,8", "4,8,65537", "4,,8", "", MOST],
                         "samples": ["99", "-1", MOST], "in-features": ["0", MOST], "out-features": ["0", MOST],
                         "alpha": ["0", "nan", "1e999"], "seed": ["-1", "x"], "initial-a": ["x"],
                         "steps": ["0", MOST], "lr": ["0", "nan"], "batch-size": ["0", MOST],
                         "max-length": ["1", MOST], "data": ["x"]}.items():
        for value in values:
            yield case(THEORY, flag, value)
    for flag, values in {"share": ["1", "-0.1", "nan", "x", ""], "importance": ["x"], "data": ["@train.jsonl"],
                         "seed": ["1"]}.items():
        for value in values:
            yield case(PRUNE, flag, value)
    yield case(PRUNE, "share", "0.999", codes=(1,), names=("is the most",))
    for flag, values in {"batches": ["0", MOST], "batch-size": ["0", MOST], "max-length": ["1", MOST],
                         "seed": ["-1", "x"]}.items():
        for value in values:
            yield case(PRUNE_BY_GRADIENT, flag, value)
    for flag, values in {"methods": ["qora", "lora,lora", ""], "ranks": ["0", "4,x", "65537", "8,8", ""],
                         "alphas": ["0", "r", "nan", "1e7", "16,16.0"], "lrs": ["0", "nan", "1e7", "1,1.0"],
                         "seeds": ["0", "1001", "x"], "seed": ["-1", MOST], "tasks": ["chess"], "limit": ["1"],
                         "beams": ["2"], "within": ["0", "nan"]}.items():
        for value in values:
            yield case(SWEEP, flag, value)
    yield case(SWEEP, "reference-model", "@out", codes=(1,), names=("out",))
    yield case(SWEEP, "target-modules", "nothing", codes=(1,), names=("nothing",))
    yield Case("sweep whose ranks are too high", [*SWEEP, "--ranks", "65536"], ("rank",))
    for flag in ["batch-size", "limit", "threads"]:
        yield case(LOAD, flag, MOST)
    yield case(PRETRAIN, "train-tokenizer", MOST)
    yield case(PRETRAIN, "train-tokenizer", "0")


def usage_cases():
    for name, words, names in [
            ("none", [], ("subcommand",)), ("an unknown command", ["fly"], ("fly",)),
            ("a long command", ["f" * 100_000], ()), ("a command of control characters", ["\x1b[31m\n\x07"], ()),
            ("an unknown flag", [*LOAD, "--fly", "3"], ("--fly is no flag",)),
            ("a long flag", [*LOAD, "--" + "f" * 100_000], ()),
            ("a flag without a value", [*LOAD, "--limit"], ("--limit",)),
            ("a lone word", [*LOAD, "word"], ("word",)), ("of no model", ["evaluate", "--task", "choice"], ("--",)),
            ("of two prompts", [*GENERATE, "--prompt-file", "x"], ("--prompt-file",)),
            ("merge without an adapter", [*LOAD, "--merge"], ("--adapter",)),
            ("of graphs on the processor", [*DRY, "--cuda-graph"], ("--cuda-graph",)),
            ("of steps and epochs", [*DRY, "--epochs", "1", "--max-steps", "1"], ("--epochs",)),
            ("of many packed epochs", [*DRY, "--packing", "--epochs", "1000000"], ("--epochs",)),
            ("pretrain of nothing", ["pretrain", "--data", "@train.jsonl", "--output", "@out"], ("--model",)),
            ("pretrain of two sources", [*PRETRAIN, "--model", "@model"], ("--model",)),
            ("inspect of nothing", ["inspect"], ("--model",))]:
        yield Case(f"usage {name}", words, names, codes=(2,))
    yield Case("usage of bytes", [*LOAD, "--limit=\udcff\udcfe"], ("--limit",), codes=(2,))
    yield Case("prompt of bytes", [*GENERATE[:4], "\udcff\udcfe", *GENERATE[5:]], fine=True)
    yield Case("prompt of nothing", [*GENERATE[:4], "", *GENERATE[5:]], fine=True)


def size_cases():
    for name, fields in {"of 2^31 tokens": {"vocab_size": 2**31 - 1, "hidden_size": 2**20},
                         "of 10000 layers": {"num_hidden_layers": 10_000, "intermediate_size": 2**31 - 1},
                         "of 2^62 weights": {"hidden_size": 2**31 - 2, "vocab_size": 2**31 - 1},
                         "of wide heads": {"head_dim": 2**31 - 2}}.items():
        yield Case(f"pretrain {name}", PRETRAIN, ("config.json",),
                   lambda place, fields=fields: place.change_json("model/config.json", **fields))
    yield Case("pretrain whose tokenizer is larger", [*PRETRAIN, "--tokenizer", "@model"], ("vocab_size",),
               codes=(1, 2), prepare=lambda place: (place.change_json("model/config.json", vocab_size=300),
                                      place.write("train.jsonl", '{"text": "hello"}\n')))


def output_cases():
    for name, output, named in [("a file", "@train.jsonl", "train.jsonl"),
                                ("below a file", "@train.jsonl/run", "train.jsonl"), ("the model", "@model", "model"),
                                ("the adapter", "@adapter", "adapter"), ("nothing", "", "output"),
                                ("a long name", "@" + "x" * 300, "xxx"),
                                ("a run", "@run", "--resume")]:
        yield Case(f"output {name}", [*FINETUNE, "--max-steps", "1", "--output", output], (named,), codes=(1, 2))
        if name != "a run":
            yield Case(f"theory's output {name}", [*THEORY, "--output", output], (named,), codes=(1, 2))
            yield Case(f"prune's output {name}", [*PRUNE, "--output", output], (named,), codes=(1, 2))
            yield Case(f"sweep's output {name}", [*SWEEP, "--output", output], (named,), codes=(1, 2))
    yield Case("output a loop of links", [*FINETUNE, "--max-steps", "1"], ("out",),
               lambda place: place.path("out").symlink_to("out"))
    yield Case("predictions nowhere", [*LOAD, "--task", "choice", "--data", "@text.jsonl", "--predictions", "@no/file"],
               ("no/file",))
    yield Case("numbers that overflow in training", [*FINETUNE, "--max-steps", "3", "--lr", "1e300"], ("finite",),
               writes=True)


def config_file_cases():
    command = [*DRY, "--config", "@flags.json"]
    for name, content in {
            "empty": "", "a list": "[]", "cut": '{"rank": ', "deep": "[" * 100_000,
            "of an unknown flag": '{"ranks": 4}',
            "of a list": '{"alpha": [4]}', "of an object": '{"alpha": {}}', "of itself": '{"config": "x"}',
            "of help": '{"help": true}', "of a word for a switch": '{"dora": "x"}',
            "of nested lists": '{"eval-data": [["x"]]}', "not UTF-8": b'{"rank": "\xff"}',
            "of a zero byte": '{"rank": 4}\0',
            "of a long key": '{"' + "k" * 100_000 + '": 1}',
            "of a surrogate": '{"\\ud800": 1}', "of a key twice": '{"rank": 2, "rank": 4}',
    }.items():
        yield Case(f"flags {name}", command, ("flags.json",), writing("flags.json", content), codes=(1, 2))
    for name, content in {"of a large rank": '{"rank": 1000000000}', "of a rank of half": '{"rank": 1.5}',
                          "of a word for a rank": '{"rank": "x"}', "of a number beyond all": '{"rank": 1e308}',
                          "of a switch for a rank": '{"rank": true}'}.items():
        yield Case(f"flags {name}", [word for word in command if word not in ("--rank", "2")], ("rank",),
                   writing("flags.json", content), codes=(1, 2))
    yield Case("flags nowhere", command, ("flags.json",))
    yield Case("flags a folder", command, ("flags.json",), lambda place: place.path("flags.json").mkdir())
    yield Case("flags a pipe", command, ("flags.json",), lambda place: os.mkfifo(place.path("flags.json")))
    yield Case("flags a device without end", [*DRY, "--config", "/dev/zero"], ("/dev/zero",))


def resume_cases():
    words = [*FINETUNE[:5], "--output", "@run", *FINETUNE[7:], "--max-steps", "4", "--save-every", "2", "--resume"]
    state, tensors = "run/checkpoint-4/trainer_state.json", "run/checkpoint-4/trainer_state.safetensors"

    def last(place):
        """The run's only checkpoint, whatever its step."""
        folder, = [path for path in place.path("run").iterdir() if path.name.startswith("checkpoint-")]
        if folder.name != "checkpoint-4":
            folder.rename(place.path("run/checkpoint-4"))

    def case(name, change, names, more=()):
        def prepare(place):
            last(place)
            change(place)
        return Case(f"resume {name}", [*words, *more], names, prepare)

    yield Case("resume good", words, fine=True, writes=True)
    for flag, value in {"rank": "3", "alpha": "2", "lr": "0.5", "seed": "1", "batch-size": "1", "max-steps": "5",
                        "weight-decay": "0.5"}.items():
        yield case(f"with another {flag}", lambda place: None, ("checkpoint-4",), ("--" + flag, value))
    yield case("with other data", writing("train.jsonl", '{"input_ids": [1, 2, 3]}\n'), ("checkpoint-4",))
    weights = "model/model.safetensors"
    yield case("of another base", lambda place: place.write(weights, place.read(weights)[:-4] + b"\0\0\x80\x3f"),
               ("checkpoint-4",))
    for name, file in {"state": state, "tensors": tensors}.items():
        def cut(place, file=file):
            place.write(file, place.read(file)[:-20])

        def folder(place, file=file):
            place.remove(file)
            place.path(file).mkdir()

        def pipe(place, file=file):
            place.remove(file)
            os.mkfifo(place.path(file))
        names = (file.split("/")[-1],)
        yield case(f"of no {name}", lambda place, file=file: place.remove(file), names)
        yield case(f"of empty {name}", writing(file, ""), names)
        yield case(f"of cut {name}", cut, names)
        yield case(f"of {name} in a folder", folder, names)
        yield case(f"of {name} in a pipe", pipe, names)
    for field, value in {"step": -1, "optimizer_steps": 1, "best_step": 9, "run": 5, "evaluations_without_gain": -1,
                         "best_eval_loss": "x"}.items():
        yield case(f"whose {field} is {value}", lambda place, field=field, value=value: place.change_json(
            state, **{field: value}), ("trainer_state",))
    yield case("of deep state", writing(state, "[" * 100_000), ("trainer_state.json",))

    def spoil(file):
        def change(place):
            data = place.read(file)
            place.write(file, data[:-4] + b"\0\0\xc0\x7f")
        return change
    yield case("of tensors with NaN", spoil(tensors), ("trainer_state.safetensors",))
    yield case("of a damaged adapter", spoil("run/checkpoint-4/adapter_model.safetensors"),
               ("adapter_model.safetensors",))

    def file_for_checkpoint(place):
        place.remove("run/checkpoint-4")
        place.write("run/checkpoint-4", "x")
    yield case("of a checkpoint that is a file", file_for_checkpoint, ("checkpoint-4",))
    yield case("of damaged run.json", writing("run/run.json", "{"), ("run.json",))
    yield Case("resume of pretrain", [*PRETRAIN[:-1], "@run", "--max-steps", "4", "--resume"], ("checkpoint-",))


def cases():
    yield Case("pretrain good", [*PRETRAIN, "--max-steps", "1"], fine=True, writes=True)
    for make in (value_cases, usage_cases, size_cases, output_cases, config_file_cases, resume_cases):
        yield from make()
