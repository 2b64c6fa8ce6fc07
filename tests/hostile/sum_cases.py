"""Adapters that are combined, averaged and converted."""

import json

from case import Case
from place import ADAPTER_CONFIG, adapter_tensors, floats, safetensors

OTHER_CONFIG, OTHER_WEIGHTS = "other/adapter_config.json", "other/adapter_model.safetensors"
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
WEIGHTLESS = ["combine", "--adapters", "@adapter", "@other", "--output", "@out"]
COMBINE = [*WEIGHTLESS, "--weights", "1,-1"]
AVERAGE = ["average", "@adapter", "@other", "--output", "@out"]
CONVERT = ["convert", "--adapter", "@other", "--output", "@out"]
COMMANDS = {"combine": COMBINE, "average": AVERAGE, "convert": CONVERT}


def write_other(place, change=lambda tensors: None, **fields):
    """A second adapter, of another rank and scaling."""
    config = {**ADAPTER_CONFIG, "r": 3, "use_rslora": True, **fields}
    tensors = adapter_tensors(3)
    change(tensors)
    place.write(OTHER_CONFIG, json.dumps({key: each for key, each in config.items() if each is not ...}))
    place.write(OTHER_WEIGHTS, safetensors(tensors))


def folder_cases():
    def case(command, name, names, change=lambda tensors: None, **fields):
        return Case(f"{command} of {name}", COMMANDS[command], names,
                    lambda place: write_other(place, change, **fields))

    def first(change):
        return lambda tensors: tensors.update({FIRST: change(*tensors[FIRST])})

    wide = floats([3, 9])
    for command in COMMANDS:
        yield Case(f"{command} good", COMMANDS[command], fine=True, writes=True, prepare=write_other)
        yield Case(f"{command} of nothing there", COMMANDS[command], ("other",))
        for field, values in {"r": [0, -1, 4, 10**9, 2**63 - 1, "3"], "peft_type": [..., "IA3", "BOTTLENECK", 5],
                              "target_modules": [..., ["nothing"], ["q_proj"], "(", []],
                              "rank_pattern": [{"q_proj": 2}, {"(": 3}, {"q_proj": 0}],
                              "alpha_pattern": [{"q_proj": 1e300}, 5], "lora_alpha": ["4", 1e300],
                              "bias": ["all"], "use_dora": [True], "modules_to_save": [["lm_head"], ["nothing"]],
                              "trainable_token_indices": [[1]], "unheard_of": [1]}.items():
            for value in values:
                text = json.dumps(value)[:24] if value is not ... else "absent"
                yield case(command, f"{field} {text}", ("other/adapter_",), **{field: value})
        yield case(command, "a tensor too few", (FIRST,), lambda tensors: tensors.pop(FIRST))
        yield case(command, "a tensor too many", ("beyond",), lambda tensors: tensors.update(beyond=floats([1])))
        yield case(command, "no tensor", ("adapter_model.safetensors",), lambda tensors: tensors.clear())
        yield case(command, "a turned tensor", (FIRST,), first(lambda dtype, shape, data: (dtype, shape[::-1], data)))
        yield case(command, "a tensor in a row", (FIRST,), first(lambda dtype, shape, data: (dtype, [24], data)))
        yield case(command, "an empty tensor", (FIRST,), first(lambda dtype, shape, data: (dtype, [3, 0], b"")))
        yield case(command, "integers", (FIRST,), first(lambda dtype, shape, data: ("I32", shape, data)))
        yield case(command, "NaN", (FIRST,),
                   first(lambda dtype, shape, data: (dtype, shape, b"\0\0\xc0\x7f" + data[4:])))
    for command in ("combine", "average"):
        yield case(command, "another model's adapter", ("other/adapter_model", "layers.0.self_attn.q_proj"),
                   lambda tensors: tensors.update({FIRST: wide}))
    largest = b"\xff\xff\x7f\x7f"
    yield Case("combine to numbers that overflow", [*WEIGHTLESS, "--weights", "1,2"], ("float32",),
               lambda place: write_other(place, lambda tensors: tensors.update(
                   {name: (dtype, shape, largest * (len(data) // 4)) for name, (dtype, shape, data) in
                    tensors.items()})))


def flag_cases():
    def case(command, flag, value, codes=(2,), names=None):
        words = WEIGHTLESS if command == "combine" and flag == "weights" else COMMANDS[command]
        return Case(f"{command} --{flag} {value[:24]}", [*words, f"--{flag}={value}"], names or (flag,), write_other,
                    codes=codes)

    for value in ["1", "1,2,3", "nan,1", "inf,1", "1,x", "1,,1", "", "1e999,1", "1;1"]:
        yield case("combine", "weights", value)
        yield case("average", "weights", value)
    yield case("combine", "weights", "1,1e300", codes=(1,), names=("float32",))
    for value in ["-1,2", "0,0", "1e308,1e308"]:
        yield case("average", "weights", value)
    for command in COMMANDS:
        for value in ["0", "-1", "x", "1.5", str(2**63 - 1)]:
            yield case(command, "rank", value)
        yield case(command, "scaling", "x")
        for name, output, named in [("a file", "@train.jsonl", "train.jsonl"), ("nothing", "", "output"),
                                    ("below a file", "@train.jsonl/run", "train.jsonl"),
                                    ("the model", "@model", "model"), ("the adapter", "@adapter", "adapter"),
                                    ("itself", "@other", "other"),
                                    ("a long name", "@" + "x" * 300, "xxx")]:
            words = [*COMMANDS[command], "--output", output]
            yield Case(f"{command}'s output {name}", words, (named,), write_other, codes=(1, 2))
    yield case("convert", "rank", "1000000", codes=(1,), names=("rank 1000000",))
    for value in ["0", "-1", "nan", "inf", "x", "1e999"]:
        yield case("convert", "alpha", value)
    for value in ["1e-320", "1e300"]:
        yield case("convert", "alpha", value, codes=(1,), names=("float32",))
    yield Case("combine of no adapter", ["combine", "--weights", "1", "--output", "@out"], ("--adapters",), codes=(2,))
    yield Case("average of no adapter", ["average", "--output", "@out"], ("adapters",), codes=(2,))
    yield Case("combine without weights", WEIGHTLESS, ("--weights",), codes=(2,))


def cases():
    for make in (folder_cases, flag_cases):
        yield from make()
