"""Fine-tune a trained flow with a reward: the same as ``flowport finetune``."""

from flowport.run.commands import command

if __name__ == "__main__":
    command("finetune")
