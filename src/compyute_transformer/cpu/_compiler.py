"""Shared: a compiler for kernels that optimizes and emits the code of each once, within the kernel.

Numba compiles what a kernel calls, and the body of each of its parallel loops with two wrappers around it, as functions
that could be called alone, and again within the kernel: the body of attention's forward was optimized and emitted five
times. Here these parts are only linked into the kernel that runs them, and what follows from there is done once for all
of it. The first start of `compyute train --preset cpu` fell from 53 to 32 s, that of `generate` from 26 to 15 (one run
each, 2 cores of a Zen 3, 2026-11-28); the kernels are as fast as before.

That also decides which code runs. Both copies of a part had one name, for which the linker took the code that was
loaded first, and they differed in their last bits: the process that compiled the kernels gave other results than all
later ones, and what a process had run before decided too. Whatever else has a name in a kernel is hidden in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import numba
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.typed_passes import NoPythonSupportedFeatureValidation

__all__ = ["KernelCompiler", "part_compiler"]

F = TypeVar("F", bound=Callable[..., Any])

# How the names of the libraries begin that Numba makes for the body of a parallel loop and for its wrappers.
LOOPS = ("__numba_parfor_gufunc", "<numba.np.ufunc.wrappers._GufuncWrapper", "parallelgufuncwrapper")


class _NoEnvironments:
    """Stands for the code generator where Numba tells a function its environment: a part has no place for it yet."""

    def set_env(self, name: str, environment: Any) -> None:
        pass


class _Part(JITCodeLibrary):  # type: ignore[misc]
    """Code that only kernels run: it is linked into them as it is."""

    codegen = _NoEnvironments()

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0


class _Kernel(JITCodeLibrary):  # type: ignore[misc]
    """A kernel, which runs its own copy of everything that it calls."""

    def _optimize_final_module(self) -> None:
        super()._optimize_final_module()
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage.name.startswith(("linkonce", "weak")):
                function.linkage = "internal"


@register_pass(mutates_CFG=False, analysis_only=True)
class _IntoKernel(FunctionPass):  # type: ignore[misc]
    _name = "compyute_into_kernel"

    def __init__(self) -> None:
        FunctionPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        state.library = _Kernel(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return False


@register_pass(mutates_CFG=False, analysis_only=True)
class _IntoPart(FunctionPass):  # type: ignore[misc]
    _name = "compyute_into_part"

    def __init__(self) -> None:
        FunctionPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        return False


@contextmanager
def _loops_are_parts(codegen: Any) -> Iterator[None]:
    """Within a `with` block, what Numba makes for parallel loops is a part."""
    create = codegen.create_library

    def create_part_or(name: str, **more: Any) -> Any:
        return _Part(codegen, name) if name.startswith(LOOPS) else create(name, **more)

    codegen.create_library = create_part_or
    try:
        yield
    finally:
        codegen.create_library = create


class KernelCompiler(CompilerBase):  # type: ignore[misc]
    """Compiles what is called from Python, and by other kernels."""

    into: type[FunctionPass] = _IntoKernel

    def define_pipelines(self) -> list[Any]:
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.add_pass_after(self.into, NoPythonSupportedFeatureValidation)
        manager.finalize()
        return [manager]

    def compile_extra(self, function: Any) -> Any:
        with _loops_are_parts(self.state.targetctx.codegen()):
            return super().compile_extra(function)


class _PartCompiler(KernelCompiler):
    into = _IntoPart


def part_compiler(**options: Any) -> Callable[[F], F]:
    """Return a decorator that compiles what only kernels call, as a part of each of them."""

    def compile(function: F) -> F:
        part: Any = numba.njit(pipeline_class=_PartCompiler, error_model="numpy", nogil=True, **options)(function)

        def refuse(*_: object) -> NoReturn:
            raise TypeError(
                f"{function.__name__} is a part of kernels, which alone can call it; it was called from Python."
            )

        # Numba notes there what Python may call, and asks here where it has noted nothing
        part._insert, part._compile_for_args = lambda *_, **__: None, refuse
        compiled: F = part
        return compiled

    return compile
