"""What has to be done about a library before it is imported, without importing it."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def hush() -> None:
    """Keep off the terminal what libraries say when they are imported. For processes of our own."""
    warnings.filterwarnings("ignore")
    # What a call from Python logs, these say themselves.
    logging.getLogger("eckart").setLevel(logging.CRITICAL)


def import_in_silence() -> None:
    """Keep what torchao says of each kernel not for this machine out of logs that nobody set up.

    transformers imports it where it is.
    """
    for name in ("torchao", "torch.utils._pytree"):
        log = logging.getLogger(name)
        if log.level == logging.NOTSET:
            log.setLevel(logging.ERROR)


def when_imported(module: str, plugin: str) -> None:
    """Import `plugin` right after `module` is first imported: now, if it has been."""
    if module in sys.modules:
        importlib.import_module(plugin)
    else:
        sys.meta_path.insert(0, _Watcher(module, plugin))


class _Watcher(MetaPathFinder):
    """Finds one module, as the finders behind it do, and adds the plugin's import to its execution."""

    def __init__(self, module: str, plugin: str) -> None:
        self.module, self.plugin = module, plugin

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            importlib.import_module(self.plugin)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
