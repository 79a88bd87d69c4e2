"""``python -m flowport.run <command>``: the command ``flowport`` without its script."""

from flowport.run.commands import main

if __name__ == "__main__":
    main()
