"""`fieldgate completion`: the script by which a shell completes commands and options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # what its own option uses

PROGRAM = "fieldgate"


class Shell(StrEnum):
    """Shells that there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="Whose script is printed.")],
) -> None:
    """Print the script by which the shell completes commands and options; it is read by the shell's start-up
    file.

    Examples: fieldgate completion bash > /etc/bash_completion.d/fieldgate;
    fieldgate completion zsh > ~/.zfunc/_fieldgate; fieldgate completion fish >
    ~/.config/fish/completions/fieldgate.fish
    """
    print(get_completion_script(prog_name=PROGRAM, complete_var=f"_{PROGRAM.upper()}_COMPLETE", shell=shell))
