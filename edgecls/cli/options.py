"""Options from configurations: name, type, default, help, choices and bounds of each are those of the setting."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from functools import wraps
from re import Match
from typing import Annotated, Any, Literal, get_args

import typer

from edgecls.errors import SETTING
from edgecls.settings import Config, Setting, inner_configs, settings_of

_UNITS = ("_s", "_px", "_mib", "_points")
"""Of settings; an option says its unit in its help."""
_SMALL, _FAR = 1e-3, 1e6


def listed(text: str) -> tuple[str, ...]:
    """What commas separate."""
    return tuple(part for part in map(str.strip, text.split(",")) if part)


@dataclass(frozen=True)
class Option:
    """What an option is called and how it is read, where the setting's own name and type do not say it.

    `parse` reads text, and `text` writes the default as such. With `argument`, its metavar, it is one that has no name.
    """

    names: tuple[str, ...] = ()
    parse: Callable[[str], Any] | None = None
    text: Callable[[Any], str] = str
    metavar: str | None = None
    argument: str | None = None
    help: str | None = None
    variable: str | None = None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


NAMES = Option(parse=_names, text=", ".join, metavar="NAME,NAME,...")
"""Names with commas between them."""


def configured(
    panels: Mapping[str, Sequence[str]] | None = None, left_out: Sequence[str] = (), **declared: Option
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A verb of which each parameter that is a configuration becomes options, one for each setting.

    `panels` gather settings in the help, by their names; `left_out` get no option and keep their defaults; `declared`
    says what is not evident of a setting. A configuration inside another is taken apart in the same way.
    """
    titles = {name: title for title, names in (panels or {}).items() for name in names}
    order = list(titles)

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        """See `configured`."""
        parameters: list[inspect.Parameter] = []
        configs: dict[str, type[Config]] = {}
        for parameter in inspect.signature(verb, eval_str=True).parameters.values():
            if isinstance(parameter.annotation, type) and issubclass(parameter.annotation, Config):
                configs[parameter.name] = parameter.annotation
                settings = _all_settings(parameter.annotation, left_out)
                for setting in sorted(settings, key=lambda each: order.index(each.name) if each.name in order else -1):
                    option = declared.get(setting.name, Option())
                    option = replace(option, help=_naming_options(option.help or setting.help, declared))
                    parameters.append(_parameter(setting, option, titles.get(setting.name)))
            else:
                parameters.append(parameter)

        @wraps(verb)
        def run(**values: Any) -> None:
            for name, config in configs.items():
                values[name] = _built(config, values, declared, left_out)
            verb(**{name: values[name] for name in inspect.signature(verb).parameters})

        signature = inspect.Signature([each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters])
        run.__signature__ = signature  # type: ignore[attr-defined]  # what `inspect.signature` looks at
        return run

    return decorate


def given(ctx: typer.Context, config: type[Config]) -> set[str]:
    """The settings of a configuration that stand on the command line."""
    return {setting.name for setting in _all_settings(config) if on_command_line(ctx, setting.name)}


def on_command_line(ctx: typer.Context, name: str) -> bool:
    """Whether somebody typed this parameter."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _all_settings(config: type[Config], left_out: Sequence[str] = ()) -> Iterator[Setting]:
    """The settings of a configuration and of those inside it."""
    yield from (setting for setting in settings_of(config) if setting.name not in left_out)
    for inner in _inner(config, left_out).values():
        yield from _all_settings(inner, left_out)


def _inner(config: type[Config], left_out: Sequence[str]) -> dict[str, type[Config]]:
    return {name: kind for name, kind in inner_configs(config).items() if name not in left_out}


def _built(
    config: type[Config], values: Mapping[str, Any], declared: Mapping[str, Option], left_out: Sequence[str]
) -> Config:
    """The configuration that the options say."""
    values_given: dict[str, Any] = {}
    for setting in settings_of(config):
        value = values.get(setting.name)
        if value is None:
            continue  # left out, or left to the configuration's default
        parse = declared.get(setting.name, Option()).parse
        if setting.choices:
            value = next((choice for choice in setting.choices if str(choice) == value), value)
        values_given[setting.name] = parse(value) if parse else value
    for name, inner in _inner(config, left_out).items():
        values_given[name] = _built(inner, values, declared, left_out)
    return config(**values_given)


def _parameter(setting: Setting, option: Option, panel: str | None) -> inspect.Parameter:
    """The parameter by which Typer makes the option of a setting."""
    required = setting.default is MISSING
    kind, default = _type_and_default(setting, option)
    if not required and default is None:
        kind = kind | None
    shared: dict[str, Any] = {"help": _explained(setting, option), "metavar": option.metavar or option.argument}
    if panel:
        shared["rich_help_panel"] = panel
    if option.argument:
        declaration: Any = typer.Argument(**shared)
    else:
        names = option.names or (_flag(setting.name),)
        if setting.type is bool and setting.default is True:
            names = (f"{names[0]}/--no-{names[0].removeprefix('--')}",)
        declaration = typer.Option(*names, envvar=option.variable, **shared)
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[kind, declaration],
    )


def _type_and_default(setting: Setting, option: Option) -> tuple[Any, Any]:
    """What Typer reads, and the default that it shows. Bounds are the configuration's to check."""
    if option.parse:
        return str, None if setting.default is None else option.text(setting.default)
    if setting.is_tuple:
        return list[get_args(setting.type)[0]], None  # type: ignore[misc]
    if setting.choices and not isinstance(setting.default, str | None):
        return Literal[tuple(map(str, setting.choices))], str(setting.default)  # Typer's choices are text
    return setting.type, setting.default


def _naming_options(text: str, declared: Mapping[str, Option]) -> str:
    """A help text with the option in place of each setting."""

    def option(setting: Match[str]) -> str:
        known = declared.get(setting[1], Option())
        return known.argument or (known.names or (_flag(setting[1]),))[0]

    return SETTING.sub(option, text)


def _explained(setting: Setting, option: Option) -> str:
    """The help, with bounds that tell something and with defaults of lists."""
    parts = [option.help or setting.help]
    if setting.is_tuple and not option.parse:
        parts.append("Give it several times for several.")
        if setting.default:
            parts.append(f"[default: {', '.join(map(str, setting.default))}]")
    elif setting.low is not None and setting.high is not None and not option.parse:
        low = f"{setting.low:g}<=" if _tells(setting.low) else "0<" if 0 < setting.low < 1 else ""
        high = f"<={setting.high:g}" if _tells(setting.high) else ""
        if setting.high < 1 and high == "<=1":  # nearly
            high = "<1"
        parts += [f"[{low}x{high}]"] if low or high else []
    return " ".join(parts).replace("[", "\\[")  # which is no markup


def _tells(bound: float) -> bool:
    """Whether a bound is worth showing: others only keep out what is no number of this kind."""
    return bound == 0 or (_SMALL <= abs(bound) < _FAR and len(f"{bound:g}") < 7)


def _flag(name: str) -> str:
    for unit in _UNITS:
        name = name.removesuffix(unit)
    return f"--{name.replace('_', '-')}"
