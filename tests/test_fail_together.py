"""Two processes: what one raises ends both, with its error."""

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from callbacks.mteb.mteb_encoder import MtebEncoder
from callbacks.mteb.task_evaluation import evaluate_tasks
from callbacks.mteb.task_loading import load_tasks
from modules.distributed import OtherProcessFailed, fail_together
from modules.encoding.text_encoder import TextEncoder
from modules.errors import UserError
from tests.processes import in_two_processes
from tests.tiny_encoder import tiny_encoder
from tests.tiny_mirror import write_sts


class Failing(TextEncoder):
    """Runs out of memory."""

    def encode(self, texts: object, prompt: str = "", **options: object) -> Tensor:
        """Encode nothing."""
        raise MemoryError("too little")


def test_alone_nothing_changes() -> None:
    with fail_together():
        pass
    with pytest.raises(ZeroDivisionError), fail_together():
        raise ZeroDivisionError


def test_what_one_process_raises_ends_both(tmp_path: Path) -> None:
    write_sts(tmp_path)
    started = time.perf_counter()
    in_two_processes(_one_process, 2, str(tmp_path))
    assert time.perf_counter() - started < 500
    errors = [torch.load(tmp_path / f"errors{rank}.pt", weights_only=True) for rank in range(2)]
    broken = "process 1 failed: MemoryError: too little"
    unread = "process 1 failed: UserError: tasks: there is no MTEB task STSBenchmrk; did you mean STSBenchmark?"
    scoring = "process 1 failed: ZeroDivisionError: scoring"
    assert errors[0] == {"encode": broken, "load": unread, "outer": scoring}
    assert errors[1] == {
        "encode": "too little",
        "load": unread.removeprefix("process 1 failed: UserError: "),
        "outer": "scoring",
    }


def _one_process(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    tasks = load_tasks(["STSBenchmark"], folder)
    tiny = tiny_encoder()
    encoder = Failing(tiny.pipeline, tiny.folder) if rank else tiny
    errors = {}
    with pytest.raises(MemoryError if rank else OtherProcessFailed) as broken:
        evaluate_tasks(MtebEncoder(encoder), tasks)
    errors["encode"] = str(broken.value)
    with pytest.raises(UserError) as unread:
        load_tasks(["STSBenchmrk" if rank else "STSBenchmark"], folder)
    errors["load"] = str(unread.value)
    with pytest.raises(ZeroDivisionError if rank else OtherProcessFailed) as outer, fail_together():
        if rank:  # where the other goes on to its next texts
            raise ZeroDivisionError("scoring")
        evaluate_tasks(MtebEncoder(tiny), tasks)
    errors["outer"] = str(outer.value)
    scores = evaluate_tasks(MtebEncoder(tiny), tasks)  # nothing is out of step afterwards
    assert scores.keys() == {"STSBenchmark"}
    torch.save(errors, Path(folder) / f"errors{rank}.pt")
    dist.destroy_process_group()
