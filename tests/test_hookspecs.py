"""Hook docstrings are the contract, so they have a form: each says the same things in the same order."""

from __future__ import annotations

import inspect
import re

import pytest

from fscache_core.hookspecs import CacheSpec, NetfsSpec
from fscache_core.plugins import BACKEND_GROUP, MANDATORY, NETFS_GROUP

HOOKS = [
    pytest.param(group, name, function, id=f"{spec.__name__}.{name}")
    for group, spec in ((BACKEND_GROUP, CacheSpec), (NETFS_GROUP, NetfsSpec))
    for name, function in inspect.getmembers(spec, inspect.isfunction)
]
PHRASES = ("no-effect", "all-or-nothing", "may-be-partial", "shielded")
SECTION = re.compile(r"^(Called|Args|Returns|Raises|Cancellation):(.*)$")


def sections(function: object) -> dict[str, str]:
    """The text of each section of a docstring, by its name, in order; the summary under ``""``."""
    found, name = {"": ""}, ""
    for line in (inspect.getdoc(function) or "").splitlines():
        match = SECTION.match(line)
        if match:
            name = match[1]
            assert name not in found, f"{name} twice"
            found[name] = match[2]
        else:
            found[name] += "\n" + line
    return found


@pytest.mark.parametrize(("group", "name", "function"), HOOKS)
class TestDocstring:
    def test_begins_with_one_sentence(self, group: str, name: str, function: object) -> None:
        first = sections(function)[""].strip().split("\n\n")[0]
        assert first.endswith((".", ")."))
        assert first[0].isupper() or first.startswith("`")

    def test_says_mandatory_or_optional_and_agrees_with_the_check(
        self, group: str, name: str, function: object
    ) -> None:
        mark = re.search(r"^(Mandatory|Optional)[.,]", sections(function)[""], re.M)
        assert mark, "neither Mandatory nor Optional"
        assert (mark[1] == "Mandatory") == (name in MANDATORY[group])

    def test_names_its_kernel_counterpart(self, group: str, name: str, function: object) -> None:
        kernel = re.search(r"Kernel: (.+)", sections(function)[""])
        assert kernel
        if "fscache_cache_ops." in kernel[1]:
            assert f"``fscache_cache_ops.{name}``" in kernel[1]

    def test_has_the_sections_of_the_template_in_their_order(
        self, group: str, name: str, function: object
    ) -> None:
        names = [section for section in sections(function) if section]
        order = [n for n in ("Called", "Args", "Returns", "Raises", "Cancellation") if n in names]
        assert names == order
        assert names[0] == "Called"
        assert names[-1] == "Cancellation"
        for section in names:
            assert sections(function)[section].strip(), f"{section} is empty"

    def test_promises_one_of_four_things_on_cancellation(
        self, group: str, name: str, function: object
    ) -> None:
        text = sections(function)["Cancellation"].strip()
        assert text.startswith(PHRASES)
        if text.startswith("shielded"):
            assert re.search(r"\d+ seconds", text), "shielded without its bound"
        if not inspect.iscoroutinefunction(function):
            assert text.startswith("no-effect")

    def test_describes_only_arguments_that_exist(self, group: str, name: str, function: object) -> None:
        arguments = re.findall(r"^  (\w+): ", sections(function).get("Args", ""), re.M)
        assert callable(function)
        assert set(arguments) <= set(inspect.signature(function).parameters) - {"self"}

    def test_names_only_exceptions_that_exist(self, group: str, name: str, function: object) -> None:
        from fscache_core import errors

        for line in re.findall(
            r"^  ([A-Z][\w, ]*?)(?: and its kinds)?[:.]", sections(function).get("Raises", ""), re.M
        ):
            for error in line.replace(" and its kinds", "").split(", "):
                assert hasattr(errors, error), error


def test_no_two_parts_of_a_spec_have_a_hook_of_one_name() -> None:
    for spec in (CacheSpec, NetfsSpec):
        parts = [name for part in spec.__mro__[:-1] for name in vars(part) if not name.startswith("_")]
        assert len(parts) == len(set(parts))


def test_mandatory_hooks_exist() -> None:
    known = {(hook.values[0], hook.values[1]) for hook in HOOKS}
    assert {(group, name) for group, names in MANDATORY.items() for name in names} <= known


def test_every_operation_of_the_backend_api_has_its_hook() -> None:
    operations = {
        *("alloc_object", "lookup_object", "lookup_complete", "grab_object", "put_object", "lock_object"),
        *("unlock_object", "pin_object", "unpin_object", "check_consistency", "update_object"),
        *("invalidate_object", "drop_object", "sync_cache", "dissociate_pages", "attr_changed"),
        *("reserve_space", "read_or_alloc_page", "read_or_alloc_pages", "allocate_page", "allocate_pages"),
        *("write_page", "uncache_page"),
    }
    assert operations <= set(dir(CacheSpec))
