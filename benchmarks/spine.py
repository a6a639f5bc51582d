"""Count the files and hand-over types between `ai_core/main.py` and the WAV.

python benchmarks/spine.py [ROOT] [--json]

ROOT is a checkout of the project, by default this one; run it with that checkout's own Python. The script answers one question
with `ai_core/main.py` and looks at the stack at four moments: the tagger's forward pass starts, the engine is asked to speak,
realisation starts, and the WAV writer is entered. A stack goes through threads and tasks to the code that started them.

The spine is `ai_core/main.py` and the files of our packages on those stacks. Hand-over types are our classes that the functions on
them take or return, by their annotations.
"""

import argparse
import ast
import asyncio
import concurrent.futures
import contextlib
import json
import os
import runpy
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PACKAGES = ("ai_core", "prosody_tagger", "synth", "api")
MOMENTS = {
    "forward": (
        ("onnxruntime/capi/onnxruntime_inference_collection.py", "run"),
        ("transformers/models/gpt2/modeling_gpt2.py", "forward"),  # before the tagger ran without torch
    ),
    "engine": (("synth/embedded/espeak.py", "speak"),),
    "realisation": (("synth/acoustics/realise.py", "realise"),),
    "writer": (("encoding.py", "encode"),),
}
"""Ends of paths of files, and the name of a function in each: the moment is when one of these functions is called."""

Stack = tuple[CodeType, ...]


class Recorder:
    """The stacks at the moments, including those of the threads and tasks that started the code."""

    def __init__(self, root: Path) -> None:
        self.stacks: dict[str, set[CodeType]] = {}
        self._root = str(root) + os.sep
        self._parent = threading.local()
        self._task_parents: dict[int, Stack] = {}

    def install(self) -> None:
        """Watch calls, and remember who starts a thread, a job of a pool or a task."""
        start, submit = threading.Thread.start, concurrent.futures.ThreadPoolExecutor.submit
        create_task = asyncio.BaseEventLoop.create_task

        def started(thread: threading.Thread) -> None:
            thread.run = self._below(thread.run, self._stack())  # type: ignore[method-assign]
            start(thread)

        def submitted(pool: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return submit(pool, self._below(function, self._stack()), *args, **kwargs)

        def created(loop: Any, coroutine: Any, **kwargs: Any) -> Any:
            task = create_task(loop, coroutine, **kwargs)
            self._task_parents[id(task)] = self._stack()
            return task

        threading.Thread.start = started  # type: ignore[method-assign]
        concurrent.futures.ThreadPoolExecutor.submit = submitted  # type: ignore[method-assign,assignment]
        asyncio.BaseEventLoop.create_task = created  # type: ignore[method-assign]
        threading.setprofile(self._watch)
        sys.setprofile(self._watch)

    def _below(self, function: Callable[..., Any], parent: Stack) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            before = getattr(self._parent, "stack", ())
            self._parent.stack = parent
            try:
                return function(*args, **kwargs)
            finally:
                self._parent.stack = before

        return run

    def _watch(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        for moment, functions in MOMENTS.items():
            if any(code.co_name == name and code.co_filename.endswith(file) for file, name in functions):
                self.stacks.setdefault(moment, set()).update(self._stack(frame))

    def _stack(self, frame: FrameType | None = None) -> Stack:
        codes = []
        at: FrameType | None = frame or sys._getframe(1)
        while at is not None:
            if at.f_code.co_filename.startswith(tuple(self._root + package + os.sep for package in PACKAGES)):
                codes.append(at.f_code)
            at = at.f_back
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        above = self._task_parents.get(id(task), ()) if task else ()
        return (*codes, *above, *getattr(self._parent, "stack", ()))


def annotated(code: CodeType, root: Path) -> set[str]:
    """Our classes in the annotations of the function that ``code`` belongs to, except that of `self`."""
    tree = ast.parse(Path(code.co_filename).read_text())
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name != code.co_name:
            continue
        if code.co_firstlineno in {node.lineno, *(decorator.lineno for decorator in node.decorator_list)}:
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            found = set().union(*(names(each.annotation) for each in every), names(node.returns))
            return {name for name in found if is_ours(name, tree, root)}
    return set()


def is_ours(name: str, tree: ast.Module, root: Path) -> bool:
    """Whether a name in a module means a class of our packages, defined there or imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.ImportFrom) and node.module and any((each.asname or each.name) == name for each in node.names):
            path = root.joinpath(*node.module.split("."))
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if file.exists():
                    return is_ours(name, ast.parse(file.read_text()), root)
    return False


def names(annotation: ast.expr | None) -> set[str]:
    """The last part of every dotted name in an annotation, quoted ones included."""
    found = set()
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name) and annotation.value.id == "Annotated":
        annotation = annotation.slice.elts[0] if isinstance(annotation.slice, ast.Tuple) else annotation.slice
    for node in ast.walk(annotation) if annotation is not None else ():
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            with contextlib.suppress(SyntaxError):  # a string that is no annotation, as in Literal["some text"]
                found |= names(ast.parse(node.value, mode="eval").body)
    return found


def spine(root: Path) -> dict[str, Any]:
    """Run the main job of the checkout and describe its spine."""
    sys.path.insert(0, str(root))
    recorder = Recorder(root)
    recorder.install()
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        sys.argv = ["main.py", "-i", "How much?", "-p", "30% savings", "-o", f"{folder}/a.wav"]
        shown, sys.stdout = sys.stdout, nowhere
        try:
            runpy.run_path(str(root / "ai_core" / "main.py"), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
            sys.stdout = shown
    missed = set(MOMENTS) - set(recorder.stacks)
    if missed:
        sys.exit(f"not reached: {', '.join(sorted(missed))}; name the new place in MOMENTS")
    codes = set().union(*recorder.stacks.values())
    files = {os.path.relpath(code.co_filename, root) for code in codes} | {"ai_core/main.py"}
    types = set().union(*(annotated(code, root) for code in codes))
    lines = {file: len((root / file).read_text().splitlines()) for file in sorted(files)}
    moments = {
        moment: sorted({f"{os.path.relpath(code.co_filename, root)}:{code.co_name}" for code in found})
        for moment, found in recorder.stacks.items()
    }
    return {"files": lines, "types": sorted(types), "moments": moments}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = spine(asked.root.resolve())
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{len(found['files'])} files")
    for file, count in found["files"].items():
        print(f"  {count:4d}  {file}")
    print(f"{len(found['types'])} hand-over types: {', '.join(found['types'])}")


if __name__ == "__main__":
    main()
