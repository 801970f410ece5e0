"""The command ``icqa``: ``icqa score FOLDER``, and every script of the repository by its name."""

import runpy
import sys

from icqa.rooms import HOME, PACKAGE

_COMMANDS = {"score": "infer_PR"}  # shorter names of what most people run


def scripts() -> dict[str, str]:
    """Return the scripts by the names that they are called by."""
    names = sorted(path.stem for path in HOME.glob("*.py") if path.stem.startswith(("infer_", "train_", "evaluate", "cross_")))
    return _COMMANDS | {name: name for name in names}


def main() -> None:
    """Run the script that the first argument names with the arguments after it."""
    known = scripts()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in known:
        text = f"usage: icqa {{{','.join(known)}}} [arguments]\n\nicqa score FOLDER scores the images of a folder."
        if name in ("-h", "--help"):
            print(text)
            sys.exit()
        sys.exit(f"icqa: error: expected one of {', '.join(known)}, got {name or 'nothing'}")
    sys.argv = [f"icqa {name}", *sys.argv[2:]]
    try:
        runpy.run_module(f"{PACKAGE}.{known[name]}", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if (error.name or PACKAGE).partition(".")[0] == PACKAGE:
            raise
        sys.exit(
            f"icqa: error: this needs the package {error.name}; pip install 'icqa[train]' brings what scoring does not need"
        )
