"""Run folders and comparison folders: what their files are called, and how each is written and read.

A file is whole or not there, and none is read or written through a link that leads out of its folder, which may be
somebody else's. The three files that a run is loaded from are known to :mod:`aevb.inference.training.run_files`.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aevb.inference.files import inside, read_json, replacing, write_json, write_text
from aevb.inference.pairs.finding import Finding
from aevb.inference.training.run_files import CONFIG, read_config, read_history

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["ComparisonFolder", "Folder", "RunFolder"]

_RECORD = {"method": str, "split": str, "direction": str, "mean": float | int, "num_points": int, "num_samples": int}


class Folder:
    """A folder of results: arrays, tables, pictures and a page.

    Every method that takes a file's name raises ValueError where a link leads out of the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def file(self, name: str) -> Path:
        """Return the path that a file of that name has, or would have."""
        return inside(self.path, name)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a new file to write, which takes its place in the folder when it is whole."""
        with replacing(self.file(name)) as unfinished:
            yield unfinished

    def write_arrays(self, name: str, arrays: "Mapping[str, Tensor]") -> Path:
        """Write an ``.npz``, and return it."""
        import numpy as np

        with self.writing(name) as unfinished:
            np.savez(unfinished, allow_pickle=False, **{key: value.cpu().numpy() for key, value in arrays.items()})
        return self.path / name

    def write_table(self, name: str, table: "pd.DataFrame", **options: Any) -> Path:
        """Write a ``.csv``, with pandas' own options, and return it."""
        with self.writing(name) as unfinished:
            table.to_csv(unfinished, **options)
        return self.path / name

    def write_figure(self, name: str, figure: "Figure") -> Path:
        """Write a ``.png``, and return it."""
        from aevb import figures

        return figures.save(figure, self.file(name))

    def write_page(self, page: str) -> Path:
        """Write ``report.html``, and return it."""
        write_text(self.file("report.html"), page)
        return self.path / "report.html"

    def figure(self, name: str) -> Path:
        """Return the path of the picture of that name, there or not, among those that the page shows."""
        return self.file(f"figures/{name}.png")

    def draw(self, name: str, figure: "Figure") -> Path:
        """Write a picture that the page shows, and return it."""
        return self.write_figure(f"figures/{name}.png", figure)

    @property
    def pictures(self) -> list[Path]:
        """The pictures that the page shows."""
        found = [*self.path.glob("*.png"), *self.path.glob("figures/*.png")]
        return [self.file(str(path.relative_to(self.path))) for path in found]

    @property
    def sentences(self) -> list[str]:
        """Read what ``verdict.json`` says; nothing where nobody was asked."""
        path = self.file("verdict.json")
        if not path.is_file():
            return []
        said = read_json(path)
        said = [said] if isinstance(said, str) else said
        if not (isinstance(said, list) and all(isinstance(sentence, str) for sentence in said)):
            raise ValueError(f"{path} must hold a list of sentences.")
        return said


class RunFolder(Folder):
    """The folder of one run: Run's three files, estimates, findings, a verdict, draws, pictures and a page."""

    @property
    def has_config(self) -> bool:
        """Tell whether the folder says what run it holds."""
        return self.file(CONFIG).is_file()

    def config(self) -> dict[str, Any]:
        """Read ``config.json``, which may stand there alone."""
        return read_config(self.path, needed=[CONFIG])

    def history(self) -> tuple[dict[str, float], ...]:
        """Read ``history.csv``, a row an epoch."""
        return read_history(self.path)

    def records(self) -> list[dict[str, Any]]:
        """Read the estimates of ``evidence.json``, oldest first.

        Raises:
            ValueError: The file is no list of estimates.
        """
        path = self.file("evidence.json")
        records = read_json(path) if path.is_file() else []
        if not (isinstance(records, list) and all(isinstance(record, dict) for record in records)):
            raise ValueError(f"{path} must hold a list of estimates.")
        for record in records:
            for entry, kind in _RECORD.items():
                if not isinstance(record.get(entry), kind):
                    raise ValueError(f"{path} holds an estimate whose {entry} is {str(record.get(entry))[:80]!r}.")
        return records

    def write_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write ``evidence.json``."""
        write_json(self.file("evidence.json"), list(records))

    def findings(self) -> list[Finding]:
        """Read what the doctor found from ``doctor.json``; nothing where nobody looked.

        Raises:
            ValueError: The file is no list of findings.
        """
        path = self.file("doctor.json")
        rows = read_json(path) if path.is_file() else []
        try:
            return [Finding(**row) for row in rows]
        except TypeError as error:
            raise ValueError(f"{path} must hold a list of findings, each with name, severity and sentence.") from error

    def write_findings(self, findings: Sequence[Finding]) -> None:
        """Write ``doctor.json``, in place of earlier findings."""
        write_json(self.file("doctor.json"), [asdict(finding) for finding in findings])

    def write_verdict(self, sentences: Sequence[str], table: "pd.DataFrame") -> None:
        """Write ``verdict.json`` and ``verdict.csv``."""
        write_json(self.file("verdict.json"), list(sentences))
        self.write_table("verdict.csv", table)

    def write_posterior(self, draws: Any) -> None:
        """Write ArviZ data as ``posterior.nc``."""
        with self.writing("posterior.nc") as unfinished:
            draws.to_netcdf(str(unfinished))

    @property
    def samples(self) -> Path:
        """The place of draws from the model, unless another is named."""
        return self.file("samples.npz")

    @property
    def uses(self) -> Folder:
        """List the uses that a run was put to."""
        return Folder(self.file("uses"))


class ComparisonFolder(Folder):
    """The folder of several runs side by side, or of a reproduction: a table, pictures, a page, a folder a run."""

    @property
    def has_table(self) -> bool:
        """Tell whether the folder holds a table, as no run's does."""
        return self.file("table.csv").is_file()

    def run(self, name: str) -> RunFolder:
        """The folder of one of its runs."""
        return RunFolder(self.file(name))

    @property
    def runs(self) -> list[RunFolder]:
        """The folders of its runs."""
        return [self.run(path.parent.name) for path in sorted(self.path.glob(f"*/{CONFIG}"))]

    def write_rows(self, table: "pd.DataFrame", **options: Any) -> None:
        """Write ``table.csv``, a row a run or a quantity."""
        self.write_table("table.csv", table, index=False, **options)

    def rows(self) -> list[dict[str, str]]:
        """Read ``table.csv``, as it is written."""
        with self.file("table.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
