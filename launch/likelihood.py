"""Log-likelihood of held-out points: the same as ``flowport likelihood``."""

from flowport.run.commands import command

if __name__ == "__main__":
    command("likelihood")
