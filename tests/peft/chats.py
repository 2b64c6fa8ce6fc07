#!/usr/bin/env python3
"""Check that chats have the tokens that transformers' apply_chat_template gives them, and labels where it marks them.

usage: python3 chats.py BUILD_FOLDER [MODEL_FOLDER...]      (needs transformers and jinja2)

The chats and templates are those of tests/fixtures/text/chat_templates; the tokenizers one of tests/fixtures and those
of the model folders given, whose own templates are checked as well. Exits with 1 where tokens differ, and with 77 where
Python lacks a package.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

try:
    import jinja2  # noqa: F401
    import transformers
except ImportError as error:
    print(f"chats are not checked: {error}")
    sys.exit(77)

TEXT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "text"
FIXTURE = json.loads((TEXT / "chat_templates" / "chats.json").read_text(encoding="utf-8"))
REASONS = ("otherwise once it follows", "without a label", "refuses these messages")
ANSWER = {"role": "assistant", "content": "Well: é."}


def fixture_tokenizer(folder):
    """A folder with the byte-level tokenizer of the fixtures."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(TEXT / "byte_level" / "tokenizer.json"), bos_token="<|begin|>", eos_token="<|end|>"
    )
    tokenizer.save_pretrained(folder)


def rora_examples(rora, folder, records, arguments=()):
    """What `rora tokenize --data` makes of the records, and its error where it refuses them."""
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    command = [rora, "tokenize", "--model", folder, "--data", data, *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode not in (0, 1) or (run.returncode == 1 and len(run.stderr.splitlines()) != 1):
        raise AssertionError(f"rora ended with {run.returncode}: {run.stderr}")
    return [json.loads(line) for line in run.stdout.splitlines()], run.stderr if run.returncode == 1 else ""


def wanted(tokenizer, messages, tools, variables):
    try:
        return tokenizer.apply_chat_template(messages, tools=tools, return_dict=False, **variables)
    except Exception:  # any: the template refuses these messages
        return None


def check_chat(rora, folder, tokenizer, name, chat):
    messages = [m for m in chat["messages"]]
    if messages[-1]["role"] != "assistant":
        messages = [*messages, ANSWER]
    tools = chat.get("tools")
    ids = wanted(tokenizer, messages, tools, {})
    record = {"messages": messages, **({"tools": tools} if tools else {})}
    found, error = rora_examples(rora, folder, [record])
    if ids is None:
        if not error:
            raise AssertionError(f"{name}: transformers refuses it, rora does not")
        return 0
    if error:
        # Answers are not marked and have no place of their own, an answer alone is refused, or there is no answer.
        if not any(reason in error for reason in REASONS):
            raise AssertionError(f"{name}: transformers takes it, rora says {error}")
        return 0
    if found[0]["input_ids"] != ids:
        raise AssertionError(f"{name}: rora has {found[0]['input_ids']}, transformers {ids}")
    return 1


def check_folder(rora, folder, what):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    same = sum(check_chat(rora, folder, tokenizer, name, chat) for name, chat in FIXTURE["chats"].items())
    if same < 3:
        raise AssertionError(f"{what}: {same} chats alone were compared")
    print(f"{what}: {same} chats have transformers' tokens")


def main():
    rora = pathlib.Path(sys.argv[1]) / "bin" / "rora"
    models = [pathlib.Path(each) for each in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "byte_level"
        fixture_tokenizer(folder)
        folders = [folder]
        for model in models:
            copy = pathlib.Path(temporary) / model.name
            copy.mkdir()
            for file in model.glob("*"):
                if file.suffix in (".json", ".model", ".jinja"):
                    shutil.copy(file, copy)
            if (copy / "chat_template.jinja").exists() or "chat_template" in json.loads(
                (copy / "tokenizer_config.json").read_text(encoding="utf-8")
            ):
                check_folder(rora, copy, f"{model.name}, its own template")
            folders.append(copy)
        for folder in folders:
            for template in sorted((TEXT / "chat_templates").glob("*.jinja")):
                shutil.copy(template, folder / "chat_template.jinja")
                check_folder(rora, folder, f"{folder.name}, {template.name}")


if __name__ == "__main__":
    main()
