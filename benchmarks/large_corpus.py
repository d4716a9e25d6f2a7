"""Memory of scoring a retrieval task with a large corpus: python benchmarks/large_corpus.py --documents 200000.

Makes up a task of short documents as a mirror folder has SciFact, scores a model of one embedding per word on it, and
then on a small STS task, and watches the proportional set size (PSS) of the process: all that it holds, memory-mapped
files included. What it holds with everything imported and the model loaded is taken off. The data set is prepared
by a process before it, as an earlier run leaves it; the score is printed to the last digit.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

WIDTH = 384
"""Entries of an embedding."""
WORDS = 20_000
"""Distinct words of the documents, of one to nine letters."""
QUERIES = 100
CARD = """---
configs:
- config_name: default
  data_files: [{split: test, path: qrels.jsonl}]
- config_name: corpus
  data_files: [{split: corpus, path: corpus.jsonl}]
- config_name: queries
  data_files: [{split: queries, path: queries.jsonl}]
---
"""


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_retrieval(folder: Path, texts: list[str], queries: int) -> None:
    """Write documents, and queries of every fifth word of some of them."""
    wanted = random.Random(1).sample(range(len(texts)), queries)
    write_lines(folder / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)])
    write_lines(folder / "queries.jsonl", [{"_id": f"q{i}", "text": " ".join(texts[i].split()[::5])} for i in wanted])
    write_lines(folder / "qrels.jsonl", [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in wanted])
    (folder / "README.md").write_text(CARD)


def write_data(root: Path, documents: int) -> None:
    """Write a large task and a small one of retrieval, and one of STS."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(1, 9))) for _ in range(WORDS)]
    texts = [" ".join(draw.choices(words, k=draw.randint(8, 24))) for _ in range(documents)]
    write_retrieval(root / "mteb/scifact", texts, QUERIES)
    write_retrieval(root / "mteb/nfcorpus", texts[:200], 10)
    pairs = [{"sentence1": texts[i], "sentence2": texts[i + 1], "score": draw.uniform(0, 5)} for i in range(500)]
    write_lines(root / "mteb/stsbenchmark-sts/test.jsonl", pairs)


def write_model(folder: Path, corpus: Path) -> None:
    """Write a model that embeds a text as the mean of its words' random vectors."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    found = sorted({word for line in corpus.open() for word in json.loads(line)["text"].split()})
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", *found])}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=WIDTH)]).save(str(folder))


def memory() -> dict[str, int]:
    """Return the proportional set size of this process in bytes: of all, and of the part that no file backs."""
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()]
    found = {line[0]: int(line[1]) * 1024 for line in lines if line[0].startswith("Pss")}
    return {"all": found["Pss:"], "anonymous": found["Pss_Anon:"]}


def score(root: Path, prepare: bool) -> dict[str, Any]:
    """Score the model in this process.

    Args:
        root: the mirror, and the folder of the model in it.
        prepare: only read the data, so that it is in the cache of ``datasets``.
    """
    from callbacks import MtebEncoder, evaluate_tasks, load_tasks
    from modules import TextEncoder
    from modules.encoding.tokenized_texts import TokenizedTexts

    if prepare:
        load_tasks(["SciFact", "STSBenchmark", "NFCorpus"], str(root))
        return {}
    encoder = TextEncoder.load(root / "model")
    evaluate_tasks(MtebEncoder(encoder), load_tasks(["NFCorpus"], str(root)))  # mteb imports the rest when it needs it
    before, peak, done = memory(), memory(), threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            now = memory()
            peak.update({kind: max(peak[kind], now[kind]) for kind in peak})

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    wrapped = MtebEncoder(encoder, tokenized=TokenizedTexts())
    scores = evaluate_tasks(wrapped, load_tasks(["SciFact", "STSBenchmark"], str(root)), batch_size=256)
    seconds = time.perf_counter() - began
    after = memory()
    done.set()
    watcher.join()
    peaks = {f"peak, {kind}": peak[kind] - before[kind] for kind in peak}
    return {"scores": scores, "seconds": seconds, **peaks, "after, anonymous": after["anonymous"] - before["anonymous"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="where the task and the model are; made if they are not there")
    parser.add_argument("--part", choices=["prepare", "score"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(score(options.folder, options.part == "prepare")))
        return
    with tempfile.TemporaryDirectory() as made:
        root = (options.folder or Path(made)).resolve()
        corpus = root / "mteb/scifact/corpus.jsonl"
        if not (root / "model").is_dir():
            write_data(root, options.documents)
            write_model(root / "model", corpus)
        found = {}
        for part in ("prepare", "score"):
            command = [sys.executable, __file__, "--part", part, "--folder", str(root)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = json.loads(printed.splitlines()[-1])
        texts = sum(len(json.loads(line)["text"].encode()) for line in corpus.open())
        count = sum(1 for _ in corpus.open())
        print(f"texts {texts / 1e6:.0f} MB, embeddings {4 * WIDTH * count / 1e6:.0f} MB")
        print(
            ", ".join(
                f"{name} {size / 1e6:.0f} MB" for name, size in found.items() if name not in ("scores", "seconds")
            )
        )
        print(f"{found['seconds']:.0f} s, {found['scores']}")


if __name__ == "__main__":
    main()
