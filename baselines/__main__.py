"""`python -m baselines` prints all hand-designed inits as Markdown."""

from hyperinit.inits.markdown import inits_markdown

if __name__ == "__main__":
    print(inits_markdown(), end="")
