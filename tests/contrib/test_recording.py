"""The recording rules: computed from metrics that exist, and what they say of a host now and in an hour."""

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.contrib.test_alerts import unknown
from tests.metrics.test_families import complete, parsed
from tests.rigs.prometheus import needs_prometheus, program

from dynmem.metrics.families import load_ratio
from dynmem.metrics.render import render
from dynmem.metrics.text import label, number
from scripts import recording

NAMES = [each.name for each in recording.RECORDED]
LOAD, NEXT = "instance:dynmem_host_load_ratio:max5m", "instance:dynmem_host_load_ratio:next1h"
WANTED, USABLE = "instance:dynmem_host_wanted_bytes:sum", "instance:dynmem_host_usable_bytes:min"
ROOM, IDLE = "instance:dynmem_host_headroom_bytes:now", "instance:dynmem_host_idle_bytes:sum"
LAST_WEEK, SOON = "instance:dynmem_host_wanted_bytes:last_week", "instance:dynmem_host_wanted_bytes:next1h"
ROOM_SOON = "instance:dynmem_host_headroom_bytes:next1h"


class Scene(NamedTuple):
    """What a host's series do, a value every five minutes, and what is recorded of it at the end.

    Attributes:
        series: The values of each series.
        expected: The value of each query then; None: it has no sample.
        hours: When the end is.
    """

    series: dict[str, str]
    expected: dict[str, float | None]
    hours: int = 2


def host(*, budget: int = 100, available: int = 90, resident: int = 60, reserved: int = 0) -> dict[str, str]:
    figures = {"budget": budget, "available": available, "resident": resident, "reserved": reserved}
    return {f"dynmem_host_{name}_bytes": f"{value}x2100" for name, value in {**figures, "slush": 4}.items()}


SCENES = {
    "neighbours hold more than they want": Scene(
        {
            **host(available=20, reserved=5),
            'dynmem_vm_wanted_bytes{vm="web"}': "30x2100",
            'dynmem_vm_resident_bytes{vm="web"}': "40x2100",
            'dynmem_vm_standing{vm="web", standing="movable"}': "1x2100",
            'dynmem_vm_wanted_bytes{vm="paused"}': "4x2100",
            'dynmem_vm_resident_bytes{vm="paused"}': "14x2100",
            'dynmem_vm_standing{vm="paused", standing="movable"}': "0x2100",
            'dynmem_vm_claim_bytes{vm="new"}': "6x2100",
            'dynmem_vm_claim_bytes{vm="web"}': "50x2100",
            "dynmem_host_load_ratio": "0.6x2100",
        },
        {USABLE: 76, WANTED: 45, ROOM: 31, IDLE: 10, LAST_WEEK: None, SOON: 45, ROOM_SOON: 31, LOAD: 0.6},
    ),
    "an empty host": Scene(host(), {WANTED: 0, ROOM: 96, ROOM_SOON: 96, NEXT: 0, IDLE: None}),
    "a host without any room": Scene(host(budget=4), {USABLE: 0, NEXT: 1}),
    "more is wanted than there is": Scene(
        {**host(), 'dynmem_vm_wanted_bytes{vm="web"}': "192x2100"}, {ROOM: -96, NEXT: 1}
    ),
    "it rose in the third hour of last week, and a VM has come since": Scene(
        {**host(), 'dynmem_vm_wanted_bytes{vm="web"}': "20x24 50x11 30x2060"},
        {WANTED: 30, LAST_WEEK: 60, SOON: 60, ROOM: 66, ROOM_SOON: 36, NEXT: 60 / 96},
        hours=170,
    ),
    "it fell in the third hour of last week": Scene(
        {**host(), 'dynmem_vm_wanted_bytes{vm="web"}': "60x23 10x12 60x2060"},
        {LAST_WEEK: 35, SOON: 60, NEXT: 60 / 96},
        hours=170,
    ),
    "its manager has been silent for twenty minutes": Scene(
        {
            **dict.fromkeys(host(), "60x20"),
            'dynmem_vm_wanted_bytes{vm="web"}': "30x20",
            "dynmem_host_load_ratio": "0.6x20",
        },
        {LOAD: None, WANTED: None, SOON: None, NEXT: None},
    ),
}


def test_the_rules_and_the_page_are_what_the_table_says() -> None:
    assert recording.rules() == recording.RULES.read_text(), "run python -m scripts.recording"
    assert recording.page() == recording.PAGE.read_text(), "run python -m scripts.recording"
    assert re.findall(r"^## (\S+)$", recording.PAGE.read_text(), re.MULTILINE) == NAMES


def test_each_metric_that_a_rule_names_exists_and_each_figure_is_computed_before_it_is_used() -> None:
    known: set[str] = set()
    for each in recording.RECORDED:
        used = set(re.findall(r"instance:\w+:\w+", each.expression))
        assert used <= known, each.name
        assert unknown(re.sub(r"instance:\w+:\w+", "", each.expression)) == []
        known.add(each.name)
    assert known == {LOAD, NEXT, WANTED, USABLE, ROOM, IDLE, LAST_WEEK, SOON, ROOM_SOON}


def described(scene: Scene) -> dict[str, object]:
    """Return a scene as a test for promtool."""
    end = f"{scene.hours}h"
    return {
        "interval": "5m",
        "input_series": [
            {
                "series": f'{name.rstrip("}")}{", " if "{" in name else "{"}instance="a", job="dynmem"}}',
                "values": values,
            }
            for name, values in scene.series.items()
        ],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": end,
                "exp_samples": []
                if value is None
                else [{"labels": f'{query if query in NAMES else ""}{{instance="a"}}', "value": value}],
            }
            for query, value in scene.expected.items()
        ],
    }


def of_a_real_status() -> Scene:
    """Return a scene with the gauges of a manager's status, whose figures must agree with its own load."""
    reply = complete()
    text = render(reply)
    gauges = {
        f"{name}{{{', '.join(label(*each) for each in labels)}}}" if labels else name: f"{number(value)}x2100"
        for (name, labels), value in parsed(text).items()
        if name.startswith("dynmem_") and not re.search(r"_(bucket|sum|count|total)$", name)
    }
    load = load_ratio(reply)
    assert load is not None
    assert 0 < load < 1
    exact = f"abs({NEXT} - {load!r}) < bool 1e-9"
    same = f"abs({ROOM} - (1 - {load!r}) * {USABLE}) < bool 1"
    return Scene(gauges, {exact: 1, same: 1})


def promtool(*arguments: str | Path) -> None:
    found = subprocess.run([program("promtool"), *arguments], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


@needs_prometheus
def test_promtool_reads_the_rules_and_each_scene_is_recorded_as_it_should_be(tmp_path: Path) -> None:
    promtool("check", "rules", recording.RULES)
    file = {
        "rule_files": [str(recording.RULES)],
        "evaluation_interval": "5m",
        "tests": [described(scene) for scene in SCENES.values()],
    }
    path = tmp_path / "recording.test.yml"
    path.write_text(json.dumps(file))
    promtool("test", "rules", path)


@needs_prometheus
def test_headroom_and_load_agree_with_what_the_manager_itself_says(tmp_path: Path) -> None:
    file = {
        "rule_files": [str(recording.RULES)],
        "evaluation_interval": "5m",
        "tests": [described(of_a_real_status())],
    }
    path = tmp_path / "status.test.yml"
    path.write_text(json.dumps(file))
    promtool("test", "rules", path)
