"""Fine-tuning methods where the tilted law is known: the same as ``flowport arena``."""

from flowport.run.commands import command

if __name__ == "__main__":
    command("arena")
