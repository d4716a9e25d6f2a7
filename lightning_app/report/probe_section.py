"""The part of a report that shows the probe losses of learned positions."""

from collections.abc import Mapping
from pathlib import Path

from lightning_app.report.position_path import read_probe_losses
from lightning_app.report.section import Section


def probe_section(folders: Mapping[str, Path]) -> Section:
    """Return the losses on the probe-validation rows at every validation, and of which merges they are not known.

    Args:
        folders: name of each learned merge to the folder of its stage.
    """
    from lightning_app.report.probe_picture import probe_curves  # matplotlib takes a second to import

    read = {name: read_probe_losses(folder) for name, folder in folders.items()}
    found = {name: losses for name, losses in read.items() if losses is not None}
    unknown = "no losses were kept; an earlier version has learned it, or fast_dev_run"
    notes = [f"{name}: {unknown}" for name in read if name not in found]
    return Section("Probe curves", pictures=[probe_curves(found)] if found else [], notes=notes)
