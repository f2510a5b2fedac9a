"""One page that holds everything a run or a comparison has to show: tables, figures and sentences, no link outside."""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from aevb.findings import told
from aevb.inference.files import inside
from aevb.records import khat_words
from aevb.run_folder import ComparisonFolder, Folder, RunFolder

__all__ = ["write_report"]

_CAPTIONS = {
    "log_px": "Estimated log p(x) over training: solid on training data, dashed on held-out data.",
    "curves": "The objective over training: solid on training data, dashed on held-out data.",
    "log_px_by_samples": "The same over the samples seen, of which Monte Carlo EM takes several gradients each.",
    "bound_by_samples": "The bound over the samples seen: solid on training data, dashed on held-out data.",
    "bound": "The bound over training: solid on training data, dashed on held-out data.",
    "samples": "Draws from the prior: means of p(x|z).",
    "manifold": "The 2-D manifold: means of p(x|z) on a grid of prior quantiles.",
    "reconstructions": "Held-out datapoints above, reconstructions below.",
    "latents": "Posterior means of held-out datapoints, coloured by class.",
    "evidence": "Estimates of log p(x), mean over datapoints with its standard error.",
    "calibration": (
        "Calibration on the model's own simulations: the ECDF of the truth's rank among the guide's draws, less the "
        "uniform one, with its 95 % band."
    ),
    "worst_inferred": (
        "The datapoints that the guide infers worst: the datapoint above, the guide's draws and those of HMC below."
    ),
    "khat": "Pareto k-hat of each datapoint's importance weights; beyond the dashed line they are not to be trusted.",
}

_COMPARISON = "The same model under several algorithms. Log-likelihoods are nats per datapoint, on held-out data."
_REPRODUCTION = "What a paper published next to what was found here, with its error and the budget it was found at."

_SHOWN = ("*.png", "figures/*.png", "*.json", "*.csv")

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --paper: #fdfdfb; --line: #d9dbe0; --faint: #667085; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --paper: #16191f; --line: #383d47; --faint: #98a2b3; } }
body { margin: 2.5rem auto; max-width: 60rem; padding: 0 1.2rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
p.lead, figcaption, small { color: var(--faint); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; background: #fff; border-radius: 4px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem 2rem; }
details { margin-top: 2rem; } pre { overflow-x: auto; font-size: .85rem; }
"""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run folder or a comparison folder.

    Args:
        folder: It holds ``config.json`` (a run) or ``table.csv`` (a comparison), and what figures there are.

    Returns:
        The page.

    Raises:
        ValueError: The folder is neither, or a link leads out of it; the message says what is missing, or which.
    """
    _refuse_links_outward(folder)
    run, comparison = RunFolder(folder), ComparisonFolder(folder)
    if comparison.has_table:
        body = _comparison(comparison)
    elif run.has_config:
        body = _run(run, heading="h2")
    else:
        raise ValueError(f"{folder} is no run or comparison folder: it has neither config.json nor table.csv.")
    title = f"aevb: {folder.resolve().name}"
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1>{body}</body></html>\n"
    )
    return run.write_page(page)


def _refuse_links_outward(folder: Path) -> None:
    """Hold a page to its own folder: it is made to be handed on, and must not carry off what a link points at."""
    for path in (path for pattern in _SHOWN for path in [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]):
        inside(folder, path.relative_to(folder))


def _comparison(folder: ComparisonFolder) -> str:
    rows = folder.rows()
    reproduced = bool(rows) and "published" in rows[0]
    lead = _REPRODUCTION if reproduced else _COMPARISON
    parts = [
        f'<p class="lead">{lead}</p>',
        _sentences(folder),
        _table([_compared(row) for row in rows]),
        _figures(folder),
    ]
    for run in folder.runs:
        parts.append(f"<h2>{escape(run.path.name)}</h2>{_run(run, heading='h3')}")
    return "".join(parts)


def _compared(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of a comparison's table.csv with each estimate and its error in one cell; other tables as they are."""
    if "test_log_px" not in row:
        return dict(row)
    return {
        "objective": row["objective"],
        "seed": row["seed"],
        "test bound": _with_error(row["test_bound"], row["bound_error"]),
        "test log p(x)": _with_error(row["test_log_px"], row["standard_error"]),
        "k-hat too high": khat_words(row),
        "seconds": f"{float(row['seconds']):.1f}",
        "samples seen": row["samples_seen"],
        **({"gradient evaluations": row["gradient_evaluations"]} if "gradient_evaluations" in row else {}),
        **({"measure": row["measure"]} if "measure" in row else {}),
        "guide": row["guide"],
    }


def _with_error(mean: str, error: str) -> str:
    """Both numbers in one cell; pandas leaves a cell empty where a run came to nothing."""
    return f"{float(mean or 'nan'):.2f} ± {float(error or 'nan'):.2f}"


def _run(folder: RunFolder, heading: str) -> str:
    config = folder.config()
    parts = [_lead(config), _sentences(folder) or _findings(folder)]
    records = folder.records()
    if records:
        parts += [f"<{heading}>Evidence, nats per datapoint</{heading}>", _table([_shown(r) for r in records])]
        parts += [f"<p><small>{escape(note)}</small></p>" for record in records for note in record.get("notes", [])]
    parts.append(_figures(folder))
    if last := _last_row(folder):
        parts += [f"<{heading}>Last epoch</{heading}>", _table([last])]
    listing = escape(json.dumps(config, indent=2))
    parts.append(f"<details><summary>config.json</summary><pre>{listing}</pre></details>")
    return "".join(parts)


def _lead(config: Mapping[str, Any]) -> str:
    command, settings = config.get("command", {}), config.get("settings", {})
    said = [f"objective {config.get('objective')}"]
    if "data" in command:
        variant = f" ({command['variant']})" if command.get("variant") else ""
        said.insert(0, f"data {command['data']}{variant}")
    said += [f"{name.replace('_', ' ')} {settings[name]}" for name in ("samples_seen", "seed") if name in settings]
    if settings.get("stopped"):
        said.append(f"stopped early: {settings['stopped']}")
    return f'<p class="lead">{escape(" · ".join(said))}</p>'


def _sentences(folder: Folder) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in folder.sentences)


def _findings(folder: RunFolder) -> str:
    """What the doctor found, where no verdict tells it."""
    return "".join(f"<p>{escape(told(finding))}</p>" for finding in folder.findings())


def _shown(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of evidence.json as a row: the estimate and its error in one cell."""
    error = record.get("standard_error")
    return {
        "method": record["method"],
        "split": record["split"],
        "mean ± standard error": f"{record['mean']:.2f}" + ("" if error is None else f" ± {error:.2f}"),
        "direction": record["direction"],
        "datapoints": record["num_points"],
        "samples": record["num_samples"],
        "k-hat too high": khat_words(record),
    }


def _figures(folder: Folder) -> str:
    drawn = sorted(folder.pictures, key=lambda path: (path.stem not in _CAPTIONS, path.stem))
    return f'<div class="figures">{"".join(_figure(path) for path in drawn)}</div>' if drawn else ""


def _figure(path: Path) -> str:
    caption = _CAPTIONS.get(path.stem, path.stem.replace("_", " ").replace("-", " "))
    image = base64.b64encode(path.read_bytes()).decode("ascii")
    source = f"data:image/png;base64,{image}"
    words = escape(caption)
    return f'<figure><img alt="{words}" src="{source}"><figcaption>{words}</figcaption></figure>'


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(str(name).replace('_', ' '))}</th>" for name in rows[0])
    body = "".join(f"<tr>{_cells(row.values())}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(values: Iterable[Any]) -> str:
    return "".join(f"<td>{escape(_number(value))}</td>" for value in values)


def _number(value: Any) -> str:
    """A number as a person reads it; anything else as it is."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return "" if value is None else str(value)
    if number.is_integer():
        return f"{int(number):,}"
    return f"{number:,.3f}" if abs(number) >= 0.001 else f"{number:.2e}"


def _last_row(folder: RunFolder) -> dict[str, float]:
    rows = folder.history()
    return {name: value for name, value in rows[-1].items() if not math.isnan(value)} if rows else {}
