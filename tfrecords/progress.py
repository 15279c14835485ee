"""Progress bars."""

from tqdm import tqdm


def progress_bar(what: str, total: float, unit: str, shown: bool) -> tqdm:
    """A bar that appears after a second of work and stays when the work is done."""
    return tqdm(
        desc=what,
        total=total,
        unit=unit,
        unit_scale=True,
        disable=not shown,
        leave=total > 0,
        delay=1,
    )
