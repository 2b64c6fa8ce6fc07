"""What a hostile case is."""

import dataclasses
import typing


@dataclasses.dataclass
class Case:
    name: str
    arguments: list  # of the binary; one that begins with @ is a path in the case's folder
    names: tuple = ()  # what the line on stderr must hold
    prepare: typing.Callable = lambda place: None
    codes: tuple = (1,)
    fine: bool = False  # the run must end well
    writes: bool = False  # files may change
    stdin: bytes = b""


LOAD = ["evaluate", "--model", "@model", "--task", "perplexity", "--data", "@train.jsonl", "--threads", "1"]
INSPECT = ["inspect", "--model", "@model"]
FINETUNE = ["finetune", "--model", "@model", "--data", "@train.jsonl", "--output", "@out", "--rank", "2",
            "--batch-size", "2", "--lr", "0.01", "--threads", "1"]


def writing(name, content):
    """Prepares a case by writing a file."""
    return lambda place: place.write(name, content)
