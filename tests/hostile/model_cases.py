"""Model folders: config.json, safetensors and their index."""

import json
import os
import struct

from case import INSPECT, LOAD, Case, writing
from place import (CONFIG, HIDDEN, KV_HEADS, header_of, model_tensors, safetensors, with_header)

CONFIG_FILE, WEIGHTS = "model/config.json", "model/model.safetensors"
GATE, QUERY = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.self_attn.q_proj.weight"
INDEX = "model/model.safetensors.index.json"
DEEP = "[" * 100_000


def field_cases():
    """Fields of config.json at values that they cannot have."""
    def changed(field, value, names=None, fine=False):
        text = json.dumps(value)[:60] if value is not ... else "absent"
        return Case(f"config {field} {text}", LOAD, names or ("config.json", field), fine=fine,
                    prepare=lambda place: place.change_json(CONFIG_FILE, **{field: value}))

    for field in ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                  "num_key_value_heads", "head_dim"]:
        for value in [-1, "8", 1.5, 10**9, 2**63 - 1, 2**64 - 1, 10**30]:
            in_tensor = field in ("vocab_size", "hidden_size", "head_dim") and value == 10**9
            yield changed(field, value, names=(field,) if in_tensor else None)
    for field in ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]:
        yield changed(field, ...)
        yield changed(field, None)
    for field, values in {
            "num_attention_heads": [0, 1, 4], "num_key_value_heads": [2], "intermediate_size": [0, 11, 13],
            "num_hidden_layers": [0, 1, 3, 10_000, 100_000], "head_dim": [2, 3, 8], "hidden_size": [0, 7, 16],
            "vocab_size": [0, 423, 425], "max_position_embeddings": [0, -1, "x", 2**63],
            "rms_norm_eps": [0, -1, "1e-5", [], float("nan"), float("inf")], "rope_theta": [0, -1, "x", {}],
            "rope_scaling": ["linear", {"rope_type": "yarn", "factor": 2}, {"rope_type": "linear"},
                             {"rope_type": "linear", "factor": 0}, {"rope_type": "linear", "factor": float("nan")}],
            "model_type": ["bert", 5, ""], "hidden_act": ["relu", 3],
            "tie_word_embeddings": ["yes", 1], "attention_bias": [2], "quantization_config": [{"bits": 4}],
            "attention_dropout": [0.5, -1, "x"], "sliding_window": [4], "eos_token_id": ["x", 1.5, [[1]]],
            "bos_token_id": ["x", [1]], "initializer_range": ["x"], "partial_rotary_factor": [0.5],
    }.items():
        for value in values:
            names = None
            if field in ("vocab_size", "hidden_size", "head_dim") and isinstance(value, int):
                names = (field,) if value not in (7, 16, 2, 3) else ()
            if isinstance(value, float) and value != value or value == float("inf"):
                names = ("config.json",)  # no JSON
            if field == "rope_scaling":
                names = ("config.json",)
            yield changed(field, value, names=names)


def family_cases():
    """Fields that other families than LLaMA have."""
    def changed(family, field, value):
        return Case(f"config {family} {field} {json.dumps(value)[:60]}", LOAD, ("config.json", field),
                    lambda place: place.change_json(CONFIG_FILE, model_type=family, **{field: value}))

    for family, fields in {
            "mistral": {"sliding_window": [0, -1, "x", 1.5, 2**64], "layer_types": [["full_attention"] * 2],
                        "attention_bias": [True], "mlp_bias": [True]},
            "qwen2": {"layer_types": ["x", [1], ["full_attention"], ["full_attention", "x"], ["sliding_attention"] * 2],
                      "use_sliding_window": ["yes", 1], "max_window_layers": ["x", 1.5]},
            "smollm3": {"no_rope_layers": [[1], [1, 2], ["x"], [1.5], {}], "no_rope_layer_interval": [0, -1, "x"]},
            "granite": {"attention_multiplier": [0, -1, "x", {}], "logits_scaling": [0, "x"],
                        "residual_multiplier": [0, []], "embedding_multiplier": [0, "x"], "sliding_window": [4]},
            "olmo2": {"clip_qkv": [8], "sliding_window": [4]},
            "gemma3_text": {"query_pre_attn_scalar": [0, -1, "x", 1.5, 2**32], "sliding_window_pattern": [0, -1, 1.5],
                            "final_logit_softcapping": [30], "use_bidirectional_attention": [True],
                            "hidden_activation": ["relu", 3], "rope_parameters": ["x", {"rope_theta": 5}]},
    }.items():
        for field, values in fields.items():
            for value in values:
                yield changed(family, field, value)
        for layers in [3, 10**9, 2**63 - 1]:
            yield changed(family, "num_hidden_layers", layers)
    yield Case("config a mistral", LOAD, fine=True,
               prepare=lambda place: place.change_json(CONFIG_FILE, model_type="mistral"))


def config_file_cases():
    text = json.dumps(CONFIG)
    for name, content in {
            "empty": "", "cut": text[:-10], "list": "[]", "number": "5", "null": "null", "garbage": "{" + text,
            "trailing": text + "x", "zero byte": text.replace('"vocab', '\0"vocab'),
            "deep": DEEP, "deep field": text[:-1] + ', "x": ' + DEEP, "key twice": text[:-1] + ', "vocab_size": 424}',
            "invalid UTF-8": text.encode().replace(b"llama", b"ll\xff\xfema"),
            "surrogate": text.replace("llama", "\\ud800"), "huge number": text.replace("424", "1e400"),
            "long type": text.replace("llama", "x" * 100_000), "long key": text[:-1] + f', "{"k" * 1000_000}": }}',
            "many brackets": '{"a":' * 50_000, "control characters": text.replace("llama", "\\u001b[31m\\n"),
    }.items():
        yield Case(f"config file {name}", LOAD, ("config.json",), writing(CONFIG_FILE, content))
    yield Case("config file with a mark", LOAD, fine=True, prepare=writing(CONFIG_FILE, "\ufeff" + text))
    yield Case("config missing", LOAD, ("config.json",), lambda place: place.remove(CONFIG_FILE))

    def replaced(make):
        def prepare(place):
            place.remove(CONFIG_FILE)
            make(place.path(CONFIG_FILE))
        return prepare

    yield Case("config a folder", LOAD, ("config.json",), replaced(lambda path: path.mkdir()))
    yield Case("config a pipe", LOAD, ("config.json",), replaced(lambda path: os.mkfifo(path)))
    yield Case("config a loop of links", LOAD, ("config.json",), replaced(lambda path: path.symlink_to(path)))
    yield Case("config a device without end", LOAD, ("config.json",),
               replaced(lambda path: path.symlink_to("/dev/zero")))
    if os.geteuid() != 0:
        yield Case("config unreadable", LOAD, ("config.json",), lambda place: place.path(CONFIG_FILE).chmod(0))
    yield Case("model missing", ["inspect", "--model", "@none"], ("none",))
    yield Case("model a file", ["inspect", "--model", "@train.jsonl"], ("train.jsonl",))


def header_cases():
    """What stands before the weights."""
    good = safetensors(model_tensors())
    size, = struct.unpack("<Q", good[:8])
    for count in [0, 1, 7, 8, 9, 8 + size // 2, 8 + size - 1, 8 + size, 8 + size + 1, len(good) // 2, len(good) - 1]:
        yield Case(f"weights cut to {count} bytes", LOAD, ("model.safetensors",), writing(WEIGHTS, good[:count]))
    yield Case("weights with more behind", LOAD, ("model.safetensors",), writing(WEIGHTS, good + b"x"))
    for length in [0, 1, size - 1, size + 1, 2**32, 2**63, 2**64 - 1]:
        yield Case(f"weights with a header of {length} bytes", LOAD, ("model.safetensors",),
                   writing(WEIGHTS, struct.pack("<Q", length) + good[8:]))
    header, data = json.loads(good[8:8 + size]), good[8 + size:]
    for name, text in {
            "not JSON": b"x" * 64, "a list": b"[]", "deep": b'{"a":' * 100_000, "a zero byte": b"{\0}",
            "brackets": b"{" + DEEP.encode(), "invalid UTF-8": b'{"\xff\xfe":{"dtype":"F32"}}',
            "a long name": b'{"' + b"n" * 1_000_000 + b'":{"dtype":"F33","shape":[],"data_offsets":[0,4]}}',
    }.items():
        yield Case(f"weights whose header is {name}", LOAD, ("model.safetensors",),
                   writing(WEIGHTS, with_header(text, data)))

    def field(name, tensor=GATE, **fields):
        changed = dict(header, **{tensor: {**header[tensor], **fields}})
        return Case(f"weights {name}", LOAD, ("model.safetensors", tensor),
                    writing(WEIGHTS, with_header(changed, data)))

    begin, end = header[GATE]["data_offsets"]
    yield field("of an unknown dtype", dtype="F8_E4M3")
    yield field("whose dtype is a number", dtype=5)
    yield field("of a dtype of half the size", dtype="BF16")
    yield field("of a negative shape", shape=[-12, 8])
    yield field("of a shape that overflows", shape=[2**32, 2**32])
    yield field("of the largest shape", shape=[2**63 - 1])
    yield field("of a shape of 1000 numbers", shape=[1] * 1000)
    yield field("of a shape of fractions", shape=[12.5, 8])
    yield field("whose shape is a word", shape="12x8")
    yield field("without a shape", shape=None)
    yield field("whose end is before its beginning", data_offsets=[end, begin])
    beyond = field("beyond the file", data_offsets=[begin + 2**40, end + 2**40])
    beyond.names = ("model.safetensors", "up_proj")  # it leaves a hole before the next
    yield beyond
    yield field("that overlap", data_offsets=[begin - 4, end])
    yield field("that leave a hole", data_offsets=[begin + 4, end])
    yield field("of one offset", data_offsets=[begin])
    yield field("with an unknown field", more=1)
    turned = field("turned", shape=[HIDDEN, 12])
    turned.names = ("mlp.gate_proj", "config.json")
    yield turned
    yield Case("weights whose metadata is a number", LOAD, ("model.safetensors", "__metadata__"),
               writing(WEIGHTS, with_header(dict(header, __metadata__={"format": 5}), data)))


def tensor_cases():
    """Well-formed files of the wrong tensors."""
    def changed(name, change, names):
        def prepare(place):
            tensors = model_tensors()
            change(tensors)
            place.write(WEIGHTS, safetensors(tensors))
        return Case(f"tensors {name}", LOAD, names, prepare)

    for tensor in ["model.embed_tokens.weight", "model.norm.weight", QUERY, GATE,
                   "model.layers.1.self_attn.o_proj.weight", "model.layers.1.input_layernorm.weight"]:
        yield changed(f"without {tensor}", lambda tensors, name=tensor: tensors.pop(name), (tensor,))
    yield changed("of one more layer", lambda tensors: tensors.update({"model.layers.2.x": ("F32", [0], b"")}),
                  ("num_hidden_layers",))
    yield changed("beyond the model", lambda tensors: tensors.update({"score.weight": ("F32", [1], bytes(4))}),
                  ("score.weight",))
    yield changed("none", lambda tensors: tensors.clear(), ("model",))
    for word, number in [("NaN", b"\0\0\xc0\x7f"), ("infinity", b"\0\0\x80\x7f")]:
        def spoil(tensors, number=number):
            dtype, shape, data = tensors[GATE]
            tensors[GATE] = dtype, shape, number + data[4:]
        yield changed(f"with {word}", spoil, ("model.safetensors", GATE))
    yield changed("of integers", lambda tensors: tensors.update({GATE: ("I32", *tensors[GATE][1:])}), (GATE,))
    yield changed("of one dimension", lambda tensors: tensors.update({GATE: ("F32", [96], tensors[GATE][2])}), (GATE,))
    yield changed("of 2^40 rows without columns", lambda tensors: tensors.update({GATE: ("F32", [2**40, 0], b"")}),
                  (GATE,))
    yield changed("of a key of partial heads", lambda tensors: tensors.update(
        {"model.layers.1.self_attn.k_proj.weight": ("F32", [KV_HEADS * 4 - 1, HIDDEN], bytes(4 * 3 * HIDDEN))}),
                  ("k_proj", "head_dim"))

    def largest(tensors):
        dtype, shape, data = tensors["model.norm.weight"]
        tensors["model.norm.weight"] = dtype, shape, b"\xff\xff\x7f\x7f" * (len(data) // 4)
    yield changed("that overflow", largest, ("finite",))
    many = {f"model.layers.{layer}.mlp.x": ("F32", [0], b"") for layer in range(100_000)}

    def layers(place):
        place.write(WEIGHTS, safetensors({**model_tensors(), **many}))
        place.change_json(CONFIG_FILE, num_hidden_layers=100_000)
    yield Case("tensors of 100000 layers", LOAD, ("num_hidden_layers",), layers)
    yield changed("of 100000 layers behind the model's", lambda tensors: tensors.update(many), ("num_hidden_layers",))

    def ten_thousand(place):
        few = dict(list(many.items())[:10_000])
        place.write(WEIGHTS, safetensors({**model_tensors(), **few}))
        place.change_json(CONFIG_FILE, num_hidden_layers=10_000)
    yield Case("tensors of 10000 layers", LOAD, ("model.safetensors",), ten_thousand)


def index_cases():
    def indexed(name, content, names=("model.safetensors.index.json",)):
        def prepare(place):
            place.path(WEIGHTS).rename(place.path("model/a.safetensors"))
            place.write(INDEX, content if isinstance(content, (str, bytes)) else json.dumps(content))
        return Case(f"index {name}", INSPECT, names, prepare)

    whole = {name: "a.safetensors" for name in header_of(model_tensors())}

    def pointing(file):
        return {"weight_map": {**whole, GATE: file}}

    case = indexed("whole", {"weight_map": whole})
    case.fine = True
    yield case
    for name, file in {"outside": "../model/a.safetensors", "absolute": "/etc/passwd", "dots": "..", "empty": "",
                       "missing": "b.safetensors", "a number": 5, "null": None, "a zero byte": "a\0b",
                       "to no safetensors": "config.json", "long": "x" * 5000, "a surrogate": "\ud800"}.items():
        yield indexed(f"pointing {name}", pointing(file), ("model",))
    yield indexed("without a map", {})
    yield indexed("of no tensors", {"weight_map": {}})
    yield indexed("whose map is a list", {"weight_map": []})
    yield indexed("empty", "")
    yield indexed("deep", '{"weight_map":' + DEEP)
    yield indexed("naming one that is not there", {"weight_map": {**whole, "x": "a.safetensors"}}, ("'x'",))
    yield indexed("lacking one", {"weight_map": {key: file for key, file in whole.items() if key != GATE}}, (GATE,))

    def replaced(name, make):
        def prepare(place):
            place.remove(WEIGHTS)
            make(place.path(WEIGHTS))
        return Case(f"weights {name}", INSPECT, ("model.safetensors",), prepare)

    yield replaced("a folder", lambda path: path.mkdir())
    yield replaced("a pipe", lambda path: os.mkfifo(path))
    yield replaced("a device", lambda path: path.symlink_to("/dev/zero"))
    yield replaced("a loop of links", lambda path: path.symlink_to(path.name))
    yield replaced("a link to nothing", lambda path: path.symlink_to("nothing"))
    yield replaced("nowhere", lambda path: None)


def cases():
    yield Case("model good", LOAD, fine=True)
    yield Case("model good in memory", LOAD + ["--no-mmap"], fine=True)
    for make in (field_cases, family_cases, config_file_cases, header_cases, tensor_cases, index_cases):
        yield from make()
