"""Plan the jobs of watched folders as files arrive, without planning the known ones again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..files import Input, Inputs, as_path, exists, natural_key
from .jobs import job_names, plan_group, refuse_problems
from .manifest import Manifests, leave_out_outputs
from .masks import assign_masks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from ..files import InputQuery
    from .jobs import Job


class Scan(NamedTuple):
    """Result of a scan of watched folders."""

    inputs: Inputs
    jobs: dict[Path, Job]  # by their inputs
    whole: bool  # True if these are all files in the folders


class WatchPlan:
    """Jobs of watched folders.

    The cost of a scan of paths that changed does not depend on the number of known files. A scan of
    whole folders lists them and checks each file, but plans only the new ones. Known jobs are
    planned again if they have a problem, or may share an output with a new one.

    Args:
        query: names the watched folders.
        output: as in `plan_jobs`.
        format: as in `plan_jobs`.
        mask: as in `assign_masks`.
    """

    def __init__(
        self,
        query: InputQuery,
        *,
        output: str | None = None,
        format: str | None = None,  # noqa: A002 - the option's name
        mask: str | None = None,
    ) -> None:
        self.manifests = Manifests()
        self._query = query
        self._folders = [as_path(name) for name in query.names]
        self._output, self._format, self._mask = output, format, mask
        self._known: dict[Path, tuple[Input, Job]] = {}
        self._problems: dict[Path, None] = {}  # of the known inputs
        self._sharing: dict[str, dict[Path, None]] = {}  # possible name of an output -> inputs
        self._absolute: set[str] = set()
        self._linked = False

    def scan(self, changed: Collection[Path] | None) -> Scan:
        """Return the jobs of files that changed, and of those whose plan changed.

        Args:
            changed: absolute paths; None for all files.

        Raises:
            UsageError: see `plan_jobs`.
        """
        found = None
        if changed is not None and not self._linked:
            found = self._query.find_changed(changed)
        whole = found is None
        self.manifests.refresh()
        if found is None:
            inputs = self._query.find()
            self._linked = bool(inputs.linked)
            self._absolute.clear()
        else:
            inputs = Inputs(found, [], [])
        inputs = leave_out_outputs(inputs, self.manifests, self._absolute)
        paths = {input_.path: input_ for input_ in inputs.found if input_.path is not None}
        if whole:
            for path in [path for path in self._known if path not in paths]:
                self._forget(path)
        new = [input_ for path, input_ in paths.items() if path not in self._known]
        if whole or changed:
            new += [self._known[path][0] for path in self._problems]
        planned = self._plan(new)
        jobs = {path: self._known[path][1] for path in [*paths, *planned] if path in self._known}
        return Scan(inputs, jobs, whole)

    def _plan(self, inputs: Iterable[Input]) -> list[Path]:
        """Plan inputs and those that may share an output with them; return the paths of all."""
        group: dict[Path, Input] = {}
        seen: set[Path] = set()
        pending = list(inputs)
        while pending:
            input_ = pending.pop()
            path = input_.path
            if path is None or path in seen:
                continue
            seen.add(path)
            if path in self._known and not exists(path):
                self._forget(path)
                continue
            group[path] = input_
            for name in job_names(input_, self._output, self._format):
                sharing = self._sharing.setdefault(name, {})
                sharing[path] = None
                pending += [self._known[other][0] for other in sharing if other in self._known]
        if not group:
            return []
        # In the order of a search, which problems name.
        group = dict(sorted(group.items(), key=lambda each: self._order(each[1])))
        jobs, problems = plan_group(list(group.values()), self._output, self._format)
        self._known |= {
            path: (input_, job) for (path, input_), job in zip(group.items(), jobs, strict=True)
        }
        if problems or all(job.problem for _, job in self._known.values()):
            refuse_problems(jobs, problems)
        jobs = assign_masks(jobs, list(group.values()), self._mask)
        for (path, input_), job in zip(group.items(), jobs, strict=True):
            self._known[path] = input_, job
            self._problems.pop(path, None)
            if job.problem:
                self._problems[path] = None
        return list(group)

    def _order(self, input_: Input) -> tuple[int, list[Any]]:
        folder = 0 if input_.folder is None else self._folders.index(input_.folder)
        return folder, [natural_key(part) for part in input_.relative.parts]

    def _forget(self, path: Path) -> None:
        input_, _ = self._known.pop(path)
        self._problems.pop(path, None)
        for name in job_names(input_, self._output, self._format):
            sharing = self._sharing.get(name, {})
            sharing.pop(path, None)
            if not sharing:
                self._sharing.pop(name, None)
