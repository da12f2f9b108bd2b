"""Finds the engines: every module of this package that defines a subclass of Engine."""

import importlib
import inspect
import pkgutil
from functools import lru_cache

import runtimes.engines
from runtimes.engines.base import Engine


class UnknownEngineError(LookupError):
    pass


@lru_cache(maxsize=1)
def engines() -> dict[str, Engine]:
    """All engines by name, in the order in which the form offers them."""
    found: list[Engine] = []
    for module_info in pkgutil.iter_modules(runtimes.engines.__path__):
        module = importlib.import_module(f"runtimes.engines.{module_info.name}")
        for _, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, Engine) and not inspect.isabstract(value) and value.__module__ == module.__name__:
                found.append(value())
    return {engine.name: engine for engine in sorted(found, key=lambda engine: engine.order)}


def engine(name: str) -> Engine:
    try:
        return engines()[name]
    except KeyError:
        raise UnknownEngineError(f"There is no engine “{name}”. Known: {', '.join(engines())}.") from None
