"""Recipes: YAML files that say which components do the work, and with which numbers."""

from core.recipe.differing import differing
from core.recipe.faults import Fault, KeyPath, path_text
from core.recipe.json_schema import json_schema
from core.recipe.recipe import Recipe, build, built_keys, check, components_used, load, local_files, moving_numbers, path_report, paths_in
from core.recipe.resolved import default_values, resolved_values, resolved_yaml

__all__ = [
    "Fault",
    "KeyPath",
    "Recipe",
    "build",
    "built_keys",
    "check",
    "components_used",
    "default_values",
    "differing",
    "json_schema",
    "load",
    "local_files",
    "moving_numbers",
    "path_report",
    "path_text",
    "paths_in",
    "resolved_values",
    "resolved_yaml",
]
