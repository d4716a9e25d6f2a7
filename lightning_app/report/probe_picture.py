"""The picture of the losses on the probe-validation rows while positions are learned."""

from collections.abc import Mapping

from matplotlib.ticker import MaxNLocator

from lightning_app.report.pictures import TEXT_SIZE, Picture, draw_line, legend_below, new_figure, styles_of
from lightning_app.report.position_path import ProbeLosses


def probe_curves(found: Mapping[str, ProbeLosses]) -> Picture:
    """The loss of every data set at every validation, a panel for each learned merge.

    Args:
        found: merge to its losses.
    """
    styles = styles_of(name for of in found.values() for name in of.losses)
    figure, panels = new_figure(0.9 + 2.3 * len(found), len(found))
    lines = {}
    for axes, (merge, of) in zip(panels, found.items(), strict=True):
        axes.axhline(1, color="0.3", linewidth=1)
        axes.axvline(of.kept, color="0.3", linewidth=1)
        axes.set_ylabel("loss (the base: 1)")
        axes.set_title(f"{merge}, kept is {_named(of.kept)}", fontsize=TEXT_SIZE, loc="left")
        for name, losses in of.losses.items():
            lines[name] = draw_line(axes, range(len(losses)), losses, styles[name], name)
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    panels[-1].set_xlabel("validation (0: the start)")
    legend_below(figure, list(lines.values()))
    ends = [
        f"{merge} ends at " + ", ".join(f"{name} {losses[of.kept]:.3f}" for name, losses in of.losses.items())
        for merge, of in found.items()
    ]
    return Picture(
        "probe_curves",
        "Loss on the probe-validation rows at every validation",
        f"{'; '.join(ends)}, each relative to the base's.",
        figure,
        ["merge", "validation", "data set", "loss"],
        [
            [merge, validation, name, loss]
            for merge, of in found.items()
            for name, losses in of.losses.items()
            for validation, loss in enumerate(losses)
        ],
    )


def _named(validation: int) -> str:
    return f"validation {validation}" if validation else "the start"
