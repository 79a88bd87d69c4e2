"""``python -m flowport <command>``."""

from flowport.run.commands import main

if __name__ == "__main__":
    main()
