"""Loss weights over the log-SNR: the same as ``flowport plot_weighting``."""

from flowport.run.commands import command

if __name__ == "__main__":
    command("plot_weighting")
