"""`python -m reverie`: the command line, where its script cannot be used."""

from reverie.cli import app

app()
