"""A list of what an image holds, in CycloneDX 1.6: `python3 serving/sbom.py ROOT NAME VERSION`, JSON on stdout.

Read from the image's files by any Python 3: the packages that Debian installed and those of the Python environments.
"""

import json
import re
import sys
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote


def components(root: Path) -> list[dict[str, Any]]:
    """The packages under a root folder, by package url."""
    found = {}
    status = root / "var/lib/dpkg/status"
    if status.is_file():
        for paragraph in status.read_text(errors="replace").split("\n\n"):
            package = HeaderParser().parsestr(paragraph)
            if "installed" in package.get("Status", "").split():
                name, version = package["Package"], package["Version"]
                purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={package['Architecture']}"
                found[purl] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    for pattern in ("app", "usr/lib/python3*", "usr/local/lib/python3*"):
        for metadata in (m for top in root.glob(pattern) for m in top.rglob("*.dist-info/METADATA")):
            package = HeaderParser().parsestr(metadata.read_text(errors="replace"))
            name, version = re.sub(r"[-_.]+", "-", package["Name"]).lower(), package["Version"]
            purl = f"pkg:pypi/{quote(name)}@{quote(version)}"
            found[purl] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
            if licence := package.get("License-Expression"):
                found[purl]["licenses"] = [{"expression": licence}]
    return [found[purl] for purl in sorted(found)]


def bom(root: Path, name: str, version: str) -> dict[str, Any]:
    """The whole document. It carries no time and no random number: of the same image it is the same."""
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": name, "name": name, "version": version}},
        "components": components(root),
    }  # fmt: skip


if __name__ == "__main__":
    json.dump(bom(Path(sys.argv[1]), *sys.argv[2:]), sys.stdout, indent=1)
    print()
