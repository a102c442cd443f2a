"""What the benchmarks here run, and with which Python."""
import os, pathlib, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEERS = pathlib.Path(os.environ.get("OFFSHOOT_PEERS", pathlib.Path.home() / ".cache/offshoot/peers")) / "bin/python"
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def with_package(name, script):
    """Goes on where the package `name` is there: here, or by starting `script` again in the peers' environment."""
    try:
        __import__(name)
    except ImportError:
        if pathlib.Path(sys.prefix) == PEERS.parent.parent:
            sys.exit(f"{pathlib.Path(script).name}: needs {name} in the peers' environment: scripts/peers")
        os.execv(PEERS, [str(PEERS), script, *sys.argv[1:]])
