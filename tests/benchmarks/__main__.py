"""``make bench``: the quick benchmarks. ``make bench ARGS="compare_two_dimensions <folder>"``: one by its name."""

import sys
from importlib import import_module
from pathlib import Path


def main(words: list[str]) -> None:
    if words:
        names = sorted(p.stem for p in Path(__file__).parent.glob("*_*.py") if p.stem.startswith(("bench", "compare")))
        if words[0] not in names:
            raise SystemExit(f"there is no benchmark called {words[0]}; there are {', '.join(names)}")
        import_module(f"tests.benchmarks.{words[0]}").main(words[1:])
        return
    for name, quick in (("bench_coupling", ["128", "256", "512"]), ("bench_step", ["--repeats", "7"])):
        import_module(f"tests.benchmarks.{name}").main(quick)


if __name__ == "__main__":
    main(sys.argv[1:])
