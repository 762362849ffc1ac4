"""What has changed since another run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wasi_nn_conformance.matrix import Cell


def changes(before: Sequence[Cell], now: Sequence[Cell]) -> Iterator[str]:
    """A line for each case that has another status than in a run before, and for each cell that
    ran in one of them only."""
    old = {cell.key: cell for cell in before if not cell.unavailable}
    for cell in now:
        if cell.unavailable:
            continue
        place = ", ".join(cell.key)
        was = old.pop(cell.key, None)
        if was is None:
            yield f"{place}: not run before"
            continue
        found = {outcome.case: outcome for outcome in was.outcomes}
        for outcome in cell.outcomes:
            past = found.get(outcome.case)
            status = past.status if past else "not run"
            if status != outcome.status:
                why = f" ({outcome.reason})" if outcome.reason else ""
                changed = past is not None and past.version != outcome.version
                which = f", version {outcome.version} of the case" if changed else ""
                yield f"{place}: {outcome.case}{which}: {status} → {outcome.status}{why}"
    for key in old:
        yield f"{', '.join(key)}: not run now"
