"""Keeps plans on disk: a folder a plan, a file a revision, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from pydantic import ValidationError

from blueprint_llm.config.paths import folder, writing
from blueprint_llm.errors import PlanError
from blueprint_llm.planning.brief import read_constraint
from blueprint_llm.planning.codebase import read_codebase
from blueprint_llm.planning.lint import LintFacts
from blueprint_llm.types import Plan


class PlanStore:
    """Plans under `root`, by default the user's state folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else folder("state") / "plans"

    def save(self, plan: Plan) -> tuple[Plan, Path]:
        """Save a plan as a new revision: its own number, or the next free one where that is taken.

        Raises:
            StoreError: It cannot be written.
        """
        place = self.root / plan.id
        revision = plan.revision
        with writing("the plan", place):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            while True:
                current = plan.model_copy(update={"revision": revision})
                target = place / f"r{revision}.json"
                with contextlib.suppress(FileExistsError):
                    write_plan(current, target, replace=False)
                    return current, target
                revision += 1

    def load(self, plan_id: str, revision: int | None = None) -> Plan:
        """Return a revision of a plan, by default the newest. Raises PlanError where there is none."""
        revisions = self.revisions(plan_id)
        wanted = revision if revision is not None else max(revisions, default=0)
        if wanted not in revisions:
            raise PlanError(f"no plan {plan_id!r} with revision {wanted} under {self.root}")
        return read_plan_file(self.root / plan_id / f"r{wanted}.json")

    def revisions(self, plan_id: str) -> list[int]:
        """Return the numbers of a plan's saved revisions, in order."""
        return sorted(int(path.stem[1:]) for path in (self.root / plan_id).glob("r*.json") if path.stem[1:].isdigit())


def write_plan(plan: Plan, path: Path, *, replace: bool = True) -> None:
    """Write a plan atomically. Raises FileExistsError where the file exists and `replace` is False."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(plan.model_dump_json(indent=2))
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def read_plan_file(path: Path) -> Plan:
    """Return the plan in a JSON file. Raises PlanError that says what is wrong with the file."""
    try:
        return Plan.model_validate(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror}") from None
    except ValidationError as error:
        rows = [f"{'.'.join(map(str, row['loc']))}: {row['msg']}" for row in error.errors(include_input=False)]
        raise PlanError(f"{path} is not a plan: {'; '.join(rows[:5])}") from None
    except ValueError:
        raise PlanError(f"{path} is not a plan: it is not JSON") from None


def plan_facts(plan: Plan, codebase: Path | None = None) -> LintFacts:
    """Return what a saved plan can be checked against: its own requirements and constraints, and a codebase."""
    requirements = plan.metadata.get("requirements")
    rules = [read_constraint(text) for text in plan.metadata.get("constraints", ())]
    return LintFacts(
        requirements=frozenset(requirements) if requirements else None,
        retired=frozenset(plan.metadata.get("retired", ())),
        rules=tuple(rule for rule in rules if rule),
        files=read_codebase(codebase).paths if codebase else None,
    )
