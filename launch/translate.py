"""Translate points with a trained run: the same as ``flowport translate``."""

from flowport.run.commands import command

if __name__ == "__main__":
    command("translate")
