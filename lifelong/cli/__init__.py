"""The command line: a thin command per verb. Exit codes: 0 done, 1 input, 2 usage, 3 run,
4 a guard tripped, 130 interrupted.

A command is a function in one of the modules of this package, and a line in COMMANDS.
"""

from __future__ import annotations

import atexit
import os
import sys
import traceback
import warnings
from inspect import signature
from typing import NoReturn

import typer

from lifelong.cli.choosing import check, export, methods, select
from lifelong.cli.compare import compare
from lifelong.cli.demo import demo
from lifelong.cli.feeding import feed, init, resume, run_stream
from lifelong.cli.hub import card, merge, push
from lifelong.cli.looking import curves, digest, routes, status, why
from lifelong.cli.mmssr import app as mmssr_app
from lifelong.cli.ofa import app as ofa_app
from lifelong.cli.options import say
from lifelong.cli.recipe import app as recipe_app
from lifelong.cli.report import report
from lifelong.cli.serve import serve
from lifelong.cli.steering import accept, diff, fork, plan, retire, rollback, watch
from lifelong.cli.upkeep import fsck, gc
from lifelong.engines.launch import join
from lifelong.errors import EXIT_DONE, EXIT_INPUT, EXIT_INTERRUPTED, LifelongError

# Nothing heavy is imported by these modules: `lifelong --help` must not wait for torch.

app = typer.Typer(
    name="lifelong",
    help="Keep a vision-language model learning for as long as new instruction datasets are released.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS = {
    "init": init,
    "feed": feed,
    "run": run_stream,
    "resume": resume,
    "status": status,
    "curves": curves,
    "routes": routes,
    "why": why,
    "report": report,
    "serve": serve,
    "check": check,
    "select": select,
    "compare": compare,
    "export": export,
    "card": card,
    "merge": merge,
    "push": push,
    "methods": methods,
    "digest": digest,
    "fsck": fsck,
    "gc": gc,
    "plan": plan,
    "watch": watch,
    "fork": fork,
    "rollback": rollback,
    "accept": accept,
    "retire": retire,
    "diff": diff,
    "demo": demo,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(ofa_app, name="ofa")
app.add_typer(mmssr_app, name="mmssr")
app.add_typer(recipe_app, name="recipe")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; ends the process with the exit code of its error."""
    # OpenMP's threads wait for each other by spinning, unless told before torch is loaded. With another busy
    # process on the same cores that made small models ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # What Pillow thinks of pictures that it reads all the same, such as odd EXIF, names neither picture nor row.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    launch = join(os.environ)
    if launch is None or launch.size == 1:
        sys.exit(invoke(arguments))
    from lifelong.engines.distributed import dismiss, serve

    if launch.rank > 0:
        # The first process runs the command; this one does its share of the work.
        _leave(serve())
    code = invoke(arguments)
    dismiss()
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End a process of a launch: threads of torch.distributed abort one in a few that Python takes down around them
    ("terminate called without an active exception"), after all is done and on disk."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def invoke(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; errors go to standard error, one line each."""
    try:
        app(args=arguments)
    except SystemExit as ended:
        # How Typer ends a command: 0, 2 after it has said what is wrong with the command line, 130 at Ctrl-C.
        code = ended.code if isinstance(ended.code, int) else EXIT_DONE
        return _interrupted(arguments) if code == EXIT_INTERRUPTED else code
    except LifelongError as error:
        _trace()
        say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        _trace()
        # A path that was named on the command line, or lies beside one: the system says what is wrong with it.
        say(f"error: {error.filename2 or error.filename}: {error.strerror}")
        return EXIT_INPUT
    except KeyboardInterrupt:
        return _interrupted(arguments)
    return EXIT_DONE


def _trace() -> None:
    """Where an error comes from, for those who ask for it: LIFELONG_TRACEBACK=1."""
    if os.environ.get("LIFELONG_TRACEBACK"):
        traceback.print_exc()


def _interrupted(arguments: list[str] | None) -> int:
    command = COMMANDS.get(next(iter(sys.argv[1:] if arguments is None else arguments), ""))
    has_run = command is not None and "run" in signature(command).parameters
    goes_on = (
        "`lifelong resume RUN` goes on from the last commit" if has_run else "give the same command again"
    )
    say(f"interrupted; {goes_on}")
    return EXIT_INTERRUPTED
