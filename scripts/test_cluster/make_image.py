"""Writes an image archive with one layer from a folder: `make_image.py OUT.tar NAME:TAG FOLDER [--entrypoint PROGRAM]`.

What comes out is the same for the same folder, whoever makes it and when.
"""

import argparse
import hashlib
import io
import json
import tarfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--entrypoint")
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--workdir", default="/")
    options = parser.parse_args()
    layer = options.out.with_suffix(".layer")
    with tarfile.open(layer, "w", format=tarfile.GNU_FORMAT) as archive:
        for entry in sorted(options.folder.iterdir()):
            archive.add(entry, arcname=entry.name, filter=_without_origin)
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    settings = {
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *options.env],
        "WorkingDir": options.workdir,
    }
    if options.entrypoint:
        settings["Entrypoint"] = [options.entrypoint]
    configuration = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        },
        sort_keys=True,
    ).encode()
    name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [options.name], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(options.out, "w", format=tarfile.GNU_FORMAT) as archive:
        _put(archive, name, configuration)
        info = tarfile.TarInfo(f"{digest}/layer.tar")
        info.size = layer.stat().st_size
        with layer.open("rb") as file:
            archive.addfile(info, file)
        _put(archive, "manifest.json", json.dumps(manifest).encode())
    layer.unlink()


def _without_origin(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mtime = 0
    info.uname = info.gname = ""
    return info


def _put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main()
