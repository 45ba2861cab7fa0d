"""From a task's XML to what CASA users call: the plain task and the shell's ``inp``/``go`` task.

CASA generates both with `buildmytasks`, which monolithic CASA ships and the modular wheels do not; here
they are built at import from :class:`casa_deepfocus.params.TaskSpec`, which serves both. The tests feed
CASA's own XML through this module and compare with CASA's own generated code.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import os
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from casa_deepfocus.casa import failures, signals
from casa_deepfocus.errors import CallError, MissingDependencyError, ParameterError
from casa_deepfocus.params import Parameter, ParameterType, TaskSpec

# CASA's type -> (Cerberus type, names of the coercions; a lone one stands by itself, not in a list)
CERBERUS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bool": ("cBool", ()),
    "int": ("cInt", ()),
    "record": ("cDict", ()),
    "double": ("cFloat", ("to_float",)),
    "float": ("cFloat", ("to_float",)),
    "string": ("cStr", ("to_str",)),
    "boolVec": ("cBoolVec", ("to_list", "to_boolvec")),
    "intVec": ("cIntVec", ("to_list", "to_intvec")),
    "doubleVec": ("cFloatVec", ("to_list", "to_floatvec")),
    "floatVec": ("cFloatVec", ("to_list", "to_floatvec")),
    "stringVec": ("cStrVec", ("to_list", "to_strvec")),
}
NUMBERS = ("int", "double", "float")
READABLE = {
    "bool": "True or False",
    "int": "an integer",
    "double": "a number",
    "float": "a number",
    "record": "a dictionary",
    "string": "a string",
    "path": "a path",
    "boolVec": "a list of True and False",
    "intVec": "a list of integers",
    "doubleVec": "a list of numbers",
    "stringVec": "a list of strings",
    "pathVec": "a list of paths",
}


def schema(spec: TaskSpec, coerce: Any) -> dict[str, dict[str, Any]]:
    """The Cerberus schema by which CasaValidator checks a task's arguments.

    Parameters
    ----------
    spec : TaskSpec
    coerce : object
        Holder of the coercion functions, `casatools.coercetype.coerce`.
    """
    return {p.name: _rules(p, coerce) for p in spec.parameters}


def _rules(parameter: Parameter, coerce: Any) -> dict[str, Any]:
    if len(parameter.types) > 1:
        return {"anyof": [_type_rules(t, coerce) for t in parameter.types]}
    rules = _type_rules(parameter.types[0], coerce)
    if parameter.allowed and rules["type"] != "cVariant":
        rules["allowed"] = list(parameter.allowed)
    if parameter.minimum is not None:
        rules["min"] = parameter.minimum
    if parameter.maximum is not None:
        rules["max"] = parameter.maximum
    return rules


def _type_rules(kind: ParameterType, coerce: Any) -> dict[str, Any]:
    if kind.name == "path":
        return {"type": "cReqPath" if kind.must_exist else "cPath", "coerce": coerce.expand_path}
    if kind.name == "pathVec":
        name = "cReqPathVec" if kind.must_exist else "cPathVec"
        return {"type": name, "coerce": [coerce.to_list, coerce.expand_pathvec]}
    if kind.name in ("any", "variant"):
        return {"type": "cVariant", "coerce": [coerce.to_variant]}
    if kind.name not in CERBERUS:
        raise ParameterError("type", kind.name, "is a type that the task builder does not know", "Correct the XML")
    name, steps = CERBERUS[kind.name]
    functions = [getattr(coerce, step) for step in steps]
    if not functions:
        return {"type": name}
    return {"type": name, "coerce": functions if len(functions) > 1 else functions[0]}


def validate(spec: TaskSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the implementation gets them: coerced, paths expanded and turned into strings.

    Only the parameters given are looked at.

    Raises
    ------
    ParameterError
        For the first parameter whose value has the wrong type or is not allowed.
    """
    try:
        from casatools.coercetype import coerce
        from casatools.typecheck import CasaValidator
    except ModuleNotFoundError as exc:
        raise MissingDependencyError(
            f"{spec.name} needs CASA ({exc.name} is not installed): pip install 'casa-deepfocus[casa]'"
        ) from exc
    given = {name: plain(value) for name, value in given.items()}
    for name, value in given.items():
        # CASA takes True for the number 1.
        if isinstance(value, bool) and all(kind.name in NUMBERS for kind in spec[name].types):
            raise _explain(spec[name], value, "is no number")
    # A validator of its own for every call: CASA's shared one keeps its document, and a task may call tasks.
    validator = CasaValidator()
    if not validator.validate(given, {n: r for n, r in schema(spec, coerce).items() if n in given}):
        name = next((n for n in spec.names if n in validator.errors), next(iter(validator.errors)))
        raise _explain(spec[name], given[name], validator.errors[name])
    return {name: validator.document[name] for name in spec.names if name in given}


def plain(value: Any) -> Any:
    """A value with the paths of pathlib and its kind as strings, as CASA takes them; also those in a list."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else value
    return value


def _explain(parameter: Parameter, value: Any, errors: Any) -> ParameterError:
    if parameter.allowed:
        return ParameterError(
            parameter.name, value, "is not allowed", "Use one of " + ", ".join(map(repr, parameter.allowed))
        )
    limited = parameter.minimum is not None or parameter.maximum is not None
    if limited and isinstance(value, (int, float)) and not isinstance(value, bool):
        low = "-inf" if parameter.minimum is None else parameter.minimum
        high = "inf" if parameter.maximum is None else parameter.maximum
        return ParameterError(parameter.name, value, f"is outside [{low}, {high}]", "Give a value inside")
    if any(t.must_exist for t in parameter.types) and isinstance(value, (str, list)):
        return ParameterError(parameter.name, value, "does not exist", "Give the name of a file that exists")
    kinds = [READABLE[t.name] for t in parameter.types if t.name in READABLE]
    if kinds:
        return ParameterError(parameter.name, value, "has the wrong type", "Give " + " or ".join(kinds))
    return ParameterError(parameter.name, value, f"cannot be used ({errors})")


def execute(spec: TaskSpec, implementation: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Validate, log as CASA's tasks do, and run the implementation with positional arguments.

    Raises
    ------
    DeepFocusError
        As the implementation raised it; another error as `LibraryError`.
    """
    document = validate(spec, given)
    from casatasks.private.task_logging import end_log, start_log

    state = start_log(spec.name, [f"{name}={value!r}" for name, value in document.items()])
    result = None
    try:
        with failures.step(spec.name):
            result = implementation(*document.values())
    finally:
        end_log(state, spec.name, result)
    return result


class Task:
    """A CASA task as a callable object; :func:`plain_task` makes one from a specification."""

    _info_group_ = ""
    _info_desc_ = ""
    spec: TaskSpec
    implementation: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with failures.logged(self.spec.name):
            return execute(self.spec, type(self).implementation, bind(self.spec, args, kwargs))

    def __repr__(self) -> str:
        return f"<CASA task {self.spec.name}>"


def bind(spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Positional and named arguments as a dict of all parameters.

    A sub-parameter that is not given takes the default that its controllers call for.

    Raises
    ------
    CallError
        Too many arguments, an unknown or a doubled name.
    """
    given = named(spec, args, kwargs)
    return {name: spec.value(name, given) for name in spec.names}


def named(spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that were given, by the names of their parameters.

    Raises
    ------
    CallError
        As :func:`bind`.
    """
    if len(args) > len(spec.names):
        raise CallError(
            f"{spec.name}() takes {len(spec.names)} arguments but {len(args)} were given. "
            "Name the parameters: they are many, and their order may change"
        )
    given = dict(zip(spec.names, args, strict=False))
    for name, value in kwargs.items():
        if name not in spec.names:
            near = difflib.get_close_matches(name, spec.names, 1)
            remedy = f"Do you mean {near[0]}?" if near else f"help({spec.name}) lists the parameters"
            raise CallError(f"{spec.name}() got an unexpected keyword argument {name!r}. {remedy}")
        if name in given:
            raise CallError(f"{spec.name}() got multiple values for argument {name!r}. Give it once")
        given[name] = value
    return given


def plain_task(spec: TaskSpec, implementation: Callable[..., Any]) -> Task:
    """The task as an importable object with CASA's call, log and help behaviour."""
    return build_class(spec, implementation, Task, spec.defaults())()


def build_class(
    spec: TaskSpec, implementation: Callable[..., Any], base: type[Task], defaults: Mapping[str, Any]
) -> type[Task]:
    """A subclass of `base` for one task, with its documentation and its signature."""

    def call(self: Task, *args: Any, **kwargs: Any) -> Any:
        with signals.orderly(), signals.told(_warn):
            # CASA swallows exceptions while it is imported.
            with signals.held(), contextlib.suppress(ImportError):
                importlib.import_module("casatasks")
            return base.__call__(self, *args, **kwargs)

    signature = _signature(spec, defaults=defaults)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    call.__name__ = "__call__"
    call.__doc__ = spec.short
    call.__signature__ = signature.replace(parameters=[own, *signature.parameters.values()])  # type: ignore[attr-defined]
    members = {
        "__doc__": documentation(spec),
        "__call__": call,
        "__module__": implementation.__module__,
        "_info_group_": spec.category,
        "_info_desc_": spec.short,
        "spec": spec,
        "implementation": staticmethod(implementation),
    }
    return type(f"_{spec.name}", (base,), members)


def _warn(message: str) -> None:
    from casatasks import casalog

    casalog.post(message, "WARN")


def _signature(spec: TaskSpec, defaults: Mapping[str, Any] | None = None) -> inspect.Signature:
    values = spec.defaults() if defaults is None else defaults
    return inspect.Signature(
        [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=values[n]) for n in spec.names]
    )


def documentation(spec: TaskSpec) -> str:
    """The text of ``help(task)``: description, every parameter, examples."""
    width = max(map(len, spec.names), default=0) + 1
    blocks = [f"{spec.name} ---- {spec.short}", spec.description, _headline("parameter descriptions")]
    lines = []
    for parameter in spec.parameters:
        text = parameter.description or parameter.short
        lines.append(textwrap.indent(text, " " * width).replace(" " * width, parameter.name.ljust(width), 1))
    blocks += ["\n".join(lines), f"RETURNS {spec.returns}", _headline("examples"), spec.example]
    return "\n" + "\n\n".join(textwrap.indent(block, "    ") for block in blocks) + "\n"


def _headline(title: str) -> str:
    return f"--------- {title} ".ljust(78, "-")
