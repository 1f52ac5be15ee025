"""``python -m dynmem.sim --seed N``: run one seed and print its log."""

import click

from dynmem.sim.world import draw_world
from dynmem.units import PAGE_SIZE, format_size


@click.command()
@click.option("--seed", default=0, show_default=True, help="The world; the same seed gives the same log.")
@click.option("--seconds", default=120, show_default=True, help="How many virtual seconds to run.")
def main(seed: int, seconds: int) -> None:
    """Run one simulated host under the manager and print what happens."""
    world = draw_world(seed)
    world.run(seconds)
    for line in world.log:
        click.echo(line)
    peak, budget = format_size(world.peak_pages * PAGE_SIZE), format_size(world.settings.budget_bytes)
    click.echo(f"seed {seed}: {seconds} s, {world.commands} commands, peak {peak} of {budget}")


if __name__ == "__main__":
    main()
