"""The pictures of a study: what is drawn, the numbers beside it, and that all of it can be read."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_app.report.conflict_pictures import linear_fit
from lightning_app.report.landscape_picture import Plane, loss_landscape
from lightning_app.report.model_pictures import ModelPoint, score_against_cost
from lightning_app.report.pictures import DPI, PALETTE, TEXT_SIZE, WIDTH, styles_of
from lightning_app.report.position_pictures import score_against_scale
from lightning_app.report.tensorboard_log import write_pictures
from tests import study_examples as examples

BUILDERS = [
    examples.conflict,
    examples.cosines,
    examples.norms,
    examples.directions,
    examples.weight_line,
    examples.scale_line,
    examples.landscape,
    examples.training,
    examples.probe,
    examples.mu,
    examples.probe_size,
    examples.seed,
    examples.cost,
    examples.exchange,
]


@pytest.mark.parametrize("build", BUILDERS)
def test_all_text_is_large_and_inside_and_the_legend_covers_no_data(build: examples.Builder) -> None:
    figure = build().figure
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    assert len(texts) > 5
    assert min(text.get_fontsize() for text in texts) >= TEXT_SIZE
    (legend,) = figure.legends
    assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)
    for artist in [legend, *(axes.xaxis.label for axes in figure.axes), *(axes.yaxis.label for axes in figure.axes)]:
        box = artist.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, artist


def test_a_picture_is_saved_as_png_and_csv(tmp_path: Path) -> None:
    picture = examples.norms()
    picture.save(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [f"{picture.name}.csv", f"{picture.name}.png"]
    with Image.open(tmp_path / "new" / f"{picture.name}.png") as image:
        assert image.width == WIDTH * DPI
        assert len(image.convert("RGB").getcolors(image.width * image.height)) > 100
    with (tmp_path / "new" / f"{picture.name}.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [list(picture.header), *([str(cell) for cell in row] for row in picture.rows)]


def test_pictures_go_to_tensorboard_and_can_be_saved_afterwards(tmp_path: Path) -> None:
    pictures = [examples.training(), examples.seed()]
    for _ in range(2):  # of two runs, only the last is there
        write_pictures(pictures, tmp_path)
    events = EventAccumulator(str(tmp_path / "report")).Reload()
    assert len(events.Images("sensitivity_to_seed")) == 1
    assert events.Tags()["images"] == ["position_along_training", "sensitivity_to_seed"]
    assert events.Images("sensitivity_to_seed")[0].width == WIDTH * DPI
    with Image.open(io.BytesIO(pictures[0].png)) as image:
        assert image.width == WIDTH * DPI


def test_a_name_has_one_style_and_no_two_names_share_one() -> None:
    styles = styles_of([*"abcdefghijklmnop", "a"])
    assert len(styles) == len(set(styles.values())) == 16
    assert [styles[name].colour for name in "abcdef"] == list(PALETTE)
    assert examples.norms().figure.axes[0].lines[2].get_color() == examples.EXPERT_STYLES["retrieval"].colour
    assert examples.training().figure.axes[0].lines[1].get_color() == examples.EXPERT_STYLES["retrieval"].colour


def test_task_conflict_shows_the_differences_to_the_base() -> None:
    picture = examples.conflict()
    bars = [bar.get_width() for bar in picture.figure.axes[0].patches]
    assert bars == pytest.approx([1.8, 1.8, 2, 0, 0.7, 1.7, 6, 5.1, 32.7, 32.6])
    assert picture.rows[2] == ["SciFact", "retrieval", 76.9, 77.6, 78.6, 0.7, 1.7, 1.0]
    assert "below the task's own expert on 3 of 5 tasks" in picture.sentence
    assert "-0.40 points" in picture.sentence


def test_gradient_cosines_have_a_line_for_each_pair_and_zero() -> None:
    picture = examples.cosines(steps=12)
    zero, *lines = picture.figure.axes[0].lines
    assert list(zero.get_ydata()) == [0, 0]
    assert [line.get_label() for line in lines] == list(picture.header[1:])
    assert len(lines) == 6 and len(picture.rows) == 12
    drawn = np.array([line.get_ydata() for line in lines])
    np.testing.assert_array_equal(drawn.T, [row[1:] for row in picture.rows])
    assert picture.sentence.startswith(f"{(drawn < 0).mean():.0%} of the cosines")
    assert f"sts / retrieval has the lowest mean, {drawn[0].mean():.2f}" in picture.sentence


def test_linear_fit_is_the_least_squares_line() -> None:
    draw = np.random.default_rng(0)
    x = draw.uniform(1000, 20000, 12)
    y = 0.5 + 1e-4 * x + draw.normal(0, 0.2, 12)
    fit = linear_fit(x, y)
    np.testing.assert_allclose([fit.slope, fit.intercept], np.polyfit(x, y, 1))
    assert fit.r2 == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
    assert linear_fit([1, 2, 3], [5, 5, 5]) == (0, 5, 0)
    with pytest.raises(ValueError, match="two different x"):
        linear_fit([2, 2, 2], [1, 2, 3])


def test_norms_lie_beside_their_line() -> None:
    picture = examples.norms()
    line, *experts = picture.figure.axes[0].lines
    sizes, norms, fitted = np.array([row[1:] for row in picture.rows], float).T
    np.testing.assert_allclose(np.interp(sizes, *line.get_data()), fitted)
    assert [list(expert.get_xdata()) for expert in experts] == sizes.reshape(4, 3).tolist()
    assert f"R² = {np.corrcoef(sizes, norms)[0, 1] ** 2:.2f}" in picture.sentence


def test_direction_has_a_line_for_each_expert_along_its_share() -> None:
    picture = examples.directions()
    sts = picture.figure.axes[0].lines[0]
    np.testing.assert_allclose(sts.get_data(), [[10, 15, 25, 40], [0.1, 0.125, 0.175, 0.25]])
    assert len(picture.rows) == 16
    assert "sts 0.10 to 0.25, retrieval 0.15 to 0.38" in picture.sentence


@pytest.mark.parametrize(("build", "chosen"), [(examples.weight_line, 0.57), (examples.scale_line, 0.82)])
def test_scores_along_a_line_are_drawn_against_the_chosen_point(build: examples.Builder, chosen: float) -> None:
    picture = build()
    _, vertical, *lines = picture.figure.axes[0].lines
    assert list(vertical.get_xdata()) == [chosen, chosen]
    assert [line.get_label() for line in lines] == [*examples.TASKS, "average"]
    assert max(lines, key=lambda line: line.get_linewidth()) is lines[-1]
    table = np.array(picture.rows)
    np.testing.assert_allclose(table[:, 1:-1].mean(1), table[:, -1])
    for line, raw in zip(lines, table[:, 1:].T, strict=True):
        np.testing.assert_allclose(line.get_ydata(), raw - np.interp(chosen, table[:, 0], raw))
    best = table[:, -1].argmax()
    assert f"best at {table[best, 0]:.2g}, {lines[-1].get_ydata()[best]:.2f} points above" in picture.sentence


def test_a_chosen_point_outside_the_line_is_refused() -> None:
    with pytest.raises(ValueError, match="chosen point 2.3 is outside 0 to 2"):
        score_against_scale([0, 1, 2], {"SICK-R": [1, 2, 1]}, 2.3, examples.TASK_STYLES)


def test_the_landscape_has_its_lowest_loss_and_best_score_in_the_right_place() -> None:
    c1, c2 = np.linspace(0, 1, 11), np.linspace(0, 1, 6)
    x, y = np.meshgrid(c1, c2, indexing="ij")
    plane = Plane(("a", "b"), c1, c2, (x - 0.8) ** 2 + (y - 0.2) ** 2, 50 - (x - 0.2) ** 2 - (y - 0.6) ** 2)
    picture = loss_landscape(plane, [(0.1, 0.9), (0.5, 0.5), (0.7, 0.3)], {"base": (0, 0)})
    filled, contours, *_ = picture.figure.axes[0].collections
    assert filled.get_paths()[0].contains_point((0.8, 0.2)) and not filled.get_paths()[0].contains_point((0.2, 0.8))
    assert contours.get_paths()[-1].contains_point((0.2, 0.6)) and not contours.get_paths()[-1].contains_point(
        (0.6, 0.2)
    )
    path, start, end, base = picture.figure.axes[0].lines
    assert path.get_xydata().tolist() == [[0.1, 0.9], [0.5, 0.5], [0.7, 0.3]]
    assert (start.get_xydata().tolist(), end.get_xydata().tolist()) == ([[0.1, 0.9]], [[0.7, 0.3]])
    assert base.get_xydata().tolist() == [[0, 0]]
    assert "ends at (0.70, 0.30); the lowest loss of the grid, 0.000, is at (0.80, 0.20)" in picture.sentence
    assert "the best held-out score, 50.0, at (0.20, 0.60)" in picture.sentence
    rows = {tuple(row[:4]): row[4:] for row in picture.rows}
    assert len(rows) == len(picture.rows) == 66 + 3 + 1
    assert rows["grid", "", 1.0, 0.4] == pytest.approx([0.08, 49.32])
    assert rows["point", "base", 0.0, 0.0] == rows["path", "2", 0.7, 0.3] == ["", ""]


def test_a_landscape_without_scores_has_no_contour_lines() -> None:
    picture = examples.landscape(with_score=False)
    assert len(picture.figure.axes[0].collections) == 1 and not picture.figure.axes[0].get_title()
    assert "held-out" not in picture.sentence and picture.rows[0][-1] == ""


def crowded_landscape() -> Figure:
    points = {f"merge {i}": (0.5 + 0.002 * i, 0.5) for i in range(9)} | {"corner": (1.4, 1.4), "far": (1.6, -0.3)}
    figure = examples.landscape(points=points).figure
    labels = [handle.get_label() for handle in figure.legends[0].legend_handles]
    assert labels == ["Self Positioning", "its start", "its end", *points]
    return figure


def crowded_models() -> Figure:
    """Twenty models, most of them at two scores and costs, as in docs/late-task."""
    near = [ModelPoint(f"m{i}", "learned", 45 + 0.1 * i, 74 + 0.02 * (i % 4)) for i in range(10)]
    far = [ModelPoint(f"n{i}", "joint", 60 + 0.1 * i, 70.0) for i in range(9)]
    return score_against_cost([ModelPoint("base", "", 0, 60), *near, *far]).figure


@pytest.mark.parametrize(("crowded", "count"), [(crowded_landscape, 11), (crowded_models, 20)])
def test_numbers_of_points_in_one_place_do_not_overlap(crowded: Callable[[], Figure], count: int) -> None:
    figure = crowded()
    figure.draw_without_rendering()
    numbers = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    assert [text.get_text() for text in numbers] == [str(i) for i in range(1, count + 1)]
    boxes = [text.get_bbox_patch().get_window_extent() for text in numbers]
    circles = [((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, box.width / 2) for box in boxes]
    for i, (x, y, radius) in enumerate(circles):
        assert all(np.hypot(x - u, y - v) > radius + other for u, v, other in circles[:i])
    frame = figure.axes[0].get_window_extent()
    assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for box in boxes)


def test_the_position_along_training_has_a_dashed_scale() -> None:
    picture = examples.training()
    *experts, scale = picture.figure.axes[0].lines
    assert [line.get_label() for line in experts] == list(examples.EXPERTS) and len(picture.rows) == 121
    assert scale.is_dashed() and not any(line.is_dashed() for line in experts)
    assert "From step 0 to step 120: sts 0.50 to 0.56" in picture.sentence


def test_probe_curves_have_a_panel_for_each_merge_and_mark_what_is_kept() -> None:
    picture = examples.probe()
    panels = picture.figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "learned_linear, kept is validation 2",
        "self_positioning, kept is the start",
    ]
    for axes, kept in zip(panels, (2, 0), strict=True):
        base, vertical, *lines = axes.lines
        assert (list(base.get_ydata()), list(vertical.get_xdata())) == ([1, 1], [kept, kept])
        assert [line.get_label() for line in lines] == list(examples.EXPERTS)
    assert list(panels[1].lines[3].get_ydata()) == pytest.approx([0.75, 0.8, 0.9])
    assert "learned_linear ends at sts 0.850, retrieval 0.750" in picture.sentence
    assert "self_positioning ends at sts 0.850" in picture.sentence, "at the validation that is kept"
    assert len(picture.rows) == 2 * 4 * 3


@pytest.mark.parametrize("build", [examples.mu, examples.probe_size, examples.seed])
def test_sensitivity_has_two_panels_over_the_same_values(build: examples.Builder) -> None:
    picture = build()
    above, below = picture.figure.axes
    table = np.array(picture.rows)
    np.testing.assert_array_equal([line.get_ydata() for line in above.lines], table[:, 1:-1].T)
    np.testing.assert_array_equal(below.lines[0].get_data(), table[:, [0, -1]].T)
    assert above.get_xlim() == below.get_xlim()
    assert above.get_xscale() == ("log" if build is examples.probe_size else "linear")
    assert (above.lines[0].get_linestyle() == "None") == (build is examples.seed)
    assert f"lowest at {table[table[:, -1].argmin(), 0]:g};" in picture.sentence
    widest = examples.EXPERTS[table[:, 1:5].std(0).argmax()]
    assert f"{widest} varies most, with a standard deviation of {table[:, 1:5].std(0).max():.3f}" in picture.sentence


def test_score_against_cost_names_the_models_that_nothing_cheaper_equals() -> None:
    picture = examples.cost()
    named = "base (0 TFLOP, 67.20), sts (8 TFLOP, 67.30), average (42 TFLOP, 69.40), joint_longest (181 TFLOP, 71.70). "
    assert picture.sentence.startswith(f"No other model is as good at the same cost as {named}")
    assert [row[0] for row in picture.rows] == [
        label.get_text().split()[1] for label in picture.figure.legends[0].texts
    ]


def test_a_trade_off_names_the_best_on_either_side() -> None:
    picture = examples.exchange()
    assert picture.name == "trade_off_emotions"
    assert "joint_longest is best on the tasks of emotions (71.70, 65.47 on the others)" in picture.sentence
    assert "base on the others (70.00, 67.20 on the tasks of emotions)" in picture.sentence
