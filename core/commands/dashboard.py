"""``python -m core.dashboard RUN [RUN ...]``: a W&B workspace and a report that compare losses, surgery and ablations.

The metrics' names come from the run folders; the panels show all runs of the project with the same recipe names. Needs the
extra ``dualloop[dashboard]``; without ``--dry-run`` also an account.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.comparison.grouping import deciding, differences
from core.comparison.runs import RunData, evaluated, find_runs, read_run
from core.contracts import UserError
from core.engine.evaluation import write_whole
from core.engine.sweep_point import group_of
from core.installed.starting import spoken
from core.outside import Ending

NO_SURGERY = "sum"  # the gradient op that is plain addition
CLOCK = "update"
MOST_TITLES = 6  # of a section's panels in the words of a dry run


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for what the user can put right."""
    arguments = _parser().parse_args(argv)
    with Ending() as ending:
        runs = [read_run(folder) for folder in find_runs(arguments.runs)]
        entity, project = _place(runs, arguments)
        built = {"workspace": workspace(runs, entity, project), "report": report(runs, entity, project, offline=arguments.dry_run)}
        if arguments.only:
            built = {arguments.only: built[arguments.only]}
        if arguments.dry_run:
            _write(arguments.json, json.dumps({name: as_json(one) for name, one in built.items()}, indent=2) + "\n")
            print("\n".join([*_in_words(runs, built, entity, project), f"as JSON: {arguments.json}"]))
            return 0
        for name, one in built.items():
            _save(one)
            print(f"{name}: {one.url}")
        return 0
    return ending.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=spoken("dashboard"), description="Make a W&B workspace and report for these runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder that holds some, such as a sweep's")
    parser.add_argument("--entity", help="default: the runs' own, or WANDB_ENTITY")
    parser.add_argument("--project", help="default: the runs' own")
    parser.add_argument("--only", choices=("workspace", "report"), help="make one of the two")
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, and write it as JSON; needs no account")
    parser.add_argument("--json", type=Path, default=Path("dashboard.json"), metavar="FILE", help="of --dry-run (default: %(default)s)")
    return parser


def _in_words(runs: Sequence[RunData], built: Mapping[str, Any], entity: str, project: str) -> list[str]:
    """What would be made where, section by section."""
    groups = _groups(runs)
    lines = [
        f"W&B project {entity}/{project}; runs: those of the group{'s' * (len(groups) > 1)} {', '.join(groups)}, as these {len(runs)} are",
        *(f"{name}: {one.name if name == 'workspace' else one.title}" for name, one in built.items()),
    ]
    for section, inside in panels(runs).items():
        titles = [_title(panel) for panel in inside]
        more = f", and {len(titles) - MOST_TITLES} more" if len(titles) > MOST_TITLES else ""
        lines.append(f"  {section}: {len(inside)} panel{'s' * (len(inside) > 1)} ({', '.join(titles[:MOST_TITLES])}{more})")
    if "report" in built:
        lines.append(f"  report only: surgery on and off, {len(ablations(runs))} bars of what varies")
    return lines


def _title(panel: Any) -> str:
    return str(panel.title or ", ".join(getattr(panel, "media_keys", None) or []))


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another --json FILE") from error


def _groups(runs: Sequence[RunData]) -> list[str]:
    """The groups in which the tracker puts these runs."""
    return list(dict.fromkeys(_group(run) for run in runs))


def _group(run: RunData) -> str:
    trackers = (t for t in (run.recipe.get("track") or {}).values() if isinstance(t, Mapping) and t.get("use") == "wandb")
    asked = next((str(tracker["group"]) for tracker in trackers if tracker.get("group")), "")
    return asked or group_of(run.folder) or str(run.recipe["name"])


def _place(runs: Sequence[RunData], arguments: argparse.Namespace) -> tuple[str, str]:
    """(entity, project), from the arguments or the runs' trackers."""
    trackers = [t for run in runs for t in (run.recipe.get("track") or {}).values() if isinstance(t, Mapping) and t.get("use") == "wandb"]
    projects = {arguments.project} if arguments.project else {tracker["project"] for tracker in trackers}
    if len(projects) != 1:
        said = f"the runs' projects are {', '.join(sorted(projects))}" if projects else "these runs have no wandb tracker"
        raise UserError(f"{said}: name one with --project")
    entity = arguments.entity or os.environ.get("WANDB_ENTITY") or next((t["entity"] for t in trackers if t.get("entity")), None)
    if entity is None and not arguments.dry_run:
        raise UserError("whose project is it? Name the W&B user or team with --entity")
    return entity or "ENTITY", projects.pop()


def _library() -> tuple[Any, Any]:
    """(reports, workspaces) of wandb-workspaces."""
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise UserError(f"wandb-workspaces cannot be imported ({error}): pip install 'dualloop[dashboard]'") from error
    return reports, workspaces


def panels(runs: Sequence[RunData]) -> dict[str, list[Any]]:
    """Section -> panels, in rows of three."""
    wr, _ = _library()
    losses = list(dict.fromkeys(name for run in runs for name in run.losses()))
    names = list(dict.fromkeys(name for run in runs for name in run.series))
    metrics = evaluated(runs)
    sums = [name for name in losses if name.count("/") == 1]
    terms = list(dict.fromkeys(name.rpartition("/")[2] for name in losses if name not in sums))

    def lines(title: str, y: list[str], **more: Any) -> Any:
        return wr.LinePlot(
            title=title, x=CLOCK, y=y, smoothing_factor=0.6, smoothing_type="exponential", smoothing_show_original=True, **more
        )

    surgery = [name for name in names if name.startswith("surgery/") and name.count("/") <= 2]
    found = {
        "Loop against loop": [lines("all loops", sums), *(lines(name, [name]) for name in sums)],
        "Losses by component": [lines(term, [name for name in losses if name.endswith("/" + term)]) for term in terms],
        "Surgery": [lines(name.removeprefix("surgery/"), [name]) for name in surgery],
        "Evaluation": [wr.BarPlot(title=name, metrics=[wr.SummaryMetric(name)]) for name in metrics],
        "Speed and memory": [lines(name, [name]) for name in names if name.startswith(("time/samples_per_s", "memory/"))],
        "Pictures": [wr.MediaBrowser(title=key, media_keys=[key], num_columns=3) for key in _media(runs)],
    }
    return {section: _placed(inside) for section, inside in found.items() if inside}


def _media(runs: Sequence[RunData]) -> list[str]:
    sheets = dict.fromkeys(f"pictures/{name}" for run in runs for name in run.sheets)
    return [key for sheet in sheets for key in (sheet, f"{sheet}/panels")]


def _placed(inside: list[Any]) -> list[Any]:
    wr, _ = _library()
    for i, panel in enumerate(inside):
        panel.layout = wr.Layout(x=8 * (i % 3), y=6 * (i // 3), w=8, h=6)
    return inside


def _filter(runs: Sequence[RunData], more: str = "") -> str:
    """Runs of the same groups."""
    groups = ", ".join(map(repr, _groups(runs)))
    return f"Metric('Group') in [{groups}]" + (f" and {more}" if more else "")


def workspace(runs: Sequence[RunData], entity: str, project: str) -> Any:
    """All sections, with the clock and the smoothing set; runs grouped by gradient op where it varies."""
    _, ws = _library()
    sections = [ws.Section(name=name, panels=inside, is_open=place < 3) for place, (name, inside) in enumerate(panels(runs).items())]
    by = [ws.Config("gradient.use")] if "gradient.use" in differences(runs) else []
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"dualloop: {runs[0].recipe['name']}",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=CLOCK, smoothing_type="exponential", smoothing_weight=60),
        runset_settings=ws.RunsetSettings(filters=_filter(runs), groupby=by),
    )


def report(runs: Sequence[RunData], entity: str, project: str, offline: bool = False) -> Any:
    """Losses loop against loop and by component, with surgery and without, and a bar for each value of what was varied.

    ``offline``: the sets of runs are of the report's own project without its number, which only the server knows.
    """
    wr, _ = _library()
    found = panels(runs)

    def runset(name: str, more: str = "") -> Any:
        where = {} if offline else {"entity": entity, "project": project}
        return wr.Runset(**where, name=name, filters=_filter(runs, more))

    def grid(inside: list[Any], *runsets: Any) -> Any:
        return wr.PanelGrid(runsets=list(runsets) or [runset("runs")], panels=inside)

    blocks = [wr.H1("Losses"), grid(found["Loop against loop"])] if "Loop against loop" in found else []
    if "Losses by component" in found:
        blocks += [wr.H1("Losses by component"), grid(found["Losses by component"])]
    plain = f"['gradient:{NO_SURGERY}']"  # the tracker tags runs with their gradient op
    on, off = runset("with surgery", f"Tags() not in {plain}"), runset("without", f"Tags() in {plain}")
    blocks += [wr.H1("Surgery on and off"), grid(panels(runs).get("Loop against loop", []) + panels(runs).get("Surgery", []), on, off)]
    blocks[-1].panels = _placed(blocks[-1].panels)
    bars = ablations(runs)
    if bars:
        blocks += [wr.H1("Ablations"), wr.P("The mean over the runs with each value; the line spans their least and greatest."), grid(bars)]
    if "Pictures" in found:
        blocks += [wr.H1("Pictures"), grid(found["Pictures"])]
    return wr.Report(
        entity=entity,
        project=project,
        title=f"Loss comparison: {runs[0].recipe['name']}",
        blocks=[wr.TableOfContents(), *blocks],
        width="fluid",
    )


def ablations(runs: Sequence[RunData]) -> list[Any]:
    """For each key that varies between these runs (or the gradient op) a bar plot of each loop's loss and each evaluation."""
    wr, _ = _library()
    keys = [key for key in deciding(differences(runs)) if key != "seed"] or ["gradient.use"]
    metrics = [f"{name}.last" for name in dict.fromkeys(n for run in runs for n in run.losses()) if name.count("/") == 1]
    metrics += evaluated(runs)
    bars = [
        wr.BarPlot(
            title=f"{metric.removesuffix('.last')} by {key}",
            metrics=[wr.SummaryMetric(metric)],
            groupby=wr.Config(key),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for key in keys
        for metric in metrics
    ]
    return _placed(bars)


def as_json(built: Any) -> dict[str, Any]:
    """What would be sent, as the library's own models write it; read back by them once, so that it is known to be valid."""
    model = built._to_model()  # the library has no public way to it
    text = model.model_dump_json(by_alias=True, exclude_none=True)
    type(model).model_validate_json(text)
    return json.loads(text)


def _save(built: Any) -> None:
    import wandb

    try:
        wandb.Api()  # without a login it says so in an error of W&B's own; what comes below raises a bare Exception
        built.save()
    except (wandb.errors.Error, OSError, ValueError) as error:  # no login, no network, no such project
        raise UserError(f"W&B did not take it: {error}. Log in with `wandb login`, or look at it with --dry-run") from error
