"""``python -m t2.plan [PROFILE]``: what a run of params.yaml, or of a profile, will need."""

from __future__ import annotations

import argparse
import sys

from t2 import config, profiles
from t2.plan import GPUS, PlanError, make_plan
from t2.plan.render import render


def main() -> None:
    """Prints a plan."""
    parser = argparse.ArgumentParser(prog="python -m t2.plan", description=__doc__)
    parser.add_argument("profile", nargs="?", help="a profile; without it, params.yaml as it stands")
    parser.add_argument("--gpu", choices=GPUS, help="instead of the one that plan.gpu names")
    options = parser.parse_args()
    try:
        params = profiles.load(options.profile) if options.profile else config.load()
        if options.gpu:
            assumed = params.plan.model_copy(update={"gpu": options.gpu})
            params = params.model_copy(update={"plan": assumed})
        print(render(make_plan(params)))
    except (PlanError, config.ConfigError, profiles.ProfileError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
