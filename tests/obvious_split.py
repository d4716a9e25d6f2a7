"""Splits the obvious way, with strings, dicts and loops over all rows: what the package's must equal."""

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice, pairwise

from datamodules import TaskData
from datamodules.decontamination import normalised
from datamodules.row_groups import comparable

Split = tuple[list[int], list[int], list[int], dict[str, int]]
"""Expert, probe and validation rows, and why others are left out."""


class Rows:
    """The rows of a data set, their groups by name, and what is left of these."""

    def __init__(self, data: TaskData, tasks: Mapping[str, Collection[str]], seed: int) -> None:
        self.left_out: Counter[str] = Counter()
        seen = {name: {normalised(text) for text in texts} - {""} for name, texts in tasks.items()}
        texts = list(zip(*data.texts, strict=True))
        self.rows = []
        for row, own in enumerate(texts):
            task = next((name for name, known in seen.items() if known & set(map(normalised, own))), None)
            if task is None:
                self.rows.append(row)
            else:
                self.left_out[f"texts of {task}"] += 1
        self.texts = {row: [comparable(text) for text in texts[row][:2]] for row in self.rows}
        counts = Counter(text for own in self.texts.values() for text in own)
        self.frequent = {text for text, count in counts.items() if count > 50}
        anchors = {own[0] for own in self.texts.values()}
        others = {own[-1] for own in self.texts.values() if len(own) == 2}
        self.symmetric = data.kind == "graded" or len(anchors & others) / len(anchors) > 0.01
        members: dict[str, list[int]] = defaultdict(list)
        for row, group in sorted(self.grouped(data).items()):
            members[group].append(row)
        self.groups = [
            members[g] for g in sorted(members, key=lambda g: hashlib.sha256(f"{seed}\0{g}".encode()).digest())
        ]
        self.begun: list[int] = []

    def grouped(self, data: TaskData) -> dict[int, str]:
        if data.groups is not None:
            return {row: data.groups[row] for row in self.rows}
        if self.symmetric:
            groups = self.linked()
            largest = max(Counter(groups.values()).values())
            if largest == 1 or 2 * largest <= len(self.rows):
                return groups
            self.symmetric = False
        return {row: own[0] for row, own in self.texts.items()}

    def linked(self) -> dict[int, str]:
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, own in self.texts.items():
            for text in set(own) - self.frequent:
                rows_of[text].append(row)
        groups: dict[int, str] = {}
        for start in self.rows:
            if start in groups:
                continue
            component, left = {start}, [start]
            while left:
                for text in set(self.texts[left.pop()]) - self.frequent:
                    left += set(rows_of[text]) - component
                    component |= set(rows_of[text])
            groups |= dict.fromkeys(component, min("\0".join(sorted(self.texts[row])) for row in component))
        return groups

    def hold_out(self, size: int, until: float) -> list[int]:
        used = self.left_out["rest of a held-out group"]
        rooms = [max(0, int(until * room * len(self.rows)) - used) for room in (1 / 20, 1 / 10, 1 / 5, 1 / 3)]
        taken = list(islice(order(self.groups, rooms), size))
        begun = [group for group in self.groups if set(group) & set(taken)]
        self.groups = [group for group in self.groups if not set(group) & set(taken)]
        self.begun = [row for group in begun for row in group]
        self.left_out["rest of a held-out group"] += len(self.begun) - len(taken)
        return taken


def order(groups: Sequence[Sequence[int]], rooms: Sequence[int]) -> Iterator[int]:
    for lower, room in pairwise([-1, *rooms]):
        begun: deque[deque[int]] = deque()
        left_out = 0
        for group in [group for group in groups if lower < len(group) - 1 <= room]:
            while left_out + len(group) - 1 > room:
                yield begun[0].popleft()
                begun.rotate(-1) if begun[0] else begun.popleft()
                left_out -= 1
            yield from group[:2]
            if len(group) > 2:
                begun.append(deque(group[2:]))
                left_out += len(group) - 2
        while begun:
            yield begun[0].popleft()
            begun.rotate(-1) if begun[0] else begun.popleft()


def leave_out_elsewhere(parts: Mapping[str, list[int]], data: Mapping[str, Rows]) -> None:
    for name, rows in data.items():
        before = sum(map(len, rows.groups))
        others = [(other, data[other], parts[other]) for other in data if other != name]
        kept = [
            [row for row in group if not any(is_example(rows, row, *o[1:]) for o in others)] for group in rows.groups
        ]
        rows.groups = [group for group in kept if group]
        rows.left_out["held out of another data set"] += before - sum(map(len, rows.groups))


def is_example(rows: Rows, row: int, other: Rows, held_out: list[int]) -> bool:
    """Whether a row is an example of what another data set holds out."""
    own = rows.texts[row]
    if any(sorted(own) == sorted(other.texts[begun]) for begun in other.begun):
        return True
    for held in held_out:
        texts = other.texts[held]
        if own[0] == texts[0] and own[0] not in rows.frequent:
            return True
        if (rows.symmetric or other.symmetric) and set(own) & set(texts) - rows.frequent:
            return True
    return False


def split(
    data: Mapping[str, TaskData],
    sizes: Mapping[str, tuple[int, int]],
    seed: int,
    tasks: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Split]:
    """Split data sets as `load_tasks` documents it."""
    rows = {name: Rows(task, tasks or {}, seed) for name, task in data.items()}
    allowed = {}
    for name, (probe, validation) in sizes.items():
        third, wanted = len(rows[name].rows) // 3, probe + validation
        allowed[name] = (
            (probe, validation) if wanted <= third else (probe * third // wanted, validation * third // wanted)
        )
    validation = {name: one.hold_out(allowed[name][1], 0.5) for name, one in rows.items()}
    leave_out_elsewhere(validation, rows)
    probe = {name: one.hold_out(allowed[name][0], 1.0) for name, one in rows.items()}
    leave_out_elsewhere(probe, rows)
    return {
        name: (
            sorted(row for group in one.groups for row in group),
            probe[name],
            validation[name],
            {reason: count for reason, count in one.left_out.items() if count},
        )
        for name, one in rows.items()
    }
