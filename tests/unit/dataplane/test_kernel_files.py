# SPDX-License-Identifier: Apache-2.0
"""What stands twice, in .py and .pxd, is the same; and what the C compiler has to know is declared."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from kernel_forms import KERNEL, ROOT
from sevpn.dataplane.kernel import constants, primitives
from sevpn.wire import block

MODULES = ("cut", "merge", "rc4", "receive", "runs", "scan", "wrap")

WITHOUT_CLASSES = {"rc4", "wrap"}
"""Modules of functions alone, without numbers of the kernel's."""

TURN = ("dataplane/compiled", "dataplane/pump", "dataplane/sieve", "transport/stream")
"""What calls the kernel; its types are declared as far as they pay."""

ADDED_BY_C = {"EAGAIN", "EBADFD", "ALL_BITS", "KEEPALIVE_MARK"}
"""Numbers that the .pxd takes from C's headers, or writes as C does."""


def source(name: str) -> str:
    return (KERNEL / name).read_text("utf-8")


def numbers_of_c() -> dict[str, int]:
    """The numbers of constants.pxd: those of its enumeration, and its macros."""
    text = source("constants.pxd")
    found = re.findall(r"^    (\w+) = (\w+)$", text, re.MULTILINE)
    found += re.findall(r"#define (\w+) (\w+)u$", text, re.MULTILINE)
    return {name: int(value, 0) for name, value in found}


def numbers_of_python() -> dict[str, int]:
    return {
        name: value
        for name, value in vars(constants).items()
        if name.isupper() and isinstance(value, int)
    }


def test_both_files_of_constants_hold_the_same_numbers() -> None:
    ours = numbers_of_python()
    assert len(ours) >= 50

    assert numbers_of_c() | {"EAGAIN": ours["EAGAIN"], "EBADFD": ours["EBADFD"]} == ours


def test_each_number_that_is_no_enumerator_is_declared_all_the_same() -> None:
    text = source("constants.pxd")

    for name in ADDED_BY_C:
        assert re.search(rf"^    const (unsigned )?int {name}$", text, re.MULTILINE)


def test_the_limits_are_those_of_the_protocol() -> None:
    assert constants.MAX_BLOCK == block.MAX_BLOCK_SIZE
    assert constants.MAX_FRAME == block.MAX_FRAME_SIZE
    assert constants.MIN_FRAME == block.MIN_FRAME_SIZE
    assert constants.MAX_KEEPALIVE == block.MAX_KEEPALIVE_SIZE
    assert constants.FULL_BATCH == block.FULL_BATCH
    assert constants.KEEPALIVE_MARK == block.KEEPALIVE_MARK


def test_both_files_of_primitives_have_the_same_functions() -> None:
    declared = dict(
        re.findall(
            r"^cdef inline [\w ]*?(\w+)\((.*)\)(?: noexcept nogil)?:$",
            source("primitives.pxd"),
            re.MULTILINE,
        )
    )

    assert sorted(declared) == sorted(primitives.__all__)
    for name, parameters in declared.items():
        ours = list(inspect.signature(getattr(primitives, name)).parameters)
        assert [one.split()[-1].lstrip("*") for one in parameters.split(",")] == ours


# --- modules -----------------------------------------------------------------


class Declared:
    """What a .pxd says of one class."""

    def __init__(self, text: str) -> None:
        self.attributes = set(
            re.findall(r"^    cdef (?:readonly )?[^(\n]*?\*?(\w+)$", text, re.MULTILINE)
        )
        self.methods: dict[str, tuple[list[str], set[str]]] = {}
        """Of each method its parameters, and the locals whose type is said."""
        pattern = re.compile(
            r"(?:^    @cython\.locals\((?P<locals>(?:[^()]|\n)*)\)\n)?"
            r"^    c(?:p?)def (?P<head>[^(\n]*?)(?P<name>\w+)\((?P<parameters>[^)]*)\)",
            re.MULTILINE,
        )
        for match in pattern.finditer(text):
            parameters = [
                one.split()[-1].lstrip("*")
                for one in match["parameters"].split(",")
                if one.strip()
            ]
            typed = set(re.findall(r"(\w+)=", match["locals"] or ""))
            self.methods[match["name"]] = (parameters, typed)


def text_of(module: str, end: str) -> str:
    """Return the text of a file of the kernel, or of the turn."""
    folder = ROOT / "src/sevpn" if module in TURN else KERNEL
    return (folder / f"{module}.{end}").read_text("utf-8")


def classes_of_pxd(module: str) -> dict[str, Declared]:
    parts = re.split(
        r"^cdef class (\w+):\n", text_of(module, "pxd"), flags=re.MULTILINE
    )
    return {
        name: Declared(text)
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def classes_of_python(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(text_of(module, "py"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def assigned_attributes(node: ast.ClassDef) -> set[str]:
    return {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute)
        and isinstance(part.ctx, ast.Store)
        and isinstance(part.value, ast.Name)
        and part.value.id == "self"
    }


def methods_of(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {
        part.name: part
        for part in node.body
        if isinstance(part, ast.FunctionDef) and part.name != "__init__"
    }


def assigned_locals(method: ast.FunctionDef) -> set[str]:
    return {
        part.id
        for part in ast.walk(method)
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }


@pytest.mark.parametrize("module", MODULES)
def test_each_class_is_declared(module: str) -> None:
    found = list(classes_of_python(module))
    assert list(classes_of_pxd(module)) == found
    assert found or module in WITHOUT_CLASSES


@pytest.mark.parametrize("module", MODULES)
def test_each_attribute_is_declared_and_none_is_declared_in_vain(module: str) -> None:
    for name, node in classes_of_python(module).items():
        assert classes_of_pxd(module)[name].attributes == assigned_attributes(node)


@pytest.mark.parametrize("module", MODULES)
def test_each_method_is_declared_with_its_parameters(module: str) -> None:
    for name, node in classes_of_python(module).items():
        declared = classes_of_pxd(module)[name].methods
        methods = methods_of(node)
        assert sorted(declared) == sorted(methods)
        for method in methods.values():
            parameters = [argument.arg for argument in method.args.args]
            assert declared[method.name][0] == parameters, method.name


@pytest.mark.parametrize("module", TURN)
def test_each_attribute_of_the_turn_is_declared(module: str) -> None:
    # One that is missing is an error only when it is first assigned.
    python = classes_of_python(module)
    for name, declared in classes_of_pxd(module).items():
        properties = {
            part.name
            for part in python[name].body
            if isinstance(part, ast.FunctionDef) and part.decorator_list
        }
        assert declared.attributes == assigned_attributes(python[name]) - properties


@pytest.mark.parametrize("module", TURN)
def test_what_is_declared_of_the_turn_is_there(module: str) -> None:
    python = classes_of_python(module)
    for name, declared in classes_of_pxd(module).items():
        methods = methods_of(python[name])
        for method, (parameters, typed) in declared.methods.items():
            node = methods[method].args
            ours = [one.arg for one in (*node.posonlyargs, *node.args)]
            assert parameters == ours, method
            # What is declared in vain hides that something was renamed.
            assert typed <= assigned_locals(methods[method]), method


@pytest.mark.parametrize("module", MODULES)
def test_each_local_of_a_loop_without_the_lock_has_a_type(module: str) -> None:
    text = source(f"{module}.pxd")
    for name, node in classes_of_python(module).items():
        declared = classes_of_pxd(module)[name].methods
        for method in methods_of(node).values():
            parameters, typed = declared[method.name]
            # What is declared in vain hides that something was renamed.
            assert typed <= assigned_locals(method), method.name
            if re.search(rf"\b{method.name}\([^)]*\) noexcept nogil", text):
                assert assigned_locals(method) <= typed | set(parameters), method.name


@pytest.mark.parametrize("module", MODULES)
def test_each_number_that_a_module_uses_has_a_form_in_c(module: str) -> None:
    names = [
        alias.name
        for node in ast.walk(ast.parse(source(f"{module}.py")))
        if isinstance(node, ast.ImportFrom)
        and node.module == "sevpn.dataplane.kernel.constants"
        for alias in node.names
    ]
    c = numbers_of_c() | dict.fromkeys(ADDED_BY_C, 0)

    assert names or module in WITHOUT_CLASSES
    assert set(names) <= set(c)


def test_the_kernel_is_these_files_and_no_others() -> None:
    names = {
        path.name for path in Path(KERNEL).iterdir() if path.suffix in {".py", ".pxd"}
    }
    pairs = {"constants", "primitives", *MODULES}

    assert names == {f"{name}.{end}" for name in pairs for end in ("py", "pxd")} | {
        "__init__.py",
        "interpreted.py",
    }
