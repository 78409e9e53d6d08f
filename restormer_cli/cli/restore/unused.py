"""Options that have no effect in a run, which a note names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import imaging
from ..options import RestoreOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ...batch import Job

_DRY = "no effect in a dry run, which restores nothing"

UNUSED: tuple[tuple[str, Callable[[RestoreOptions, Sequence[Job]], object], str], ...] = (
    (
        "--quality",
        lambda o, jobs: (
            o.quality != RestoreOptions.quality
            and not o.skip_existing  # which restores what had another value
            and jobs
            and _all_lossless(jobs)
        ),
        "no effect on lossless formats, only on JPEG, AVIF, HEIF and WebP",
    ),
    (
        "--overlap",
        lambda o, _: (
            o.overlap != RestoreOptions.overlap and not o.skip_existing and o.tile in ("auto", "0")
        ),
        "no effect as long as no tiles are used. --tile N uses them",
    ),
    (
        "--skip-existing",
        lambda o, jobs: o.skip_existing and any(job.source is None for job in jobs),
        "an image on stdin has no name in the manifest, and is restored again",
    ),
    ("--report", lambda o, _: o.report and o.dry_run, _DRY),
    ("--compare", lambda o, _: o.compare and o.dry_run, _DRY),
    ("--preview", lambda o, _: o.preview and o.dry_run, _DRY),
)
"""Options, when each has no effect, and the reason."""


def unused_options(options: RestoreOptions, jobs: Sequence[Job]) -> Iterator[str]:
    """Yield a note for each option that was given and has no effect."""
    for option, applies, reason in UNUSED:
        if applies(options, jobs):
            yield f"note: {option}: {reason}"


def _all_lossless(jobs: Sequence[Job]) -> bool:
    lossless = {kind for kind, spec in imaging.FORMATS.items() if not spec.lossy}
    return all(imaging.requested_format(job.target, job.format) in lossless for job in jobs)
