"""The few browser files that come from npm: exactly these are served, hashed and compressed like our own."""

from collections.abc import Iterator
from pathlib import Path

from django.contrib.staticfiles.finders import BaseFinder
from django.core.files.storage import FileSystemStorage, Storage
from whitenoise.storage import CompressedManifestStaticFilesStorage

PACKAGES = Path(__file__).resolve().parents[1] / "node_modules"
FILES = {
    "vendor/tabler.min.css": "@tabler/core/dist/css/tabler.min.css",
    "vendor/tabler.min.css.map": "@tabler/core/dist/css/tabler.min.css.map",
    "vendor/tabler.min.js": "@tabler/core/dist/js/tabler.min.js",
    "vendor/tabler.min.js.map": "@tabler/core/dist/js/tabler.min.js.map",
    "vendor/plotly-basic.min.js": "plotly.js-basic-dist-min/plotly-basic.min.js",
}


class PackageStorage(FileSystemStorage):
    """Opens a file by the name under which it is served."""

    def path(self, name: str) -> str:
        return str(PACKAGES / FILES[name])


class NpmFinder(BaseFinder):
    def __init__(self, app_names: object = None, *args: object, **kwargs: object) -> None:
        self._storage = PackageStorage(location=PACKAGES)
        super().__init__(*args, **kwargs)

    def find(self, path: str, find_all: bool = False, **kwargs: object) -> str | list[str]:
        found = str(PACKAGES / FILES[path]) if path in FILES else ""
        return [found] if find_all and found else (found or [])

    def list(self, ignore_patterns: object) -> Iterator[tuple[str, Storage]]:
        for name in FILES:
            yield name, self._storage


class StaticStorage(CompressedManifestStaticFilesStorage):
    # Rewrites `import … from "./x.js"` to the hashed names, so that modules can be cached for ever.
    support_js_module_import_aggregation = True
