"""Stage ``set@<set>``: the members of a set, so that who depends on the set depends on no other adapter."""

from __future__ import annotations

import shutil
import sys

from t2.stages import members, paths
from t2.stages.stage import open_stage


def main(name: str) -> None:
    """Copies the adapters that ``sets.<name>`` lists into ``data/sets/<name>``."""
    with open_stage(f"set@{name}") as stage:
        names = stage.params.sets[name].members
        for member in names:
            shutil.copytree(paths.adapters(member), paths.members(name) / member)
        members.write_set(name, names)
        stage.run.log_params({"members": ", ".join(names)})


if __name__ == "__main__":
    main(*sys.argv[1:])
