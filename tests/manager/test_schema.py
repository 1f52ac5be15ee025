"""The schema of the socket: what the manager says fits it, and what is no request does not."""

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.manager.test_api import NONSENSE
from tests.rigs.commands import ran
from tests.rigs.managers import ObedientVm, configured, managing
from tests.rigs.monitored import listening
from tests.rigs.scenes import play

from dynmem.limits import API_CLIENTS_MAX, API_REQUEST_BYTES_MAX
from dynmem.manager.api.schema import schema

SCHEMA = schema()
PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "socket.md"
KINDS: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def fits(value: Any, rule: dict[str, Any]) -> bool:
    """Whether a value fits a schema: the words that ours has, and an assertion for any other."""
    known = {"$ref", "anyOf", "type", "enum", "const", "items", "properties", "required", "default", "title"}
    known |= {"description", "additionalProperties", "prefixItems", "minItems", "maxItems"}
    assert set(rule) <= known, set(rule) - known
    if "$ref" in rule:
        return fits(value, SCHEMA["$defs"][rule["$ref"].removeprefix("#/$defs/")])
    if "anyOf" in rule:
        return any(fits(value, each) for each in rule["anyOf"])
    if "const" in rule and (value != rule["const"] or type(value) is not type(rule["const"])):
        return False
    if "enum" in rule and value not in rule["enum"]:
        return False
    if "type" in rule and not isinstance(value, KINDS[rule["type"]]):
        return False
    if rule.get("type") in {"integer", "number"} and isinstance(value, bool):
        return False
    if isinstance(value, list):
        return all(fits(each, rule.get("items") or {}) for each in value)
    if isinstance(value, dict) and "properties" in rule:
        fields = rule["properties"]
        if rule.get("additionalProperties") is False and set(value) - set(fields):
            return False
        there = all(fits(each, fields[name]) for name, each in value.items() if name in fields)
        return there and set(rule.get("required", ())) <= set(value)
    return True


def request(text: bytes) -> bool:
    try:
        return fits(json.loads(text), SCHEMA["properties"]["request"])
    except (ValueError, RecursionError):
        return False


def reply_is(name: str, value: object) -> bool:
    return fits(value, {"$ref": f"#/$defs/{name}"})


def test_what_a_manager_replies_fits_the_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with (
            listening(tmp_path / "web.qmp", ObedientVm().serve),
            managing(configured(tmp_path, "enforce", "200MiB", web="", db="")) as manager,
        ):
            await manager.until(lambda status: status.totals and status.totals.sent)
            status = await manager.ask(command="status")
            assert reply_is("StatusReply", status)
            assert not reply_is("StatusReply", {**status, "budget_bytes": "much"})
            assert not reply_is("Refusal", status)
            assert reply_is("SampleReply", await manager.ask(command="sample"))
            out = (
                await asyncio.to_thread(ran, capsys, "explain", "web", "--json", "--socket", manager.socket)
            )[1]
            assert json.loads(out)["schema_version"] == 1
            assert reply_is("VmView", json.loads(out))
            assert reply_is("PauseReply", await manager.ask(command="pause", vm="web", for_ns=10**9))
            assert reply_is("ResumeReply", await manager.ask(command="resume"))
            assert reply_is("ReleaseReply", await manager.ask(command="release", vm="web"))
            assert reply_is("TakeUpReply", await manager.ask(command="take-up"))
            assert reply_is("Refusal", await manager.ask(command="release", vm="nosuch"))

    play(scenario())


RIGHT = [
    b'{"command": "status"}',
    b'{"command": "sample"}',
    b'{"command": "release"}',
    b'{"command": "release", "vm": null}',
    b'{"command": "pause", "vm": "web", "for_ns": 1}',
    b'{"command": "reserve", "name": "web", "size_bytes": 1073741824, "wait_ns": 30000000000}',
    b'{"command": "admit", "name": "web", "size_bytes": 1, "monitor": "/run/vm/web.qmp"}',
]


def test_what_is_a_request_fits_the_schema() -> None:
    assert all(request(each) for each in RIGHT)
    assert not request(b'{"command": "pause", "vm": "web"}')


@pytest.mark.parametrize("case", [each for each in NONSENSE if each != "too long"])
def test_what_is_no_request_does_not_fit(case: str) -> None:
    assert not request(NONSENSE[case])


def test_the_command_prints_it_and_every_reference_in_it_leads_somewhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = ran(capsys, "schema")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(SCHEMA))
    for name in re.findall(r'"#/\$defs/(\w+)"', out):
        assert name in SCHEMA["$defs"]


def test_the_page_has_every_request_with_its_fields_and_the_limits() -> None:
    text = PAGE.read_text()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    requests = [
        SCHEMA["$defs"][each["$ref"].rpartition("/")[2]] for each in SCHEMA["properties"]["request"]["anyOf"]
    ]
    assert len(rows) == len(requests)
    for each in requests:
        tag = each["properties"]["command"]["enum"][0]
        assert all(f"`{name}`" in rows[tag] for name in each["properties"] if name != "command")
    assert f"{API_REQUEST_BYTES_MAX} bytes" in text
    assert f"At most {API_CLIENTS_MAX} clients" in text
