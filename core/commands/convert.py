"""``python -m core.convert SOURCE OUT``: what was trained, as a published folder, as PEFT's adapters, or as a training file.

SOURCE is a run, one of its checkpoints, a training file ``.pth`` of upstream's own trainer, or a folder of PEFT's adapters.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.checkpoints.made_of import base_paths, base_setting
from core.checkpoints.model_card import Export, write_card
from core.checkpoints.own_recipe import own_recipe
from core.commands.printing import table
from core.contracts import ExportsAdapters, ExportsTrainingFile, Model, ReportsChanges, TellsLeftOut, UserError, VerifiesExport
from core.engine import checkpoint
from core.engine.best import named_best
from core.outside import Ending
from core.recipe import Recipe, check
from core.registry import Registry
from core.registry.offers import wanted

#: Largest difference of a reloaded export, as a share of the largest value: in float32, and where anything is in 16 bit.
EXACT, ROUNDED = 1e-4, 5e-2


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 where the export computes something else, 2 for what the user can put right."""
    arguments = _parser().parse_intermixed_args(argv)
    with Ending() as ending:
        return _convert(arguments)
    return ending.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m core.convert", description="Write what was trained as a published folder.")
    sources = "a run folder, one of its checkpoints, a training file .pth, or a folder of PEFT's adapters"
    parser.add_argument("source", type=Path, metavar="SOURCE", help=sources)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write, or a training file NAME.pth; must not exist")
    moved = "of a run, where its base has been moved: model.checkpoint=FOLDER; what lies there must be the same"
    parser.add_argument("settings", nargs="*", metavar="key=value", help=moved)
    parser.add_argument(
        "--groups",
        default="full",
        metavar="GROUPS",
        help="trained groups to take, joined by +; the others are the base's (default: full). Of a .pth or adapters also groups beyond the "
        "method's, such as full+embeddings, which takes token embeddings and output layer as the file has them",
    )
    weights = "of a run: what was trained (default), or the teacher's slow weights, e.g. an average"
    parser.add_argument("--weights", choices=("trained", "teacher"), default="trained", help=weights)
    parser.add_argument("--verify", action="store_true", help="reload the folder and compare logits and masks with the live model's")
    parser.add_argument("--adapter", action="store_true", help="write the LoRA adapters alone, as PEFT reads them")
    parser.add_argument(
        "--base", type=Path, metavar="FOLDER", help="the published folder that training started from; of a run, where it was moved"
    )
    parser.add_argument("--lora-alpha", type=int, metavar="N", help="for a .pth that does not hold it: the adapters' alpha (default: 256)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _convert(arguments: argparse.Namespace) -> int:
    from core.checkpoints.model_files import holds_trained_tensors_only, model_entry, refuse_other_folder
    from core.checkpoints.trained_weights import Trained, is_run, open_file, open_run  # late: it imports torch

    out, registry = arguments.out, Registry()
    if out.exists():
        raise UserError(f"{out}: already exists; remove it or choose another folder")
    trained: Trained
    export = Export(out.resolve().name, arguments.base, arguments.groups, arguments.weights)
    if arguments.verify and (arguments.adapter or out.suffix == ".pth"):
        raise UserError("--verify reloads a published folder; it goes with neither --adapter nor a .pth")
    if holds_trained_tensors_only(arguments.source):
        if arguments.settings:
            raise UserError(f"{arguments.settings[0]}: settings go with a run; name the base of {arguments.source} with --base FOLDER")
        if arguments.weights != "trained":
            raise UserError(f"--weights {arguments.weights} needs a run or one of its checkpoints; {arguments.source} is none")
        entry = model_entry(arguments.source, arguments.base, registry, arguments.groups)
        keys = {name: Path(value) if isinstance(value, str) else value for name, value in entry.items() if name != "use"}
        alpha = {} if arguments.lora_alpha is None else {"lora_alpha": arguments.lora_alpha}
        trained = open_file(arguments.source, registry.get("models", entry["use"]).create(**keys, **alpha))
        export = replace(export, component=str(entry["use"]))
    else:
        if not is_run(named_best(arguments.source)):
            refuse_other_folder(arguments.source, registry)
        recipe = _recipe_of_run(arguments.source, arguments.base, arguments.settings, registry)
        trained = open_run(arguments.source, registry, recipe, arguments.weights)
        places = [place for key, place in base_paths(recipe, registry).items() if key[0] == "model" and place.is_dir()]
        component = str(recipe.values["model"].get("use", ""))
        run = trained.source.resolve().parent.parent
        update = checkpoint.update_of(trained.source) if re.fullmatch(r"update-\d+", trained.source.name) else None
        export = replace(export, base=places[0] if len(places) == 1 else None, run=run, update=update, component=component)
    trained.use(arguments.groups)
    model, whose = trained.model, f"{trained.source}" + ("'s teacher" if arguments.weights == "teacher" else "")
    if arguments.adapter:
        if not isinstance(model, ExportsAdapters):
            raise _lacking(model, ExportsAdapters)
        model.save_adapter(out)
        print(f"wrote the adapters of {whose} to {out}")
        return 0
    if out.suffix == ".pth":
        if not isinstance(model, ExportsTrainingFile):
            raise _lacking(model, ExportsTrainingFile)
        model.save_legacy(out)
        print(f"wrote {arguments.groups} of {whose} to {out}")
        return 0
    if arguments.verify and not isinstance(model, VerifiesExport):
        raise _lacking(model, VerifiesExport)  # before anything is written
    model.save(out)
    write_card(out, export)
    changes = model.changes(out) if isinstance(model, ReportsChanges) else []
    differences = model.verify(out) if arguments.verify and isinstance(model, VerifiesExport) else {}
    passed = _passed(differences, changes, model)
    report = {"source": str(trained.source), "weights": arguments.weights, "out": str(out), "groups": arguments.groups}
    left_out = {group: list(names) for group, names in model.left_out().items()} if isinstance(model, TellsLeftOut) else {}
    report |= {"changes": changes, "verify": differences, "left_out": left_out}
    if arguments.json:
        print(json.dumps(report | {"passed": passed}, indent=2))
    else:
        _print(report, whose, passed)
    return 0 if passed else 1


def _recipe_of_run(source: Path, base: Path | None, settings: list[str], registry: Registry) -> Recipe:
    """The recipe of the run ``source``, with its base at another place where one is named. Raises ``UserError``."""
    from core.checkpoints.trained_weights import find_checkpoint  # late: it imports torch

    run = find_checkpoint(source)[1].parent
    if wrong := [word for word in settings if not word.partition("=")[0].startswith(("model.", "data.")) or "=" not in word]:
        raise UserError(f"{wrong[0]}: an export takes settings of the model's place only, such as model.checkpoint=FOLDER")
    recipe = own_recipe(run, settings)
    if base is not None:
        recipe = own_recipe(run, [*settings, base_setting(run, recipe, base, registry)])
    if faults := check(recipe, registry):
        raise UserError(str(faults[0]))
    return recipe


def _lacking(model: Model, protocol: type) -> UserError:
    names = " and ".join(map(repr, wanted(protocol)))
    return UserError(f"the model of this recipe ({type(model).__name__}) has no method {names}, which this option needs")


def _passed(differences: dict[str, float], changes: list[dict[str, Any]], model: Model) -> bool:
    """Merged weights are rounded to the type in which they are stored or computed with, so 16-bit results are only nearly equal."""
    import torch  # late: it takes a second

    parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
    types = {row["dtype"] for row in changes} | {str(p.dtype).removeprefix("torch.") for p in parameters}
    exact = types <= {"float32"}
    limits = {"logits": EXACT, "mask_logits": EXACT, "mask_pixels": 0.0} if exact else {"logits": ROUNDED, "mask_logits": ROUNDED}
    limits["tensors"] = 0.0
    return all(differences.get(name, 0.0) <= limit for name, limit in limits.items())


def _print(report: dict[str, Any], whose: str, passed: bool) -> None:
    if report["changes"]:
        rows = [
            (row["group"], str(row["tensors"]), str(row["changed"]), row["dtype"], f"{row['bytes']:,}", f"{row['relative_norm']:.3e}")
            for row in report["changes"]
        ]
        table(("group", "tensors", "changed", "dtype", "bytes", "|new - base| / |base|"), rows)
    print(f"wrote {report['groups']} of {whose} to {report['out']}")
    if report["verify"]:
        values = ", ".join(f"{name} {value:.3g}" for name, value in report["verify"].items())
        result = "NOT EQUAL" if not passed else "it holds what was taken" if report["left_out"] else "equal"
        print(f"verified by reloading: {result} (largest differences: {values})")
    for group, names in report["left_out"].items():
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        print(
            f"LEFT OUT: {len(names)} trained tensors of {group} that {report['source']} holds ({shown}); --groups full+{group} takes them"
        )


if __name__ == "__main__":
    raise SystemExit(main())
