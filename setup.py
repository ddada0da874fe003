"""The compiled half of the package, optional: without a C compiler the plain Python twins do the same work, slower."""

import subprocess

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, ExecError

FAST = [
    Extension(
        "witnz.core._fast",
        ["witnz/core/_fast.pyx"],
        depends=["witnz/core/_sha256_lanes.h", "witnz/core/_sha256_kernel.h", "witnz/core/_packed_hashes.h"],
        include_dirs=["witnz/core"],
        extra_compile_args=["-O2"],  # with -O3 GCC spills more of the lanes to memory
        libraries=["dl"],
        optional=True,
    ),
    Extension("witnz.postgres._fast_tuples", ["witnz/postgres/_fast_tuples.pyx"], optional=True),
    Extension("witnz.postgres._fast_copy", ["witnz/postgres/_fast_copy.pyx"], libraries=["dl"], optional=True),
]


class OptionalBuild(build_ext):
    """Whatever keeps a compiler from its work is no reason not to install."""

    def build_extensions(self) -> None:
        self.extensions = [extension for extension in self.extensions if self._built(extension)]

    def _built(self, extension: Extension) -> bool:
        try:
            self.build_extension(extension)
        except (BaseError, CCompilerError, ExecError, OSError, subprocess.CalledProcessError) as error:
            self.warn(f"{extension.name} was not compiled, the plain Python of the same is used: {error}")
            return False
        return True


setup(ext_modules=cythonize(FAST, build_dir="build"), cmdclass={"build_ext": OptionalBuild})
