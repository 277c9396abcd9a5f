"""dlka schema"""

import argparse
import json
import sys

SUMMARY = "print the JSON Schema of configs, for editors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(options: argparse.Namespace) -> None:
    from dlka_med.config.loading import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
