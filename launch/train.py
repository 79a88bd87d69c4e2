"""Train a flow, resume one (run=<folder>), or sweep (-m sweep=<name>): the same as ``flowport train``."""

from flowport.run.commands import command

if __name__ == "__main__":
    command("train")
