"""Operations of a step told from others."""

from callbacks.flops_by_length import FlopsByLength, Size


def size(*parts: tuple[int, int]) -> Size:
    return 1, sum(rows * length for rows, length in parts), sum(rows * length**2 for rows, length in parts)


def flops(of: Size) -> int:
    return 4_096 + 63_700_992 * of[1] + 9_216 * of[2]


def test_three_different_steps_tell_all_others_exactly() -> None:
    known = FlopsByLength()
    for watched in (size((16, 9), (16, 31)), size((16, 12), (16, 64)), size((16, 40), (7, 41))):
        assert known(("train",), watched) is None
        known.add(("train",), watched, flops(watched))
    for later in (size((16, 5)), size((16, 17), (16, 18)), size((32, 500))):
        assert known(("train",), later) == flops(later)


def test_equal_steps_tell_themselves_only() -> None:
    known = FlopsByLength()
    first, other = size((16, 9)), size((16, 10))
    known.add(("train",), first, 77)
    assert known(("train",), first) == 77
    assert known(("train",), other) is None
    assert known(("validation",), first) is None


def test_counts_are_carried_on() -> None:
    known, other = FlopsByLength(), FlopsByLength()
    known.add(("train", "infonce"), size((16, 9)), 77)
    other.load_state_dict(known.state_dict())
    assert other(("train", "infonce"), size((16, 9))) == 77
