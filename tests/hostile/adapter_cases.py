"""PEFT folders."""

import json

from case import FINETUNE, LOAD, Case, writing
from place import ADAPTER_CONFIG, HEAD_DIM, HIDDEN, KV_HEADS, LAYERS, adapter_tensors, floats, safetensors

ADAPTED = LOAD + ["--adapter", "@adapter"]
CONFIG_FILE, WEIGHTS = "adapter/adapter_config.json", "adapter/adapter_model.safetensors"
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def config_cases():
    for field, values in {
            "r": [0, -1, 1, 3, 10**9, 2**63 - 1, 2**64 - 1, "2", 2.5, []],
            "lora_alpha": ["4", [], float("nan"), float("inf")],
            "lora_dropout": [1, -0.1, "x"],
            "peft_type": [..., None, "IA3", 5, ""],
            "target_modules": [..., None, [], 5, [5], ["nothing"], "(", ["q_proj", "nothing"], "x" * 100_000, {}],
            "exclude_modules": ["(", 5],
            "rank_pattern": [{"q_proj": 0}, {"q_proj": 3}, {"(": 2}, [], {"q_proj": "x"}, {"q_proj": 10**9}],
            "alpha_pattern": [{"q_proj": "x"}, {"(": 2}, 5],
            "layers_to_transform": [[5], ["x"], -1],
            "layers_pattern": ["h"], "bias": ["all", 5], "use_dora": [True, "x"],
            "modules_to_save": [["lm_head"], ["norm"], [""], 5, [5], {}, ["embed_tokens"] * 100_000],
            "trainable_token_indices": [[1], [], [-1], [2**63 - 1], [2**64], ["x"], 5.5, {"lm_head": [1]}, {"": [1]},
                                        {"norm": [1]}, {"embed_tokens": "x"}, [1] * 100_000],
            "ensure_weight_tying": ["x", 2],
            "use_rslora": ["x", 2], "init_lora_weights": ["pissa"], "fan_in_fan_out": [True], "unheard_of": [1],
    }.items():
        for value in values:
            text = json.dumps(value)[:24] if value is not ... else "absent"
            yield Case(f"adapter {field} {text}", ADAPTED, ("adapter",),
                       lambda place, field=field, value=value: place.change_json(CONFIG_FILE, **{field: value}))
    for name, value in {"0": 0, "below 0": -4}.items():
        yield Case(f"adapter of alpha {name}", ADAPTED, fine=True,
                   prepare=lambda place, value=value: place.change_json(CONFIG_FILE, lora_alpha=value))
    yield Case("adapter of alpha 1e308", ADAPTED, ("finite",),
               lambda place: place.change_json(CONFIG_FILE, lora_alpha=1e308))
    text = json.dumps(ADAPTER_CONFIG)
    for name, content in {"empty": "", "cut": text[:-5], "a list": "[]", "deep": "[" * 100_000,
                          "not UTF-8": b"\xff" * 9, "of a key twice": text[:-1] + ', "r": 2}',
                          "with a zero byte": text + "\0"}.items():
        yield Case(f"adapter config {name}", ADAPTED, ("adapter_config.json",), writing(CONFIG_FILE, content))


def tensor_cases():
    def changed(name, change, names=("adapter_model.safetensors", FIRST)):
        def prepare(place):
            tensors = adapter_tensors()
            change(tensors)
            place.write(WEIGHTS, safetensors(tensors))
        return Case(f"adapter tensors {name}", ADAPTED, names, prepare)

    def first(change):
        return lambda tensors: tensors.update({FIRST: change(*tensors[FIRST])})

    yield changed("without one", lambda tensors: tensors.pop(FIRST))
    yield changed("none", lambda tensors: tensors.clear(), ("adapter_model.safetensors",))
    yield changed("beyond it", lambda tensors: tensors.update({"x.lora_A.weight": ("F32", [1], bytes(4))}),
                  ("adapter_model.safetensors", "x.lora_A.weight"))
    yield changed("turned", first(lambda dtype, shape, data: (dtype, shape[::-1], data)))
    yield changed("of one dimension", first(lambda dtype, shape, data: (dtype, [16], data)))
    yield changed("of integers", first(lambda dtype, shape, data: ("I32", shape, data)))
    yield changed("with NaN", first(lambda dtype, shape, data: (dtype, shape, b"\0\0\xc0\x7f" + data[4:])))
    yield changed("with infinity", first(lambda dtype, shape, data: (dtype, shape, b"\0\0\x80\x7f" + data[4:])))
    yield changed("of another rank", lambda tensors: tensors.update(adapter_tensors(3)), ("adapter_model.safetensors",))
    largest = b"\xff\xff\x7f\x7f"
    yield changed("that overflow", lambda tensors: tensors.update(
        {name: (dtype, shape, largest * (len(data) // 4)) for name, (dtype, shape, data) in tensors.items()}),
                  ("finite",))
    good = safetensors(adapter_tensors())
    for count in [0, 8, 100, len(good) - 1]:
        yield Case(f"adapter weights cut to {count} bytes", ADAPTED, ("adapter_model.safetensors",),
                   writing(WEIGHTS, good[:count]))
    for file in ["adapter_config.json", "adapter_model.safetensors"]:
        def no_file(place, file=file):
            place.remove("adapter/" + file)

        def folder(place, file=file):
            no_file(place, file)
            place.path("adapter/" + file).mkdir()
        yield Case(f"adapter without {file}", ADAPTED, (file,), no_file)
        yield Case(f"adapter whose {file} is a folder", ADAPTED, (file,), folder)
    yield Case("adapter nowhere", LOAD + ["--adapter", "@nowhere"], ("nowhere",))
    yield Case("adapter a file", LOAD + ["--adapter", "@train.jsonl"], ("train.jsonl",))
    yield Case("adapter a model", LOAD + ["--adapter", "@model"], ("adapter_config.json",))


def merge_cases():
    merge = ["merge", "--model", "@model", "--adapter", "@adapter", "--output", "@out"]
    yield Case("merge good", merge, fine=True, writes=True)
    yield Case("merge of a damaged adapter", merge, ("adapter_model.safetensors",),
               lambda place: place.change_json(CONFIG_FILE, r=3))
    yield Case("merge into the model", [*merge[:-1], "@model"], ("model",))
    yield Case("merge into a file", [*merge[:-1], "@train.jsonl"], ("train.jsonl",))
    yield Case("merge of alpha 0", merge, ("did not change",),
               lambda place: place.change_json(CONFIG_FILE, lora_alpha=0))
    yield Case("merge of alpha 1e308", merge, (), lambda place: place.change_json(CONFIG_FILE, lora_alpha=1e308))


BOTTLENECK = {"peft_type": "BOTTLENECK", "bottleneck_size": 3, "target_modules": ["down_proj"]}
PREFIX = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "num_layers": LAYERS, "token_dim": KV_HEADS * HEAD_DIM,
          "num_attention_heads": KV_HEADS}


def tensors_of(kind):
    if kind is PREFIX:
        return {"prompt_embeddings": floats([4, 2 * LAYERS * KV_HEADS * HEAD_DIM])}
    down, up = floats([3, HIDDEN]), floats([HIDDEN, 3])
    return {f"base_model.model.model.layers.{layer}.mlp.down_proj.adapter_{name}.weight": tensor
            for layer in range(LAYERS) for name, tensor in (("down", down), ("up", up))}


def other_kinds():
    """Bottlenecks and prefixes: what their folders may say, and that they are not merged."""
    def case(kind, name, names=(), fine=False, arguments=ADAPTED, codes=(1,), change=lambda tensors: None, **fields):
        def prepare(place):
            place.write(CONFIG_FILE, json.dumps({**kind, **fields}))
            tensors = tensors_of(kind)
            change(tensors)
            place.write(WEIGHTS, safetensors(tensors))
        return Case(f"{kind['peft_type'].lower()} {name}", arguments, names, prepare, codes, fine)

    merge = ["merge", "--model", "@model", "--adapter", "@adapter", "--output", "@out"]
    goes_on = FINETUNE + ["--init-adapter", "@adapter"]
    for kind in (BOTTLENECK, PREFIX):
        yield case(kind, "good", fine=True)
        yield case(kind, "inspected", fine=True, arguments=["inspect", "--adapter", "@adapter"])
        yield case(kind, "merged", ("cannot be merged",), arguments=merge)
        yield case(kind, "gone on from with a rank", ("--rank", kind["peft_type"]), arguments=goes_on, codes=(2,))
        yield case(kind, "without a tensor", ("adapter_model.safetensors",), change=lambda tensors: tensors.popitem())
        yield case(kind, "with a tensor beyond it", ("adapter_model.safetensors", "beyond"),
                   change=lambda tensors: tensors.update(beyond=floats([1])))
        yield case(kind, "with r", ("adapter_config.json", "r "), r=4)
    for field, values in {
            "bottleneck_size": [0, -1, 4, 2**62, 2**64 - 1, "3", 2.5], "scaling": ["learned", 1e300, [], True],
            "adapter_dropout": [1, -0.1, "x"], "non_linearity": ["relu", 5], "bias": ["all"], "init_weights": ["x", 5],
            "use_parallel_adapter": ["x", 2], "use_adapterp": [True],
            "target_modules": [None, ["q_proj"], "all-linear", ["nothing"]]}.items():
        for value in values:
            yield case(BOTTLENECK, f"{field} {json.dumps(value)[:24]}", ("adapter",), **{field: value})
    for field, values in {
            "num_virtual_tokens": [None, 0, -1, 5, 2**62, 2**64 - 1, "4", 1.5], "num_layers": [3, "x"],
            "token_dim": [3, -1, []], "num_attention_heads": [2, "x"], "num_transformer_submodules": [2, "x"],
            "prefix_projection": [True, "x"], "init_weights": ["x", 5], "target_modules": [["q_proj"], 5],
            "modules_to_save": [["lm_head"]], "trainable_token_indices": [[1]], "layers_to_transform": [[0]]}.items():
        for value in values:
            yield case(PREFIX, f"{field} {json.dumps(value)[:24]}", ("adapter",), **{field: value})
    for name, change in {
            "of integers": lambda dtype, shape, data: ("I32", shape, data),
            "turned": lambda dtype, shape, data: (dtype, shape[::-1], data),
            "with NaN": lambda dtype, shape, data: (dtype, shape, b"\0\0\xc0\x7f" + data[4:])}.items():
        yield case(PREFIX, name, ("adapter_model.safetensors", "prompt_embeddings"),
                   change=lambda tensors, change=change: tensors.update(
                       prompt_embeddings=change(*tensors["prompt_embeddings"])))


def cases():
    yield Case("adapter good", ADAPTED, fine=True)
    for make in (config_cases, tensor_cases, merge_cases, other_kinds):
        yield from make()
