"""The few browser files that come from packages: exactly these are served, hashed and compressed like our own."""

import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from django.contrib.staticfiles.finders import BaseFinder
from django.core.files.storage import FileSystemStorage, Storage
from whitenoise.storage import CompressedManifestStaticFilesStorage

NPM = Path(__file__).resolve().parents[1] / "node_modules"
NPM_FILES = {
    "vendor/tabler.min.css": "@tabler/core/dist/css/tabler.min.css",
    "vendor/tabler.min.css.map": "@tabler/core/dist/css/tabler.min.css.map",
    "vendor/plotly-basic.min.js": "plotly.js-basic-dist-min/plotly-basic.min.js",
}
# Under their own names: the packages' template tags ask for them so.
PYTHON_FILES = {
    "django_htmx": ["django_htmx/htmx-2.min.js"],
    "drf_spectacular_sidecar": [
        f"drf_spectacular_sidecar/swagger-ui-dist/{name}"
        for name in ("swagger-ui.css", "swagger-ui.css.map", "swagger-ui-bundle.js", "swagger-ui-bundle.js.map")
    ],
}


@lru_cache(maxsize=1)
def vendor_files() -> dict[str, Path]:
    """Where each served file lies, by the name under which it is served."""
    files = {name: NPM / source for name, source in NPM_FILES.items()}
    for package, names in PYTHON_FILES.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            files |= {name: Path(spec.origin).parent / "static" / name for name in names}
    return files


class VendorStorage(FileSystemStorage):
    """Opens a file by the name under which it is served."""

    def path(self, name: str) -> str:
        return str(vendor_files()[name])


class VendorFinder(BaseFinder):
    def __init__(self, app_names: object = None, *args: object, **kwargs: object) -> None:
        self._storage = VendorStorage(location=NPM)
        super().__init__(*args, **kwargs)

    def find(self, path: str, find_all: bool = False, **kwargs: object) -> str | list[str]:
        found = str(vendor_files()[path]) if path in vendor_files() else ""
        return [found] if find_all and found else (found or [])

    def list(self, ignore_patterns: object) -> Iterator[tuple[str, Storage]]:
        for name in vendor_files():
            yield name, self._storage


class StaticStorage(CompressedManifestStaticFilesStorage):
    # Rewrites `import … from "./x.js"` to the hashed names, so that modules can be cached for ever.
    support_js_module_import_aggregation = True
