"""Make the rooms of this repository importable as ``icqa.utils``, ``icqa.models`` and so on.

The repository runs in place, where its packages have short names (``utils``, ``models``, ``data``). An installed package, or a
repository that torch.hub loads into somebody's program, must not take these names: that program often has a ``utils`` of its
own. So the files are compiled here once more, under the package ``icqa``, with their imports of one another changed to match.
The files themselves stay the same, in place and installed.
"""

import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

PACKAGE = __name__.rpartition(".")[0]
HOME = Path(__file__).resolve().parent  # where the rooms lie in an installed package;
if not (HOME / "utils").is_dir():
    HOME = HOME.parent  # in the repository they lie beside it
ROOMS = ("utils", "models", "data", "training", "inference", "evaluation", "baselines", "report", "tools")
SCRIPTS = tuple(path.stem for pattern in ("infer_*.py", "train_*.py", "evaluate.py") for path in HOME.glob(pattern))
_IMPORT = re.compile(rf"^(\s*(?:from|import) )(?=(?:{'|'.join((*ROOMS, *SCRIPTS))})\b)", re.MULTILINE)


class _Loader(SourceFileLoader):
    """Compile a file with the imports of its neighbors changed; nothing is cached, so that the cache in place stays right."""

    def get_code(self, fullname: str) -> CodeType:
        source = _IMPORT.sub(rf"\1{PACKAGE}.", self.get_data(self.path).decode())
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    """Find ``icqa.ROOM`` and what lies below it in the folders of the rooms."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != PACKAGE or name.partition(".")[0] not in (*ROOMS, *SCRIPTS):
            return None
        file = HOME.joinpath(*name.split("."))
        if file.is_dir():
            init = file / "__init__.py"
            return spec_from_file_location(
                fullname, init, loader=_Loader(fullname, str(init)), submodule_search_locations=[str(file)]
            )
        file = file.with_suffix(".py")
        return spec_from_file_location(fullname, file, loader=_Loader(fullname, str(file))) if file.is_file() else None


def open_rooms() -> None:
    """Let ``import icqa.models`` work from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
