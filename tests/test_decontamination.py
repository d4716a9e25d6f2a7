"""Texts that are both trained on and evaluated."""

import time

from datamodules.decontamination import Overlap, TrainingTexts, normalised


def test_normalised() -> None:
    assert normalised("  The Sky,\tis\nBLUE!") == normalised("the sky is blue") == "the sky is blue"
    assert normalised("snake_case") == "snake case"
    assert normalised("Straße") == normalised("STRASSE")
    assert normalised("blue sky") != normalised("bluesky")


def test_each_evaluation_text_counts_once() -> None:
    seen = TrainingTexts(["a red cat", "The dog runs.", "!!!"])
    texts = [("a red cat",), ("a red cat",), ("the dog  runs",), ("A blue sky",), ("???",), ("body", "the dog runs")]
    assert seen.overlap(texts) == Overlap(texts=5, exact=1, normalised=3)


def test_it_is_quick() -> None:
    texts = [f"sentence number {i} of many" for i in range(50_000)]
    started = time.process_time()
    assert TrainingTexts(texts).overlap((text.upper(),) for text in texts) == Overlap(50_000, 0, 50_000)
    assert time.process_time() - started < 10
