"""Two threads here, as on the smallest machine that shares out positions and images: kernels that do are looked at."""

from support.threads import threads

two_threads = threads(2)
