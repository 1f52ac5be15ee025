"""Write docs/metrics.md, the metrics of the manager: ``python -m scripts.metrics [--print]``."""

from collections.abc import Iterator, Sequence

from scripts.page import finish

from dynmem.limits import METRICS_CLIENTS_MAX
from dynmem.metrics.families import HOST, VMS, Family

INTRO = """# Metrics

Written by `scripts/metrics.py` from the table in `src/dynmem/metrics/families.py`; a test holds the two
equal.

## Three ways to read them

**Over HTTP.** Name an address in the manager's file, and Prometheus the same:

```toml
[manager]
metrics = "127.0.0.1:9737"
```

```yaml
scrape_configs:
  - job_name: dynmem
    static_configs:
      - targets: ["localhost:9737"]
```

It is off by default. There is no password and no TLS: every program that reaches the address can read
the names and sizes of all VMs, and change nothing. So keep it on the loopback address, or on a network
of your own; `dynmem run` warns about any other address than the loopback's. A reply has at most
{clients} readers at once and a few seconds for each, and all who ask within the same second share one
rendering. An address that cannot be had is reported in the log, and the VMs are served all the same.
SIGHUP puts another address in force.

**As a file** for node_exporter's textfile collector, where nothing else is scraped: with
`contrib/systemd/dynmem-metrics.timer` and its service, every 15 s, into the folder of Debian's package. What
they run is this:

```sh
dynmem metrics --textfile /var/lib/prometheus/node-exporter/dynmem.prom
```

The file is replaced all at once. When no manager replies the command fails and the old file stays:
`dynmem_last_sweep_timestamp_seconds` says how old its figures are.

**By hand**: `dynmem metrics` prints them once, from the manager's socket.

## What they mean

Sizes are in bytes, times in seconds, ratios have 1 for the whole, and what only grows ends in `_total`.
What is not known has no sample: it is never shown as 0 or -1. `vm` is the VM's name in the manager's file.
What describes a VM in words stands in `dynmem_vm_info` alone; join it like this:

```
dynmem_vm_resident_bytes * on (instance, vm) group_left (priority, device) dynmem_vm_info
```

Nothing that a guest says becomes a label. A VM's size in `dynmem_vm_X_bytes` is the field `X_bytes` of [the
status](status.md), which explains each in more words. Counters begin again when the manager does, as
Prometheus expects.

`dynmem_host_load_ratio` is one number for schedulers: what the VMs want, with their buffers, as a part
of what there is for them, which is the budget or, where other programs have left less than that, what
the guests hold and the host still has. At 1, the next VM is better started elsewhere.

Unmet demand is how far a guest's demand, with the reserve that it should have at hand, exceeds its size.
Its counter adds it up over time, so its rate is the bytes that were missing on average:

```
rate(dynmem_vm_unmet_demand_byte_seconds_total[5m])
```

## Alerts and dashboards

`contrib/prometheus/alerts.yml` has alert rules; [runbooks.md](runbooks.md) says for each what it means
and what to do. `contrib/grafana/dynmem-host.json` and `contrib/grafana/dynmem-vm.json` are dashboards
for Grafana, to import as they are: they ask for the data source, the hosts and the VMs. `make
check-metrics` tries all of it with Debian's Prometheus: each alert fires when it should and only then,
and each query of a dashboard, run on what a manager serves, has a result.

`contrib/prometheus/recording.yml` has Prometheus keep one load and one headroom for each host, now and in
the next hour ([recording.md](recording.md)); [fleet.md](fleet.md) says which schedulers can read them.

## What is not among them

How often a guest killed a process because it had no memory is not among them: the manager does not ask a
guest for it, and could not believe it.
"""


def table(families: Sequence[Family]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield ""
    yield "| name | kind | labels | meaning |"
    yield "|---|---|---|---|"
    for family in families:
        labels = ", ".join(f"`{each}`" for each in family.labels)
        yield f"| `{family.name}` | {family.kind} | {labels} | {family.meaning} |"


def render() -> str:
    """Return the whole document."""
    lines = [INTRO.replace("{clients}", str(METRICS_CLIENTS_MAX)).rstrip(), "", "## The host", *table(HOST)]
    lines += ["", "## Each VM", *table(VMS)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    finish("metrics.md", render)
