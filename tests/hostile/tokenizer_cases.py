"""Tokenizer files."""

import json

from case import Case, writing

JSON_FILE = "json_model/tokenizer.json"
TOKENIZE = ["tokenize", "--model", "@model", "--text", "hello world"]
TOKENIZE_JSON = ["tokenize", "--model", "@json_model", "--text", "hello world"]


def sentencepiece_cases():
    file = "model/tokenizer.model"

    def damaged(name, change):
        return Case(f"sentencepiece {name}", TOKENIZE, ("tokenizer.model",),
                    lambda place: place.write(file, change(place.read(file))))

    yield damaged("empty", lambda data: b"")
    yield damaged("cut", lambda data: data[:len(data) // 2])
    yield damaged("of zeros", lambda data: bytes(1000))
    yield damaged("of ones", lambda data: b"\xff" * 1000)
    yield damaged("that is JSON", lambda data: b"{}")
    # A field of protobuf that claims 2^63 bytes.
    yield damaged("of an endless piece", lambda data: b"\x0a" + b"\xff" * 9 + b"\x01" + data)

    def folder(place):
        place.remove(file)
        place.path(file).mkdir()
    yield Case("sentencepiece a folder", TOKENIZE, ("tokenizer.model",), folder)
    yield Case("tokenizer nowhere", TOKENIZE, ("model",), lambda place: place.remove(file))
    yield Case("tokenizer nowhere but asked for", [*TOKENIZE, "--tokenizer", "json"], ("tokenizer.json",))
    for name, content in {"empty": "", "a list": "[]", "deep": "[" * 100_000, "of words for flags":
                          '{"add_bos_token": "x"}', "of special tokens to be split":
                          '{"split_special_tokens": true}'}.items():
        yield Case(f"tokenizer_config {name}", TOKENIZE, ("tokenizer_config.json",),
                   writing("model/tokenizer_config.json", content))


def json_cases():
    def changed(name, change, names=("tokenizer.json",)):
        def prepare(place):
            value = json.loads(place.read(JSON_FILE))
            change(value)
            place.write(JSON_FILE, json.dumps(value))
        return Case(f"tokenizer.json {name}", TOKENIZE_JSON, names, prepare)

    def model(**fields):
        return lambda value: value["model"].update(fields)

    def top(**fields):
        return lambda value: value.update(fields)

    for name, content in {"empty": "", "cut": '{"model": {', "a list": "[]", "deep": "[" * 100_000,
                          "not UTF-8": b'{"model": "\xff"}', "of a key twice": '{"model": 1, "model": 2}'}.items():
        yield Case(f"tokenizer.json {name}", TOKENIZE_JSON, ("tokenizer.json",), writing(JSON_FILE, content))
    yield Case("tokenizer.json good", TOKENIZE_JSON, fine=True)
    yield Case("tokenizer.json that its configuration contradicts", TOKENIZE_JSON, ("tokenizer_config.json",), writing(
        "json_model/tokenizer_config.json", '{"add_bos_token": false, "bos_token": "<s>"}'))
    yield changed("without a model", lambda value: value.pop("model"))
    yield changed("of an unknown model", model(type="Unigram"))
    yield changed("of a type that is a number", model(type=5))
    yield changed("of a vocabulary that is a list", model(vocab=[]))
    yield changed("of ids in words", model(vocab={"a": "x"}))
    yield changed("of negative ids", model(vocab={"a": -1}))
    yield changed("of one id twice", lambda value: value["model"]["vocab"].update({"one": 5, "two": 5}))
    yield changed("of large ids", lambda value: value["model"]["vocab"].update({"far": 2**31}))
    yield changed("of larger ids", lambda value: value["model"]["vocab"].update({"far": 2**63 - 1}))
    yield changed("of ids beyond integers", lambda value: value["model"]["vocab"].update({"far": 2**64 - 1}))
    yield changed("of merges in an object", model(merges={}))
    yield changed("of merges of numbers", model(merges=[5]))
    yield changed("of a merge of three", model(merges=["a b c"]))
    yield changed("of a merge of unknown tokens", model(merges=["xyzzy plugh"]))
    yield changed("of dropout", model(dropout=0.5))
    yield changed("of an unknown unk", model(unk_token="nowhere"))
    yield changed("of added tokens in an object", top(added_tokens={}))
    yield changed("of an added token without an id", top(added_tokens=[{"content": "x"}]))
    yield changed("of an added token of a large id", top(added_tokens=[{"content": "x", "id": 2**63 - 1}]))
    yield changed("of an empty added token", top(added_tokens=[{"content": "", "id": 3}]))
    yield changed("of an unknown normalizer", top(normalizer={"type": "Magic"}))
    yield changed("of a normalizer that is a word", top(normalizer="x"))
    yield changed("of an unknown pre-tokenizer", top(pre_tokenizer={"type": "Magic"}))
    for name, regex in {"bad": "(", "deep": "(" * 100_000, "long": "a" * 10_000_000}.items():
        yield changed(f"of a {name} regex", top(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}))
    yield changed("of an unknown decoder", top(decoder={"type": "Magic"}))
    yield changed("of an unknown post-processor", top(post_processor={"type": "Magic"}))
    yield changed("of special tokens that are not there", top(post_processor={
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<none>", "type_id": 0}}], "pair": [],
        "special_tokens": {}}))


def cases():
    yield Case("sentencepiece good", TOKENIZE, fine=True)
    yield from sentencepiece_cases()
    yield from json_cases()
