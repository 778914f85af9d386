"""Where requests come from: the options that `simulate` and `replay` share, and the same load for both."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from cascade_tools.errors import UsageError

if TYPE_CHECKING:
    from cascade_tools.planning.outcomes import FloatArray

Format = Literal["azure2019", "azure2021", "counts", "csv", "jsonl"]
Kind = Literal["poisson", "gamma", "on-off", "diurnal", "spike"]

KIND: Kind = "poisson"
SECONDS = 60.0
MOST_PERIODS = 1_000_000
DRAWN = ("rate", "arrivals", "seconds", "cv", "low_rate", "period")
OF_KINDS: dict[str, tuple[Kind, ...]] = {
    "cv": ("gamma",),
    "low_rate": ("on-off", "diurnal", "spike"),
    "period": ("on-off", "diurnal", "spike"),
}


@dataclass(frozen=True)
class Load:
    """The options; None is not given, so that what does not belong together is told."""

    rate: Annotated[
        float | None,
        typer.Option(help="Draw arrivals: mean (poisson, gamma) or highest requests/s.", min=0.001, max=1e6),
    ] = None
    arrivals: Annotated[
        Kind | None, typer.Option(help=f"How they are drawn; default: {KIND}.", show_default=False)
    ] = None
    seconds: Annotated[
        float | None,
        typer.Option(help=f"Of drawn arrivals: how long; default: {SECONDS:g}.", min=0.01, max=864_000),
    ] = None
    cv: Annotated[
        float | None,
        typer.Option(help="Of gamma: deviation of the gaps over their mean; default: 4.", min=0.05, max=20),
    ] = None
    low_rate: Annotated[
        float | None,
        typer.Option(help="Of on-off, diurnal, spike: the lowest requests/s; default: a tenth.", min=0),
    ] = None
    period: Annotated[
        float | None,
        typer.Option(help="Seconds: of diurnal's wave, on-off's mean cycle, spike's length.", min=0.01),
    ] = None
    trace: Annotated[
        Path | None,
        typer.Option(help="Instead: a file of a trace; formats: docs/traces.md.", show_default=False),
    ] = None
    form: Annotated[
        Format | None, typer.Option("--format", help="Of the file; default: told from its first lines.")
    ] = None
    window: Annotated[
        str | None,
        typer.Option(help="Seconds FROM:TO of the load, as in 3600:3900; either may be left out."),
    ] = None
    peak_rps: Annotated[
        float | None,
        typer.Option(help="Scale the load to so many requests in its fullest second.", min=0.001),
    ] = None
    peak_window: Annotated[
        float | None,
        typer.Option(
            help="Seconds over which the peak is counted; default: 1.",
            min=0.01,
            max=86_400,
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="Of arrivals and of the rows' order.", min=0)] = 0

    def made(self) -> tuple[FloatArray, str]:
        """Arrival times in seconds, float64 [requests], ascending, at least one; and in words where from.

        Raises:
            UsageError: options that do not belong together, a trace that cannot be read, too much or nothing.
        """
        self._check()
        return self._read(self.trace) if self.trace is not None else self._drawn()

    def _check(self) -> None:
        if self.trace is None and self.rate is None:
            if self._given(DRAWN):
                raise UsageError(
                    f"--rate: is needed with {self._given(DRAWN)[0]}", "as in --rate 100 --seconds 60"
                )
            raise UsageError("--rate or --trace: give one of them", "as in --rate 100 --seconds 60")
        if self.trace is not None and self._given(DRAWN):
            raise UsageError(
                f"{self._given(DRAWN)[0]}: belongs to drawn arrivals, and --trace reads them",
                "a trace is scaled with --peak-rps and cut with --window",
            )
        if self.trace is None and self.form is not None:
            raise UsageError("--format: belongs to --trace", "drawn arrivals have none")
        if self.peak_rps is None and self.peak_window is not None:
            raise UsageError("--peak-window: belongs to --peak-rps", "give --peak-rps, too")
        for name, kinds in OF_KINDS.items():
            if self._given((name,)) and (self.arrivals or KIND) not in kinds:
                raise UsageError(
                    f"{option(name)}: belongs to --arrivals {' or '.join(kinds)}",
                    f"these are {self.arrivals or KIND}",
                )
        if self.low_rate is not None and self.rate is not None and self.low_rate > self.rate:
            raise UsageError(f"--low-rate {self.low_rate:g}: is above --rate {self.rate:g}", "exchange them")

    def _given(self, names: tuple[str, ...]) -> list[str]:
        return [option(name) for name in names if getattr(self, name) is not None]

    def _read(self, trace: Path) -> tuple[FloatArray, str]:
        from cascade_tools.stages.trace_file import read_arrivals

        part, window_s = _window(self.window), self._peak_window_s()
        arrival_s = read_arrivals(trace, self.form, part, self.peak_rps, self.seed, window_s)
        return arrival_s, f"trace {trace.name}{self._shape()}"

    def _drawn(self) -> tuple[FloatArray, str]:
        from cascade_tools.planning.traces.generators import generate
        from cascade_tools.planning.traces.prepare import MOST_ARRIVALS
        from cascade_tools.stages.trace_file import shaped

        assert self.rate is not None
        kind, seconds = self.arrivals or KIND, self.seconds or SECONDS
        if self.rate * seconds > MOST_ARRIVALS:
            raise UsageError(
                f"--rate {self.rate:g} for --seconds {seconds:g}: more than {MOST_ARRIVALS} requests",
                "lower one of them",
            )
        if self.period is not None and seconds / self.period > MOST_PERIODS:
            raise UsageError(
                f"--period {self.period:g}: {seconds:g} s are more than {MOST_PERIODS} of it",
                "lengthen it, or shorten --seconds",
            )
        drawn = generate(
            kind, self.rate, seconds, self.seed, cv=self.cv, low_rps=self.low_rate, period_s=self.period
        )
        where, part = f"--rate {self.rate:g} --seconds {seconds:g}", _window(self.window)
        if not drawn.size:
            raise UsageError(f"{where}: nothing arrives", "raise one of them, or choose another --seed")
        arrival_s = shaped(drawn, where, part, self.peak_rps, self.seed, self._peak_window_s())
        words = f"{kind} arrivals, {self.rate:g} requests/s for {seconds:g} s{self._shape()}"
        return arrival_s, words

    def _peak_window_s(self) -> float:
        from cascade_tools.planning.traces.shape import PEAK_WINDOW_S

        return self.peak_window or PEAK_WINDOW_S

    def _shape(self) -> str:
        words = "" if self.window is None else f", seconds {self.window}"
        if self.peak_rps is not None:
            words += f", scaled to a peak of {self.peak_rps:g} requests/s over {self._peak_window_s():g} s"
        return words


_OPTIONS = get_type_hints(Load, include_extras=True)


def option(name: str) -> str:
    """An option as it is written."""
    return "--format" if name == "form" else f"--{name.replace('_', '-')}"


def _window(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, colon, high = text.partition(":")
    try:
        found = (float(low or 0.0), float(high or "inf"))
    except ValueError:
        found = (0.0, 0.0)
    if not colon or not 0.0 <= found[0] < found[1]:
        raise UsageError(f"--window {text}: must be FROM:TO in seconds, FROM below TO", "as in 3600:3900")
    return found


def takes_load(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of `Load` in place of its parameter `load`."""
    names = [field.name for field in fields(Load)]
    own = get_type_hints(verb, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(verb).parameters.values():
        if parameter.name == "load":
            parameters += inspect.signature(Load).parameters.values()
        else:
            parameters.append(parameter)
    hints = {**_OPTIONS, **own}

    @wraps(verb)
    def called(**given: Any) -> None:
        verb(load=Load(**{name: given.pop(name) for name in names}), **given)

    named = [one.replace(annotation=hints[one.name]) for one in parameters]
    called.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in named}
    return called
