"""Measure a trained run again: the same as ``flowport evaluate``."""

from flowport.run.commands import command

if __name__ == "__main__":
    command("evaluate")
