"""Work spread over the cores: a process per core, one thread in each.

Threads of several fits that share cores wait for each other more than they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

__all__ = ["in_processes"]

Name = TypeVar("Name", bound=Hashable)
Result = TypeVar("Result")


def in_processes(
    function: Callable[..., Result],
    tasks: Sequence[tuple[Name, tuple[Any, ...]]],
    *,
    jobs: int,
    progress: bool,
) -> Iterator[tuple[Name, Result]]:
    """Call a function for every task, and yield each task's name and result as soon as it is there.

    Args:
        function: What is called; it and its arguments may be of a notebook.
        tasks: Of each, its name and the arguments.
        jobs: Processes at once.
        progress: Show on standard error how many are done.
    """
    from joblib import Parallel, delayed, parallel_config
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), disable=not progress)
    calls = (delayed(_named)(function, name, arguments) for name, arguments in tasks)
    with bar, parallel_config(backend="loky", inner_max_num_threads=1):
        row = bar.add_task("runs", total=len(tasks))
        for name, result in Parallel(n_jobs=jobs, return_as="generator_unordered")(calls):
            bar.update(row, advance=1, description=f"runs, last {name}")
            yield name, result


def _named(function: Callable[..., Result], name: Name, arguments: tuple[Any, ...]) -> tuple[Name, Result]:
    return name, function(*arguments)
