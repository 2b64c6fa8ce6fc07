"""Files of records, and texts."""

import json
import os

from case import FINETUNE, Case, writing

TRAIN = FINETUNE + ["--max-steps", "1"]
DATA = "train.jsonl"


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def record_cases():
    good = {"input_ids": [1, 2, 3]}
    chat = {"role": "user", "content": "hello"}
    for name, content in {
            "empty": "", "white": " \n\t\n", "an empty list": "[]", "a number": "5", "a word": '"x"', "null": "null",
            "a list of numbers": "[1, 2]", "cut": '{"input_ids": [1, 2', "a list cut": '[{"input_ids": [1, 2]},',
            "a good line and a bad one": lines(good) + "{", "trailing": lines(good).strip() + "x",
            "without known keys": lines({"x": 1}), "of ids beyond the vocabulary": lines({"input_ids": [1, 424]}),
            "of negative ids": lines({"input_ids": [1, -5]}), "of large ids": lines({"input_ids": [1, 2**63 - 1]}),
            "of larger ids": lines({"input_ids": [1, 2**64 - 1]}), "of enormous ids": '{"input_ids": [1, 1e999]}',
            "of broken ids": lines({"input_ids": [1, 2.5]}), "of ids in words": lines({"input_ids": ["1"]}),
            "of ids that are a word": lines({"input_ids": "123"}), "of no ids": lines({"input_ids": []}),
            "of more labels": lines({**good, "labels": [1, 2, 3, 4]}),
            "of fewer labels": lines({**good, "labels": [1]}),
            "of labels beyond the vocabulary": lines({**good, "labels": [1, 2, 424]}),
            "of labels below -100": lines({**good, "labels": [1, 2, -101]}),
            "of no label": lines({**good, "labels": [-100] * 3}), "of labels in words": lines({**good, "labels": "x"}),
            "of an unknown role": lines({"messages": [{"role": "king", "content": "x"}]}),
            "of a role that is a number": lines({"messages": [{"role": 5, "content": "x"}]}),
            "of no content": lines({"messages": [{"role": "user"}]}),
            "of content that is a list": lines({"messages": [{"role": "user", "content": ["x"]}]}),
            "of messages that are words": lines({"messages": ["x"]}),
            "of messages in an object": lines({"messages": chat}),
            "of no messages": lines({"messages": []}), "without an assistant": lines({"messages": [chat]}),
            "of users alone": lines({"messages": [chat, chat]}),
            "without a completion": lines({"prompt": "x"}),
            "of a prompt of numbers": lines({"prompt": 5, "completion": "x"}),
            "without an output": lines({"instruction": "x"}), "of a text of numbers": lines({"text": 5}),
            "of null": lines({"text": None}), "of an empty text": lines({"text": ""}),
            "with a surrogate": '{"text": "\\ud800"}', "with half a pair": '{"text": "\\udc00\\ud800"}',
            "with a zero byte": b'{"text": "a\0b"}', "not UTF-8": b'{"text": "\xff\xfe"}',
            "overlong UTF-8": b'{"text": "\xc0\xaf"}', "deep": '{"input_ids": ' + "[" * 200_000,
            "of deep brackets": "[" * 1_000_000, "of deep objects": '{"a":' * 200_000,
            "of a long key": '{"' + "k" * 2_000_000 + '": 1}', "of a long line": '{"x": "' + "y" * 20_000_000 + '"}',
            "of a long line that is not JSON": "y" * 20_000_000, "of a long role": lines(
                {"messages": [{"role": "r" * 100_000, "content": "x"}]}),
            "of many brackets in a row": "{}" * 100_000,
    }.items():
        yield Case(f"data {name}", TRAIN, (DATA,), writing(DATA, content))
    yield Case("data good after a bad evaluation", TRAIN + ["--eval-data", "@eval.jsonl"], ("eval.jsonl",),
               writing("eval.jsonl", lines({"input_ids": [999]})))
    many = lines(*[{"input_ids": [1, 2]}] * 20_000) + "{"
    yield Case("data bad on line 20001", TRAIN, (DATA, "20001"), writing(DATA, many))


def file_cases():
    def replaced(name, make, names=(DATA,)):
        def prepare(place):
            place.remove(DATA)
            make(place.path(DATA))
        return Case(f"data {name}", TRAIN, names, prepare)

    yield replaced("nowhere", lambda path: None)
    yield replaced("a folder", lambda path: path.mkdir())
    yield replaced("a loop of links", lambda path: path.symlink_to(path.name))
    yield replaced("a pipe", lambda path: os.mkfifo(path))
    yield replaced("a device without end", lambda path: path.symlink_to("/dev/zero"))


def text_cases():
    tokenize = ["tokenize", "--model", "@model"]
    generate = ["generate", "--model", "@model", "--max-new-tokens", "1"]
    for name, command, flag in [("tokenize", tokenize, "--text-file"), ("generate", generate, "--prompt-file")]:
        yield Case(f"{name} nowhere", [*command, flag, "@none"], ("none",))
        yield Case(f"{name} a folder", [*command, flag, "@model"], ("model",))
        yield Case(f"{name} a pipe", [*command, flag, "@pipe"], ("pipe",), lambda place: os.mkfifo(place.path("pipe")))
        yield Case(f"{name} a device without end", [*command, flag, "/dev/zero"], ("/dev/zero",))
        yield Case(f"{name} bytes that are no UTF-8", [*command, flag, "@bytes"], fine=True,
                   prepare=writing("bytes", bytes(range(256))))
        yield Case(f"{name} nothing", [*command, flag, "@bytes"], fine=True, prepare=writing("bytes", ""))
    for template in ["llama2", "llama3", "chatml"]:
        words = ["chat", "--model", "@model", "--max-new-tokens", "2", "--template", template]
        yield Case(f"chat of bytes in {template}", words, fine=True, stdin=bytes(range(1, 256)) + b"\n\0\n/reset\n")


def cases():
    for make in (record_cases, file_cases, text_cases):
        yield from make()
