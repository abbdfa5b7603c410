"""Builds a bench program."""

import json
import os
import subprocess
import sys


def build_bench(root, name, *options):
    """Builds `benches/NAME.rs` and returns the program's path. Cargo says in JSON where it is."""
    print(f"bench: building benches/{name}.rs", file=sys.stderr, flush=True)
    command = ["cargo", "bench", "-q", "-p", "pollux-dataplane", "--bench", name, "--no-run", "--message-format=json",
               *options]
    environment = {**os.environ, "CARGO_TERM_COLOR": "never"}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.stderr.write(done.stderr[-3000:])
        raise SystemExit(3)
    for line in done.stdout.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("executable") and message["target"]["name"] == name:
            return message["executable"]
    raise SystemExit("bench: error: cargo did not say where the bench program is")
