"""``python -m rescaler COMMAND``, or ``rescaler COMMAND``."""

from rescaler.cli import main

if __name__ == "__main__":
    main()
