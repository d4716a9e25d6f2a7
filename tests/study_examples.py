"""Every picture of a study, of small made-up data."""

from collections.abc import Callable

import numpy as np

from lightning_app.report.conflict_pictures import (
    JointDirection,
    SizedExpert,
    TaskScores,
    direction_against_share,
    gradient_cosines,
    norm_against_examples,
    task_conflict,
)
from lightning_app.report.landscape_picture import Plane, loss_landscape
from lightning_app.report.model_pictures import ModelPoint, score_against_cost, trade_off
from lightning_app.report.pictures import Picture, styles_of
from lightning_app.report.position_path import ProbeLosses
from lightning_app.report.position_pictures import (
    Sweep,
    position_along_training,
    score_against_scale,
    score_against_weight,
    sensitivity_to_mu,
    sensitivity_to_probe_size,
    sensitivity_to_seed,
)
from lightning_app.report.probe_picture import probe_curves

Builder = Callable[[], Picture]

EXPERTS = ("sts", "retrieval", "intents", "emotions")
TASKS = ("STSBenchmark", "SICK-R", "SciFact", "Banking77Classification", "EmotionClassification")
EXPERT_STYLES = styles_of(EXPERTS)
TASK_STYLES = styles_of(TASKS)
RIVALS = {
    "base": (0.0, 0.0),
    "sts": (1.0, 0.0),
    "retrieval": (0.0, 1.0),
    "soup": (0.5, 0.5),
    "slerp": (0.706, 0.706),
    "learned linear": (0.42, 0.69),
    "task arithmetic 0.6": (0.6, 0.6),
    "inverse norm": (0.66, 0.34),
    "softmax, T = 0.5": (0.48, 0.52),
    "joint, projected": (0.35, 0.8),
}


def conflict() -> Picture:
    experts = ("sts", "sts", "retrieval", "intents", "emotions")
    numbers = [(82.1, 83.9, 83.9), (77.8, 79.8, 77.8), (76.9, 77.6, 78.6), (79.8, 85.8, 84.9), (37.2, 69.9, 69.8)]
    scores = {t: TaskScores(e, *of) for t, e, of in zip(TASKS, experts, numbers, strict=True)}
    return task_conflict(scores, EXPERT_STYLES)


def cosines(steps: int = 40) -> Picture:
    draw = np.random.default_rng(0)
    pairs = [(a, b) for i, a in enumerate(EXPERTS) for b in EXPERTS[i + 1 :]]
    at = list(range(0, 10 * steps, 10))
    return gradient_cosines(
        at, {p: (0.1 * i - 0.15 + draw.normal(0, 0.04, steps)).tolist() for i, p in enumerate(pairs)}
    )


def norms() -> Picture:
    slopes = dict(zip(EXPERTS, (1.9e-4, 1.4e-4, 2.2e-4, 2.6e-4), strict=True))
    sizes = {"sts": (1250, 2500, 5000), "retrieval": (4000, 8000, 16000), "intents": (1200, 2400, 4800)}
    sizes["emotions"] = (1000, 2000, 4000)
    return norm_against_examples(
        [SizedExpert(e, n, 0.2 + slopes[e] * n) for e in EXPERTS for n in sizes[e]], EXPERT_STYLES
    )


def directions() -> Picture:
    shares = np.array([[0.1, 0.6, 0.15, 0.15], [0.25] * 4, [0.4, 0.2, 0.2, 0.2], [0.15, 0.15, 0.4, 0.3]])
    points = [
        JointDirection(e, float(s), float(0.05 + 0.5 * s + 0.03 * i))
        for row in shares
        for i, (e, s) in enumerate(zip(EXPERTS, row, strict=True))
    ]
    return direction_against_share(points, EXPERT_STYLES)


def weight_line() -> Picture:
    x = np.linspace(0, 1, 11)
    scores = {t: (80 - 3 * i - 6 * (x - 0.2 * i) ** 2).tolist() for i, t in enumerate(TASKS)}
    return score_against_weight(x.tolist(), scores, 0.57, ("sts", "retrieval"), TASK_STYLES)


def scale_line() -> Picture:
    x = np.linspace(0, 2, 9)
    scores = {t: (80 - 3 * i - (2 + 3 * i) * (x - 0.7 - 0.1 * i) ** 2).tolist() for i, t in enumerate(TASKS)}
    return score_against_scale(x.tolist(), scores, 0.82, TASK_STYLES)


def landscape(with_score: bool = True, points: dict[str, tuple[float, float]] = RIVALS) -> Picture:
    c1, c2 = np.linspace(-0.2, 1.4, 17), np.linspace(-0.2, 1.4, 15)
    x, y = np.meshgrid(c1, c2, indexing="ij")
    loss = 1 - 0.28 * x + 0.32 * x**2 - 0.24 * y + 0.17 * y**2 + 0.12 * x * y + 0.25 * (x * y) ** 2
    score = 80.4 - 9 * (x - 0.5) ** 2 - 7 * (y - 0.6) ** 2 - 8 * (x * y - 0.3) ** 2
    t = np.linspace(0, 1, 49)[:, None] ** 0.6
    bend = np.hstack([-0.05 * np.sin(np.pi * t), 0.05 * np.sin(np.pi * t)])
    path = np.array([0.706, 0.706]) * (1 - t) + np.array([0.43, 0.66]) * t + bend
    return loss_landscape(Plane(("sts", "retrieval"), c1, c2, loss, score if with_score else None), path, points)


def training() -> Picture:
    t = np.linspace(0, 1, 121)
    ends = dict(zip(EXPERTS, (0.56, 0.75, 0.83, 0.27), strict=True))
    found = {e: (0.5 + (end - 0.5) * (1 - np.exp(-4 * t))).tolist() for e, end in ends.items()}
    return position_along_training(list(range(121)), found, (1 - 0.15 * t).tolist(), EXPERT_STYLES)


def sweep(values: list[float]) -> Sweep:
    draw = np.random.default_rng(0)
    n = len(values)
    ends = dict(zip(EXPERTS, (0.56, 0.75, 0.83, 0.27), strict=True))
    found = {e: (end + draw.normal(0, 0.03, n)).tolist() for e, end in ends.items()}
    scale, objective = 1.1 - 0.04 * np.arange(n), 0.85 + draw.normal(0, 0.004, n)
    return Sweep(values, found, scale.tolist(), objective.tolist())


def probe() -> Picture:
    falling = {name: [1 - 0.1 * i, 0.9 - 0.1 * i, 0.85 - 0.1 * i] for i, name in enumerate(EXPERTS)}
    rising = {name: losses[::-1] for name, losses in falling.items()}
    return probe_curves({"learned_linear": ProbeLosses(falling, 2), "self_positioning": ProbeLosses(rising, 0)})


def mu() -> Picture:
    return sensitivity_to_mu(sweep([0, 0.005, 0.01, 0.02, 0.05]), EXPERT_STYLES)


def probe_size() -> Picture:
    return sensitivity_to_probe_size(sweep([128, 512, 2048, 8192, 32000]), EXPERT_STYLES)


def seed() -> Picture:
    return sensitivity_to_seed(sweep([0, 1, 2, 3, 4]), EXPERT_STYLES)


MODELS = [
    ModelPoint("base", "", 0.0, 67.2),
    ModelPoint("sts", "", 8.0, 67.3),
    ModelPoint("joint", "joint", 46.0, 68.6),
    ModelPoint("joint_longest", "joint", 181.0, 71.7),
    ModelPoint("average", "fixed", 42.0, 69.4),
    ModelPoint("self_positioning", "learned", 52.0, 69.0),
]


def cost() -> Picture:
    return score_against_cost(MODELS)


def exchange() -> Picture:
    moved = [ModelPoint(p.name, p.kind, 70 - p.x / 40, p.y) for p in MODELS]
    return trade_off("emotions", moved)
