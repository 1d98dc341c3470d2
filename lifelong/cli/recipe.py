"""`lifelong recipe`: recipes as files."""

from __future__ import annotations

from typing import Annotated

import typer

from lifelong.cli.options import print_text

app = typer.Typer(help="Recipes as files.", no_args_is_help=True)


@app.callback()
def _recipe() -> None:
    """Recipes as files."""


@app.command()
def show(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name (`lifelong methods`) or a recipe file.")
    ],
) -> None:
    """A recipe's sentence and every default, as a file that `--recipe` reads."""
    from lifelong.recipes.files import show_recipe

    print_text(show_recipe(recipe))
