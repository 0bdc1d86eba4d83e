"""One thread for all of training's tests: models are tiny, and threads would wait for each other most of the time."""

from support.threads import threads

one_thread = threads(1)
