"""What pyproject.toml cannot say: the scripts at the top of the repository belong into the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SCRIPTS = [*ROOT.glob("train_*.py"), *ROOT.glob("infer_*.py"), ROOT / "evaluate.py"]


class BuildWithScripts(build_py):
    """Copy the scripts beside the rooms, where icqa/command.py finds them."""

    def run(self) -> None:
        super().run()
        for script in SCRIPTS:
            self.copy_file(str(script), str(Path(self.build_lib) / "icqa" / script.name))


setup(cmdclass={"build_py": BuildWithScripts})
