#!/usr/bin/env python3
"""Sabotages the code, a line at a time, and sees that the tests catch each of it.

    run.py            every mutant of the lists beside this file, as committed
    run.py --check    only that every old text still stands in its file, exactly once

A list is TOML, so that it can be read: `[[mutant]]` with `name`, `why`, `file`, `old`, `new`, and perhaps `tests`,
which are arguments for `cargo test`; without them those of DEFAULTS. Mutants of equivalent.toml change nothing that
could be seen, as their `why` argues: they are checked for rot, and not run.

The committed tree is copied to SCRATCH, whose target folder stays, so that builds are incremental. ONLY is the name
of a list or a mutant, or the beginning of some; several with commas between. SEEDS is how many the simulation tries. Ends with 1 if one survives, does not build, or the tests fail without any.
"""

import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SCRATCH = pathlib.Path(os.environ.get("SCRATCH") or pathlib.Path(tempfile.gettempdir()) / "tallylight-mutants")
ONLY = os.environ.get("ONLY", "").split(",")
SIMULATION = "-p tallylight-compactor --test simulation every_promise"
EACH_CALL = "-p tallylight-compactor --test simulation each_call::a_kill"
# what is quick to build and run first
DEFAULTS = {
    "proto": ["-p tallylight-proto --lib", SIMULATION, "-p tallylight-collector --test it log::"],
    "collector": [SIMULATION, EACH_CALL, "-p tallylight-collector --lib", "-p tallylight-collector --test it log::"],
    "compactor": [SIMULATION, EACH_CALL, "-p tallylight-compactor --lib", "-p tallylight-compactor --test it power_cut"],
}
# one that does not end is caught, too
MOST_SECONDS = 240


def lists():
    """All mutants, those without effect last."""
    for path in sorted(HERE.glob("*.toml"), key=lambda path: (path.stem == "equivalent", path)):
        for mutant in tomllib.loads(path.read_text())["mutant"]:
            yield {**mutant, "list": path.stem}


def mutated(mutant, root):
    """The file's text with the mutant in it."""
    text = (root / mutant["file"]).read_text()
    count = text.count(mutant["old"])
    if count != 1:
        sys.exit(f"{mutant['name']}: the old text stands {count} times in {mutant['file']}, not once")
    return text.replace(mutant["old"], mutant["new"])


def copy_tree(to):
    """The committed tree; a file that is as it was keeps its time, and is not built again."""
    tar = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    paths = set()
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            if member.isfile():
                path, content = to / member.name, archive.extractfile(member).read()
                paths.add(path)
                if not path.exists() or path.read_bytes() != content:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
    # one that is gone may be a module that would now be there twice
    for path in to.rglob("*.rs"):
        if path not in paths:
            path.unlink()


def cargo(arguments, *more):
    """Runs `cargo test`; says whether all is well, and what it said."""
    environment = {
        **os.environ,
        "CARGO_TARGET_DIR": str(SCRATCH / "target"),
        "CARGO_PROFILE_DEV_DEBUG": "false",
        "TALLYLIGHT_TEST_ENV": os.environ.get("TALLYLIGHT_TEST_ENV") or str(ROOT / ".test-env"),
        "SEEDS": os.environ.get("SEEDS", "1000"),
        "MOST_FAILURES": "1",
    }
    command = ["cargo", "test", *arguments.split(), *more]
    running = subprocess.Popen(
        command, cwd=SCRATCH / "tree", env=environment, text=True, errors="replace", start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    try:
        said = running.communicate(timeout=MOST_SECONDS)[0]
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        return False, f"panicked at the end of patience:\nit does not end within {MOST_SECONDS} s\n"
    return running.returncode == 0, said


def what_failed(said):
    """The seed or test that failed, and what it said."""
    seed = re.search(r"^seed (\d+) failed", said, re.M)
    test = re.search(r"^test (\S+) \.\.\. FAILED", said, re.M)
    panic = re.search(r"panicked at [^\n]*\n([^\n]*)", said)
    by_signal = re.search(r"\(signal: [^)]*\)", said)
    who = f"seed {seed[1]}" if seed else test[1] if test else "it"
    return f"{who}: {panic[1] if panic else by_signal[0] if by_signal else 'failed'}"[:150]


def tests_of(mutant):
    return mutant.get("tests") or DEFAULTS[mutant["file"].split("/")[0]]


class DoesNotBuild(Exception):
    """The mutant is none: its list is to be mended."""


def build(arguments):
    """Builds these tests."""
    is_built, said = cargo(arguments, "--no-run")
    if not is_built:
        # a run that was ended in the midst of a build may have left half of one
        ours = [f"-ptallylight-{name}" for name in ("proto", "checksum", "host", "sender", "service", "collector", "compactor")]
        target = ["--target-dir", SCRATCH / "target"]
        subprocess.run(["cargo", "clean", "-q", *target, *ours], cwd=SCRATCH / "tree", check=True)
        is_built, said = cargo(arguments, "--no-run")
    if not is_built:
        print(said)
        raise DoesNotBuild


def caught_by(mutant):
    """What catches it, or nothing."""
    for arguments in tests_of(mutant):
        build(arguments)
        passes, said = cargo(arguments)
        if not passes:
            return what_failed(said)
    return None


def main():
    every = list(lists())
    names = [mutant["name"] for mutant in every]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        sys.exit(f"names that are there twice: {twice}")
    if sys.argv[1:] == ["--check"]:
        for mutant in every:
            mutated(mutant, ROOT)
        return print(f"{len(every)} mutants, each with its place in the code")

    tree = SCRATCH / "tree"
    copy_tree(tree)
    is_meant = lambda mutant: any(mutant["list"] == only or mutant["name"].startswith(only) for only in ONLY)
    mutants = [mutant for mutant in every if is_meant(mutant) and mutant["list"] != "equivalent"]
    for arguments in dict.fromkeys(test for mutant in mutants for test in tests_of(mutant)):
        build(arguments)
        passes, said = cargo(arguments)
        if not passes:
            print(said)
            sys.exit(f"without any mutant, cargo test {arguments} fails")
    survivors = []
    for mutant in mutants:
        began = time.monotonic()
        path = tree / mutant["file"]
        text, mutant_text = path.read_text(), mutated(mutant, tree)
        try:
            path.write_text(mutant_text)
            caught = caught_by(mutant)
        except DoesNotBuild:
            caught = None
        finally:
            path.write_text(text)
        survivors += [] if caught else [mutant["name"]]
        print(f"{mutant['name']:<44} {caught or 'SURVIVES'}  ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants are caught")
    if survivors:
        sys.exit(f"survivors: {', '.join(survivors)}")


main()
