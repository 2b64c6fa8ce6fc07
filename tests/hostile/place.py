"""A tiny good model, adapter and data, written by hand, which each case damages a copy of."""

import array
import json
import pathlib
import random
import shutil
import struct

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, LAYERS, VOCABULARY = 8, 2, 1, 4, 12, 2, 424

CONFIG = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
    "bos_token_id": 1,
}

ADAPTER_CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"]}


def floats(shape, random_numbers=None):
    """(dtype, shape, data) of a tensor: ones, or normal numbers."""
    count = 1
    for size in shape:
        count *= size
    values = [random_numbers.gauss(0.0, 0.2) if random_numbers else 1.0 for _ in range(count)]
    return "F32", list(shape), array.array("f", values).tobytes()


def model_tensors():
    numbers = random.Random(1)
    tensors = {"model.embed_tokens.weight": floats([VOCABULARY, HIDDEN], numbers),
               "model.norm.weight": floats([HIDDEN])}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = floats([HIDDEN])
        tensors[prefix + "post_attention_layernorm.weight"] = floats([HIDDEN])
        for name, rows, columns in [
                ("self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN), ("self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN),
                ("self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN), ("self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM),
                ("mlp.gate_proj", INTERMEDIATE, HIDDEN), ("mlp.up_proj", INTERMEDIATE, HIDDEN),
                ("mlp.down_proj", HIDDEN, INTERMEDIATE)]:
            tensors[f"{prefix}{name}.weight"] = floats([rows, columns], numbers)
    return tensors


def adapter_tensors(rank=2):
    numbers = random.Random(2)
    tensors = {}
    for layer in range(LAYERS):
        for name, out, into in [("self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN),
                                ("mlp.down_proj", HIDDEN, INTERMEDIATE)]:
            prefix = f"base_model.model.model.layers.{layer}.{name}."
            tensors[prefix + "lora_A.weight"] = floats([rank, into], numbers)
            tensors[prefix + "lora_B.weight"] = floats([out, rank], numbers)
    return tensors


def header_of(tensors):
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    return header


def with_header(header, data):
    """The bytes of a safetensors file; `header` is an object, or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors(tensors):
    return with_header(header_of(tensors), b"".join(data for _, _, data in tensors.values()))


class Place:
    """A case's folder."""

    def __init__(self, root):
        self.root = pathlib.Path(root)

    def path(self, name):
        return self.root / name

    def read(self, name):
        return self.path(name).read_bytes()

    def write(self, name, content):
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def remove(self, name):
        path = self.path(name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def change_json(self, name, **fields):
        """Sets fields; those that are `...` are taken out."""
        value = json.loads(self.read(name))
        value.update(fields)
        self.write(name, json.dumps({key: each for key, each in value.items() if each is not ...}))

    def change_text(self, name, old, new):
        text = self.read(name).decode()
        assert old in text, (name, old)
        self.write(name, text.replace(old, new, 1))


def make_good(root, fixtures):
    place = Place(root)
    place.write("model/config.json", json.dumps(CONFIG))
    place.write("model/model.safetensors", safetensors(model_tensors()))
    for name in ["tokenizer.model", "tokenizer_config.json"]:
        place.write(f"model/{name}", (fixtures / "text/sentencepiece" / name).read_bytes())
    place.write("adapter/adapter_config.json", json.dumps(ADAPTER_CONFIG))
    place.write("adapter/adapter_model.safetensors", safetensors(adapter_tensors()))
    records = [{"input_ids": list(range(1 + i, 7 + i % 3 + i))} for i in range(6)]
    place.write("train.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    place.write("text.jsonl", json.dumps({"prompt": "Answer format: true/false", "completion": "true"}) + "\n")
    place.write("json_model/config.json", json.dumps(CONFIG))
    place.write("json_model/model.safetensors", safetensors(model_tensors()))
    place.write("json_model/tokenizer.json", (fixtures / "text/byte_fallback/tokenizer.json").read_bytes())
