"""The paper's recipe, as docs/paper.md gives it for the examples."""

import re
import shlex

from tests.examples.scripts import EXAMPLES

TEXT = (EXAMPLES.parent / "docs" / "paper.md").read_text("utf-8")


def test_the_command_is_one_of_the_examples(example_modules) -> None:
    (command,) = re.findall(r"^python examples/train_cifar\.py (.*?)^```", TEXT, re.M | re.S)
    parser = example_modules("train_cifar").build_parser()
    argv = shlex.split(command.replace("\\\n", " "))
    args = example_modules("trainer.settings").parse(parser, argv)
    papers = {"method": "evolutionary", "at": "stages", "grid": 1, "combine": "logits"}
    papers |= {"lambda_start": 0.25, "lambda_end": 0, "hold": 0, "finish": 1, "schedule": "linear"}
    papers |= {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.02, "batch_size": 128}
    papers |= {"epochs": 300, "decay": 0.5, "threshold": 1}
    assert {name: getattr(args, name) for name in papers} == papers
