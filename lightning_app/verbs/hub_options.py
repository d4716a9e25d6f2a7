"""The options of the verb merge that send the model to the Hugging Face hub, and what they do."""

import argparse
from pathlib import Path

from lightning_app.verbs.verb_parser import Parser
from modules.checkpoints.base_model import is_hub_name
from modules.errors import UserError
from modules.on_disk.new_folder import refuse_taken


def add_hub_options(parser: Parser) -> None:
    """Add ``--push_to_hub`` and the option that goes with it."""
    add = parser.add_argument_group("sending the model to the Hugging Face hub").add_argument
    add("--push_to_hub", metavar="NAME", help="org/name there; the token is that of: hf auth login, or HF_TOKEN")
    add("--private", action=argparse.BooleanOptionalAction, help="make a new repository a private one")


def destination(options: argparse.Namespace) -> str | None:
    """Return the whole name that the model is to have on the hub; None: it is not sent there.

    Raises:
        UserError: something is in the way here already, or the hub would refuse it at the end.
    """
    from lightning_app.hub_upload import check_destination  # here: help waits for no torch

    if options.push_to_hub is not None:
        refuse_taken(options.out)
        if options.adapter_rank and not (options.base and is_hub_name(options.base)):
            raise UserError("--push_to_hub: an adapter needs its base on the hub; name it with --base org/name")
    return check_destination(options.push_to_hub, options.private)


def send(options: argparse.Namespace) -> None:
    """Send the merged model to the hub, where that is wanted.

    Raises:
        UserError: the hub did not take it.
    """
    if options.push_to_hub is None:
        return
    from lightning_app.hub_upload import push_to_hub

    place = push_to_hub(Path(options.out).expanduser(), options.push_to_hub, bool(options.private))
    print(f"the model on the hub: {place}")
