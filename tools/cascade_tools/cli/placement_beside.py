"""A placement beside simpler ones: what is gained, in what its goal counts."""

from __future__ import annotations

from cascade_tools.artifacts import Placement

BASELINES = {
    "giant_only": "{giant} alone, without a router",
    "full_lp": "every tier on every device",
    "greedy": "greedy pruning (CascadeServe)",
    "dedicated": "every device for one tier",
}
NAME = 34


def gain_of(made: Placement) -> str:
    """What is gained over the last tier alone, in a few words; empty where nothing is to be said."""
    giant = list(made.batch)[-1]
    if made.minimise is None:
        times = made.rate_rps / made.giant_only_rps if made.giant_only_rps else 0.0
        return f", {times:.2f}x {giant} alone" if times and len(made.batch) > 1 else ""
    takes = made.baselines_take.get("giant_only")
    if takes is not None:
        unit = " W" if made.minimise == "energy" else ""
        return f", {giant} alone {figure_of(takes.value)}{unit}"
    return f", {giant} alone cannot carry it" if "giant_only" in made.baselines_take else ""


def baseline_lines(made: Placement) -> list[str]:
    """Rates of all; where the goal gives the rate, what each takes for it."""
    return _rates(made) if made.minimise is None else _takes(made)


def rate_of(value: float) -> str:
    """Rows/s for people."""
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.3g}"


def figure_of(value: float | None) -> str:
    """Any figure for people, a dash where there is none."""
    return "-" if value is None else f"{value:,.4g}"


def _rates(made: Placement) -> list[str]:
    rates = {"giant_only": made.giant_only_rps, **_others(made)}
    rows = [("this plan", made.rate_rps), *((_name(made, key), rate) for key, rate in rates.items())]
    lines = [f"  {'':{NAME}}{'rows/s':>10}   this plan sustains"]
    for number, (name, rate) in enumerate(rows):
        if rate is None:
            lines.append(f"  {name:{NAME}}{'-':>10}   (no such placement)")
            continue
        times = "" if number == 0 or rate <= 0.0 else f"{made.rate_rps / rate:.2f}x as much"
        lines.append(f"  {name:{NAME}}{rate_of(rate):>10}   {times}".rstrip())
    return lines


def _takes(made: Placement) -> list[str]:
    """Devices, and where the goal is energy watts, at the goal's rate."""
    if not made.baselines_take:
        return []
    watts = made.minimise == "energy"
    used = sum(device.busy_share > 0.0 or device.used_memory_mib > 0.0 for device in made.devices)
    head = f"{'W':>10}{'devices':>10}" if watts else f"{'devices':>10}"
    lines = [f"  {f'for {rate_of(made.rate_rps)} rows/s':{NAME}}{head}   this plan takes"]
    own, dash = f"{figure_of(made.value):>10}", f"{'-':>10}" if watts else ""
    lines.append(f"  {'this plan':{NAME}}{own}" + (f"{used:>10}" if watts else ""))
    for key in ("giant_only", *_others(made)):
        takes = made.baselines_take.get(key)
        name = f"  {_name(made, key):{NAME}}"
        if takes is None:
            lines.append(f"{name}{'-':>10}{dash}   (does not carry that rate)")
            continue
        share = (made.value or 0.0) / takes.value if takes.value > 0.0 else 1.0
        more = f"{takes.devices:>10}" if watts else ""
        lines.append(f"{name}{figure_of(takes.value):>10}{more}   {share:.2f}x as much")
    return lines


def _name(made: Placement, key: str) -> str:
    return BASELINES[key].format(giant=list(made.batch)[-1])


def _others(made: Placement) -> dict[str, float | None]:
    """All but the last tier alone; there is one way to use one device."""
    if len(made.devices) == 1:
        return {}
    return {name: rate for name, rate in made.baselines.items() if name != "giant_only"}
