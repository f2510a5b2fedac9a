"""``aevb doctor``: examine a pair before it is trained."""

from jsonargparse import ArgumentParser, Namespace

from aevb.commands.words import add_data, add_recipe, checked_recipe, load_dataset, new_parser

HELP = "examine a model/guide pair before it is trained, and say the mend"


def parser() -> ArgumentParser:
    """The verb's words."""
    words = new_parser(
        "Build a pair and put it to the questions that find silent faults: does a datapoint's value depend on its "
        "batch, do the supports fit, are scales bounded, does every parameter get a gradient? For a pair of your own: "
        "aevb.inference.doctor(model, guide, x).",
        "Example: aevb doctor digits --latent-dim 2 --likelihood normal",
    )
    words.add_argument("--config", action="config", help="a YAML file of these options")
    add_data(words)
    add_recipe(words)
    words.add_argument("--seed", type=int, default=0, help="of parameters and draws")
    return words


def run(args: Namespace) -> int:
    """Examine; the exit status is 1 where there is an error among the findings."""
    import torch

    from aevb.build import build_pair, dress
    from aevb.findings import told
    from aevb.inference import doctor

    recipe = checked_recipe(args)
    data = dress(load_dataset(args), recipe)
    model, guide = build_pair(recipe, data, seed=args.seed)
    findings = doctor(model, guide, data.train[torch.arange(min(64, len(data.train)))], seed=args.seed)
    for finding in findings:
        print(told(finding))
    if not findings:
        print("nothing found")
    return int(any(finding.severity == "error" for finding in findings))
