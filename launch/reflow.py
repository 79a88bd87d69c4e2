"""Train a flow on its own pairs: the same as ``flowport reflow``."""

from flowport.run.commands import command

if __name__ == "__main__":
    command("reflow")
