"""Data sets of made-up sentences, one for each loss, in memory."""

import random

from datamodules import SplitTask, TaskData
from modules.losses import FITTING
from modules.losses.task_batch import Kind, LossConfig

TOPICS = {
    "sea": ["ship", "wave", "harbour", "sailor", "island", "storm", "anchor", "fish", "tide", "coast"],
    "farm": ["cow", "field", "wheat", "barn", "tractor", "farmer", "milk", "hay", "sheep", "plough"],
    "town": ["street", "market", "church", "mayor", "bridge", "shop", "tram", "house", "square", "lamp"],
    "sky": ["cloud", "star", "moon", "rain", "wind", "bird", "sun", "thunder", "rainbow", "planet"],
}
OTHER = ["the", "a", "of", "and", "in", "under", "over", "near", "old", "new", "quiet", "red", "sees", "holds", "finds"]
WORDS = [word for topic in TOPICS.values() for word in topic] + OTHER


def made_up_tasks(expert: int = 96, probe: int = 48, validation: int = 32, words: int = 9) -> list[SplitTask]:
    """Three data sets, each with so many rows in its three parts.

    Args:
        expert: rows to train on.
        probe: rows of the probe.
        validation: rows to validate on.
        words: words a text.
    """
    draw = random.Random(0)
    rows = expert + probe + validation
    topics = [draw.choice(list(TOPICS)) for _ in range(rows)]
    others = [topic if draw.random() < 0.5 else draw.choice(list(TOPICS)) for topic in topics]
    first, second, other = ([_sentence(draw, topic, words) for topic in names] for names in (topics, topics, others))
    data = (
        _data("pairs", [first, second], None),
        _data("graded", [first, other], [float(a == b) for a, b in zip(topics, others, strict=True)]),
        _data("labelled", [second], [list(TOPICS).index(topic) for topic in topics]),
    )
    parts = range(expert), range(expert, expert + probe), range(expert + probe, rows)
    return [SplitTask(task.name, *(task.subset(part) for part in parts)) for task in data]


def _sentence(draw: random.Random, topic: str, words: int) -> str:
    return " ".join(draw.choice(TOPICS[topic] if draw.random() < 0.5 else OTHER) for _ in range(words))


def _data(kind: Kind, texts: list[list[str]], target: list[float] | list[int] | None) -> TaskData:
    loss = LossConfig(FITTING[kind], 0.05)
    prompts = [""] * len(texts)
    return TaskData(name=kind, kind=kind, texts=texts, prompts=prompts, target=target, groups=None, loss=loss)
