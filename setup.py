"""Build the package with what the program reads from a clone, so that it also finds it where it is installed."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = ["requirements.lock", "README.md", *Path("conf").rglob("*.yaml"), *Path("docs").glob("*.md")]


class BuildWithResources(build_py):
    """Copy the files into the package, except for an editable installation, which reads those of the clone."""

    def run(self) -> None:
        super().run()
        for file in [] if self.editable_mode else FILES:
            target = Path(self.build_lib, "experiments", file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


setup(cmdclass={"build_py": BuildWithResources})
