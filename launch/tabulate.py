"""A sweep as one table: the same as ``flowport tabulate``."""

from flowport.run.commands import command

if __name__ == "__main__":
    command("tabulate")
