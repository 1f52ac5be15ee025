"""The alert rules: each has a section in the runbooks, names metrics that exist, and fires when it should."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from tests.rigs.prometheus import needs_prometheus, program

from dynmem.metrics.families import FAMILIES, Family
from scripts import alerts

FAMILY = {family.name: family for family in FAMILIES}
NAME = re.compile(r"\bdynmem_[a-z_]+\b(?:\{([^}]*)\})?")
ALERT = {alert.name: alert for alert in alerts.ALERTS}
INSTANCE = 'instance="a", job="dynmem"'


def family(name: str) -> Family | None:
    return FAMILY.get(name) or FAMILY.get(re.sub(r"_(bucket|sum|count)$", "", name))


def unknown(expression: str) -> list[str]:
    """Return the metrics, and the labels of metrics, that a query names and that do not exist."""
    found = []
    for match in NAME.finditer(expression):
        name = match[0].partition("{")[0]
        known = family(name)
        if known is None:
            found.append(name)
            continue
        labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", match[1] or "")
        found += [f"{name}{{{each}}}" for each in labels if each not in {*known.labels, "instance", "job"}]
    return found


def test_the_rules_and_the_runbooks_are_what_the_table_says() -> None:
    assert alerts.rules() == alerts.RULES.read_text(), "run python -m scripts.alerts"
    assert alerts.page() == alerts.PAGE.read_text(), "run python -m scripts.alerts"


def test_each_alert_has_a_section_with_steps_and_a_link_to_it() -> None:
    assert len(ALERT) == len(alerts.ALERTS) > 10
    sections = re.findall(r"^## (\w+)$", alerts.PAGE.read_text(), re.MULTILINE)
    assert sections == list(ALERT)
    links = re.findall(r'runbook_url: "docs/runbooks\.md#(\w+)"', alerts.RULES.read_text())
    assert links == [name.lower() for name in sections]
    assert all(alert.steps and alert.severity in {"critical", "warning"} for alert in alerts.ALERTS)


@pytest.mark.parametrize("name", ALERT)
def test_each_metric_that_a_rule_names_exists(name: str) -> None:
    assert unknown(ALERT[name].expression) == []


def test_a_metric_or_a_label_that_does_not_exist_is_found() -> None:
    wrong = 'dynmem_vm_size_bytes > dynmem_vm_state{stat="silent"} and dynmem_sweep_seconds_bucket{le="1"}'
    assert unknown(wrong) == ["dynmem_vm_size_bytes", "dynmem_vm_state{stat}"]


# What each series does, a value a minute, when an alert is to fire, and when it is not.
SCENES = {
    "DynmemDown": ({"up": "0x60"}, {"up": "1x60"}),
    "DynmemStalled": (
        {"dynmem_last_sweep_timestamp_seconds": "0x60", "dynmem_period_seconds": "1x60"},
        {"dynmem_last_sweep_timestamp_seconds": "0+60x60", "dynmem_period_seconds": "1x60"},
    ),
    "DynmemBudgetExceeded": ({"dynmem_host_emergency": "1x60"}, {"dynmem_host_emergency": "0 1 0 1 0x60"}),
    "DynmemHostPressure": (
        {'dynmem_host_pressure_ratio{kind="full"}': "0.06x60"},
        {
            'dynmem_host_pressure_ratio{kind="full"}': "0.01x60",
            'dynmem_host_pressure_ratio{kind="some"}': "0.5x60",
        },
    ),
    "DynmemHostFull": ({"dynmem_host_load_ratio": "1x60"}, {"dynmem_host_load_ratio": "0.99x60"}),
    "DynmemBalloonFirst": (
        {
            'dynmem_vm_resident_bytes{vm="web"}': "60x60",
            'dynmem_vm_wanted_bytes{vm="web"}': "20x60",
            'dynmem_vm_standing{vm="web", standing="movable"}': "1x60",
            "dynmem_host_total_bytes": "100x60",
            "dynmem_host_available_bytes": "10x60",
            "dynmem_host_load_ratio": "0.4x60",
        },
        {
            'dynmem_vm_resident_bytes{vm="web"}': "60x60",
            'dynmem_vm_wanted_bytes{vm="web"}': "20x60",
            'dynmem_vm_standing{vm="web", standing="movable"}': "0x60",  # it is paused: it gives nothing
            "dynmem_host_total_bytes": "100x60",
            "dynmem_host_available_bytes": "10x60",
            "dynmem_host_load_ratio": "0.4x60",
        },
    ),
    "DynmemVmUnmetDemand": (
        {'dynmem_vm_unmet_demand_byte_seconds_total{vm="web"}': "0+6000000000x60"},  # 100 MB for 60 s
        {'dynmem_vm_unmet_demand_byte_seconds_total{vm="web"}': "0+600000000x60"},
    ),
    "DynmemVmStuck": (
        {
            'dynmem_vm_assigned_bytes{vm="web"}': "1000000000x60",
            'dynmem_vm_actual_bytes{vm="web"}': "500000000x60",
            'dynmem_vm_standing{vm="web", standing="movable"}': "1x60",
        },
        {
            'dynmem_vm_assigned_bytes{vm="web"}': "1000000000x60",
            'dynmem_vm_actual_bytes{vm="web"}': "500000000x60",
            'dynmem_vm_standing{vm="web", standing="movable"}': "0x60",  # it is released, or paused
        },
    ),
    "DynmemReportsStale": (
        {
            'dynmem_vm_report_age_seconds{vm="web"}': "0+60x60",
            'dynmem_vm_state{vm="web", state="running"}': "1x60",
            "dynmem_period_seconds": "1x60",
        },
        {
            'dynmem_vm_report_age_seconds{vm="web"}': "500x60",
            'dynmem_vm_state{vm="web", state="running"}': "1x60",
            "dynmem_period_seconds": "60x60",  # its guest is asked once a minute
        },
    ),
    "DynmemVmSilent": (
        {'dynmem_vm_state{vm="web", state="silent"}': "1x60"},
        {'dynmem_vm_state{vm="web", state="silent"}': "0x60"},
    ),
    "DynmemVmProblem": (
        {'dynmem_vm_problem{vm="web"}': "1x60", 'dynmem_vm_up{vm="web"}': "1x60"},
        {'dynmem_vm_problem{vm="web"}': "1x60", 'dynmem_vm_up{vm="web"}': "0x60"},  # it does not run
    ),
    "DynmemCommandsFail": (
        {'dynmem_commands_total{result="failed"}': "0+1x60", 'dynmem_commands_total{result="sent"}': "0x60"},
        {'dynmem_commands_total{result="failed"}': "0x60", 'dynmem_commands_total{result="sent"}': "0+9x60"},
    ),
    "DynmemLastResort": ({"dynmem_last_resorts_total": "0x20 1x40"}, {"dynmem_last_resorts_total": "1x60"}),
    "DynmemJournalNotWritable": ({"dynmem_journal_writable": "0x60"}, {"dynmem_journal_writable": "1x60"}),
    "DynmemHistoryNotWritable": ({"dynmem_history_writable": "0x60"}, {"dynmem_history_writable": "1x60"}),
    "DynmemConfigNotInForce": ({"dynmem_config_in_force": "0x60"}, {"dynmem_config_in_force": "1x60"}),
    "DynmemSlowDecisions": (
        {
            'dynmem_decision_seconds_bucket{le="1.0"}': "0+50x60",
            'dynmem_decision_seconds_bucket{le="2.5"}': "0+60x60",
            'dynmem_decision_seconds_bucket{le="+Inf"}': "0+60x60",
        },
        {
            'dynmem_decision_seconds_bucket{le="1.0"}': "0+60x60",
            'dynmem_decision_seconds_bucket{le="2.5"}': "0+60x60",
            'dynmem_decision_seconds_bucket{le="+Inf"}': "0+60x60",
        },
    ),
}


def test_each_alert_has_a_scene_whose_series_exist() -> None:
    assert list(SCENES) == list(ALERT)
    for scenes in SCENES.values():
        for series in (*scenes[0], *scenes[1]):
            assert series == "up" or unknown(series) == []


def scene(name: str, values: dict[str, str], *, fires: bool) -> dict[str, object]:
    """Return a test for promtool: after 50 minutes of these values, does this alert fire, and no other?"""
    series = [
        {
            "series": f"{each[:-1]}, {INSTANCE}}}" if each.endswith("}") else f"{each}{{{INSTANCE}}}",
            "values": value,
        }
        for each, value in values.items()
    ]
    return {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertstate="firing", alertname="{other}"}}) or vector(0)',
                "eval_time": "50m",
                "exp_samples": [{"labels": "{}", "value": int(fires and other == name)}],
            }
            for other in ALERT
        ],
    }


@needs_prometheus
def test_promtool_reads_the_rules_and_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    tests = [
        scene(name, scenes[not fires], fires=fires)
        for name, scenes in SCENES.items()
        for fires in (True, False)
    ]
    file = {"rule_files": [str(alerts.RULES)], "evaluation_interval": "1m", "tests": tests}
    path = tmp_path / "alerts.test.yml"
    path.write_text(json.dumps(file))
    for arguments in (("check", "rules", alerts.RULES), ("test", "rules", path)):
        found = subprocess.run([program("promtool"), *arguments], check=False, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout + found.stderr
